//! Whatever of a link can be read is the same when it is written and read again, is one line, and
//! carries the bytes that came.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use pi_remote::wire::HostPort;
use pi_remote::wire::link::{LinkMessage, MAX_ADDRESSES, MAX_ALIASES, MAX_NAME, MAX_VERSION, Outcome, SessionInfo};
use serde_json::value::RawValue;

fn is_part_of(whole: &Bytes, part: &Bytes) -> bool {
    whole.as_ptr_range().start <= part.as_ptr_range().start && part.as_ptr_range().end <= whole.as_ptr_range().end
}

fn is_cut(session: &SessionInfo) -> bool {
    let is_short = |name: &String| name.chars().count() <= MAX_NAME;
    session.aliases.len() <= MAX_ALIASES && session.aliases.iter().chain([&session.name]).all(is_short)
}

fn check_bounds(message: &LinkMessage) {
    match message {
        LinkMessage::Hello(hello) => {
            assert!(hello.version.chars().count() <= MAX_VERSION && hello.sessions.iter().all(is_cut));
        }
        LinkMessage::SessionAdded(session) | LinkMessage::SessionRenamed(session) => assert!(is_cut(session)),
        LinkMessage::Checked(checked) => {
            let is_address = |text: &str| text.parse::<HostPort>().is_ok();
            assert!(checked.results.len() <= MAX_ADDRESSES);
            assert!(checked.results.iter().all(|tried| is_address(&tried.address)), "no address is shown as one");
        }
        _ => {}
    }
}

fuzz_target!(|data: &[u8]| {
    let came = Bytes::copy_from_slice(data);
    let Ok(message) = LinkMessage::decode(&came) else { return };
    let payloads = match &message {
        LinkMessage::Rpc(rpc) => vec![&rpc.command],
        LinkMessage::RpcResponse { outcome: Outcome::Answer { response, event }, .. } => {
            std::iter::once(response).chain(event).collect()
        }
        _ => vec![],
    };
    for payload in payloads {
        assert!(is_part_of(&came, payload), "a payload was rebuilt");
        assert!(serde_json::from_slice::<&RawValue>(payload).is_ok(), "a payload is no JSON");
    }
    check_bounds(&message);
    let written = message.encode();
    assert!(serde_json::from_slice::<&RawValue>(&written).is_ok(), "written, it is no JSON");
    assert_eq!(LinkMessage::decode(&written).expect("what is written can be read"), message);
});

//! What is read of a control socket is what the line says, and every line gets one line of JSON for
//! an answer, with its own `id`.
//!
//! The input: what a client writes.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use pi_remote::wire::lines::LineDecoder;
use pi_remote::wire::request::Request;
use serde_json::Value;
use serde_json::value::RawValue;

fn check(line: &Bytes) {
    let (reply, request) = Request::read(line);
    let answer = match &request {
        Ok(_) => reply.success(b"{}"),
        Err(failure) => reply.failure(failure),
    };
    let json = answer.strip_suffix(b"\n").expect("an answer ends its line");
    assert!(!json.contains(&b'\n'), "an answer of two lines");
    assert!(serde_json::from_slice::<&RawValue>(json).is_ok(), "an answer that is no JSON");
    let text = str::from_utf8(line).map(str::trim).unwrap_or_default();
    assert!(request.is_err() || serde_json::from_str::<&RawValue>(text).is_ok(), "done, though it is no JSON");
    if let Ok(Request::Relay(relay)) = &request {
        for part in [Some(&relay.command), relay.request_id.as_ref()].into_iter().flatten() {
            assert!(serde_json::from_slice::<&RawValue>(part).is_ok(), "carried as it came, a part is no JSON");
        }
    }
    // What a `Value` cannot hold (a lone surrogate, 1e999, deep nesting) has been checked so far.
    let (Ok(said), Ok(answer)) = (serde_json::from_str::<Value>(text), serde_json::from_slice::<Value>(json)) else {
        return;
    };
    assert_eq!(answer["success"], request.is_ok());
    let request = match request {
        Ok(request) => request,
        Err(failure) => return assert_ne!(failure.message, "Invalid JSON", "it is JSON"),
    };
    assert_eq!((&answer["command"], reply.command.as_deref()), (&said["type"], said["type"].as_str()));
    assert_eq!(answer.get("id"), said.get("id").filter(|id| id.is_string()), "the answer to another request");
    if let Request::Relay(relay) = request {
        let part = |part: &Bytes| serde_json::from_slice::<Value>(part).ok();
        assert_eq!(part(&relay.command).as_ref(), said.get("rpcCommand"), "another command");
        assert_eq!(relay.request_id.as_ref().and_then(part).as_ref(), said.get("requestId"));
        assert_eq!(relay.fire_and_forget, said["fireAndForget"] == true);
        if let Some(target) = said["targetSessionId"].as_str() {
            assert_eq!(relay.target, target, "another session");
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let mut decoder = LineDecoder::new(data.len());
    decoder.buffer().extend_from_slice(data);
    decoder.buffer().extend_from_slice(b"\n");
    while let Some(line) = decoder.next_line().expect("no line is longer than all") {
        check(&line);
    }
});

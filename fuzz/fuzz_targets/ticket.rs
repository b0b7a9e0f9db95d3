//! A ticket that can be read is written as it was, white space aside, and is known for one wherever
//! it is met; nothing else is a ticket.
//!
//! The input: a text, and the same bytes as the content of a ticket, whose checksum is added.
#![no_main]

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;
use pi_remote::pairing::ticket::{MAX_ADDRESSES, is_host_port};
use pi_remote::pairing::{Ticket, looks_like_ticket};
use sha2::{Digest, Sha256};

fn check(text: &str) {
    let Ok(ticket) = text.parse::<Ticket>() else { return };
    let packed: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    assert_eq!(*ticket.encode(), packed, "two ways of writing one ticket");
    assert!(looks_like_ticket(text), "it would be resolved as a host");
    assert!(looks_like_ticket(&format!("{text}:7433")), "it would be resolved as a host");
    assert!(ticket.addresses().len() <= MAX_ADDRESSES && ticket.addresses().iter().all(|a| is_host_port(a)));
    for at in [packed.len() / 2, packed.len() - 1] {
        let cut = &packed[..at];
        assert!(cut.parse::<Ticket>().is_err(), "half a ticket is one");
    }
}

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = str::from_utf8(data) {
        check(text);
    }
    let sum = &Sha256::digest(data)[..4];
    check(&format!("pir1{}", URL_SAFE_NO_PAD.encode([data, sum].concat())));
});

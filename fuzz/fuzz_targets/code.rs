//! A code that can be read is shown so that it is read alike, and its check symbol catches every
//! wrong symbol and every two that changed places, but for 0 and Z, the one pair it cannot tell.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pi_remote::pairing::PairingCode;

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

fn is_code(symbols: &[u8]) -> bool {
    str::from_utf8(symbols).is_ok_and(|text| text.parse::<PairingCode>().is_ok())
}

fn check(code: &PairingCode) {
    let shown = code.shown();
    let again: PairingCode = shown.parse().expect("what is shown can be read");
    assert_eq!(again.shown(), shown, "another code is read than is shown");
    assert_eq!(shown.to_lowercase().parse::<PairingCode>().map(|code| code.shown()), Ok(shown.clone()));
    let symbols: Vec<u8> = shown.bytes().filter(|symbol| *symbol != b'-').collect();
    assert!(symbols.len() == 8 && symbols.iter().all(|symbol| ALPHABET.contains(symbol)), "{}", *shown);
    for at in 0..symbols.len() {
        let mut slip = symbols.clone();
        for wrong in ALPHABET.iter().filter(|wrong| **wrong != symbols[at]) {
            slip[at] = *wrong;
            assert!(!is_code(&slip), "{} is read, {} too", *shown, String::from_utf8_lossy(&slip));
        }
    }
    for at in 0..symbols.len() - 1 {
        let mut slip = symbols.clone();
        slip.swap(at, at + 1);
        let unseen = slip == symbols || matches!(symbols[at..=at + 1], [b'0', b'Z'] | [b'Z', b'0']);
        assert_eq!(is_code(&slip), unseen, "{} and {}", *shown, String::from_utf8_lossy(&slip));
    }
}

fuzz_target!(|data: &[u8]| {
    if let Some(bytes) = data.first_chunk::<5>() {
        check(&PairingCode::from_random(bytes));
    }
    let Ok(text) = str::from_utf8(data) else { return };
    let Ok(code) = text.parse::<PairingCode>() else { return };
    check(&code);
    // What was typed is the code, as a person would copy it from the screen.
    let plain = |c: char| match c.to_ascii_uppercase() {
        'O' => '0',
        'I' | 'L' => '1',
        other => other,
    };
    let typed: String = text.chars().filter(|c| *c != '-' && !c.is_whitespace()).map(plain).collect();
    assert_eq!(code.shown().replace('-', ""), typed, "another code is read than was typed");
});

//! The short code: seven random symbols and one that catches a slip of the finger.

use std::fmt;
use std::str::FromStr;

use zeroize::Zeroizing;

use crate::wire::{Code, Failure};

/// Crockford's base32: digits and letters without I, L, O and U, each worth its place.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// Symbols of the secret, without the check symbol.
const SYMBOLS: usize = 7;
/// Symbols as shown and typed.
const SHOWN: usize = SYMBOLS + 1;
/// Shown in groups of so many.
const GROUP: usize = 4;

/// A pairing code: 35 random bits. Never shown but on purpose, zeroised when dropped, and without a
/// comparison of its own: it is only ever proven.
#[derive(Clone)]
pub struct PairingCode(Zeroizing<[u8; SYMBOLS]>);

impl PairingCode {
    /// The code made of the last 35 of these 40 bits, which must come from the system's randomness:
    /// 32 symbols, so none is more likely than another.
    pub fn from_random(bytes: &[u8; 5]) -> Self {
        let [a, b, c, d, e] = *bytes;
        let bits = Zeroizing::new(u64::from_be_bytes([0, 0, 0, a, b, c, d, e]));
        let mut code = Self(Zeroizing::new([0; SYMBOLS]));
        for (place, symbol) in code.0.iter_mut().rev().enumerate() {
            *symbol = symbol_of((*bits >> (5 * place)) as u8);
        }
        code
    }

    /// The code as it is read out and typed: two groups of four, the check symbol last.
    pub fn shown(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(SHOWN + 1));
        for (at, symbol) in self.0.iter().chain([&check_symbol(&self.0)]).enumerate() {
            if at == GROUP {
                text.push('-');
            }
            text.push(char::from(*symbol));
        }
        text
    }

    /// The password of the exchange: the symbols in upper case, without the check symbol.
    pub(super) fn password(&self) -> &[u8; SYMBOLS] {
        &self.0
    }
}

impl FromStr for PairingCode {
    type Err = CodeError;

    /// Reads a typed code: in any case, dashes and white space passed over, O as 0, I and L as 1.
    fn from_str(text: &str) -> Result<Self, CodeError> {
        let mut code = Self(Zeroizing::new([0; SYMBOLS]));
        let mut check = 0;
        let mut count = 0;
        for c in text.chars().filter(|c| *c != '-' && !c.is_whitespace()) {
            let symbol = folded(c).ok_or(CodeError::Symbol)?;
            match code.0.get_mut(count) {
                Some(place) => *place = symbol,
                None => check = symbol,
            }
            count += 1;
        }
        if count != SHOWN {
            return Err(CodeError::Length(count));
        }
        if check != check_symbol(&code.0) {
            return Err(CodeError::Slip);
        }
        Ok(code)
    }
}

impl fmt::Debug for PairingCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PairingCode(..)")
    }
}

/// Why a text is no code. The words never hold a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// So many symbols were read.
    #[error("a code has {SHOWN} symbols, and this one has {0}")]
    Length(usize),
    /// Not of the alphabet, folded or not.
    #[error("a character that is in no code: codes have digits and letters only, and no U")]
    Symbol,
    /// The check symbol belongs to another code.
    #[error("a slip of the finger: the check symbol does not fit")]
    Slip,
}

impl From<CodeError> for Failure {
    fn from(error: CodeError) -> Self {
        Self::new(Code::Usage, error.to_string()).hint(
            "nothing was sent and no attempt spent: type the code again as `pi-remote pair` shows it on the other machine",
        )
    }
}

/// The symbol that stands for `c`.
fn folded(c: char) -> Option<u8> {
    let symbol = match u8::try_from(c).ok()?.to_ascii_uppercase() {
        b'O' => b'0',
        b'I' | b'L' => b'1',
        other => other,
    };
    ALPHABET.contains(&symbol).then_some(symbol)
}

/// Luhn's sum modulo 32: every second symbol counts twice, the last of them among these.
fn check_symbol(symbols: &[u8; SYMBOLS]) -> u8 {
    let sum: u8 = symbols
        .iter()
        .rev()
        .zip([2, 1].iter().cycle())
        .map(|(symbol, factor)| value_of(*symbol) * factor)
        .map(|product| product / 32 + product % 32)
        .sum();
    symbol_of(32 - sum % 32)
}

/// What a symbol of the alphabet is worth.
fn value_of(symbol: u8) -> u8 {
    ALPHABET.iter().zip(0..).find_map(|(known, value)| (*known == symbol).then_some(value)).unwrap_or_default()
}

/// The symbol worth the last five bits of `value`.
fn symbol_of(value: u8) -> u8 {
    ALPHABET[usize::from(value % 32)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pairing::vectors;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<PairingCode, CodeError> {
        text.parse()
    }

    fn right() -> Vec<&'static str> {
        vectors::all("code_right")
    }

    /// Each of the places of a code as shown that hold a symbol.
    fn places() -> impl Iterator<Item = usize> {
        (0..9).filter(|at| *at != GROUP)
    }

    #[test]
    fn the_check_symbol_is_the_published_one() {
        assert!(right().len() >= 8);
        for text in right() {
            assert_eq!(*read(text).unwrap().shown(), text);
        }
        let code = read("K7MQ-2XVT").unwrap();
        assert_eq!(str::from_utf8(code.password()).unwrap(), vectors::text("code"));
    }

    #[test]
    fn a_code_is_read_in_any_case_with_any_dashes_and_white_space() {
        for text in
            ["K7MQ-2XVT", "k7mq2xvt", " K 7 m q-2 x v t\n", "--K7-MQ--2XVT-", "k7mq\t2xvt\r\n", "K7MQ\u{a0}2XVT"]
        {
            assert_eq!(*read(text).unwrap().shown(), "K7MQ-2XVT", "{text:?}");
        }
        for text in ["0000-001Y", "OOOO-OOIY", "oooo-ooly", "OOoo-0oLy", "0o0o-0OiY"] {
            assert_eq!(*read(text).unwrap().shown(), "0000-001Y", "{text:?}");
        }
    }

    #[test]
    fn what_is_no_code_says_why_and_is_not_echoed() {
        let cases = [
            ("", CodeError::Length(0)),
            (" -\n", CodeError::Length(0)),
            ("K7MQ-2XV", CodeError::Length(7)),
            ("K7MQ-2XVT-T", CodeError::Length(9)),
            (&"0".repeat(10_000), CodeError::Length(10_000)),
            ("K7MQ-2XVU", CodeError::Symbol),
            ("K7MQ\u{2013}2XVT", CodeError::Symbol),
            ("\u{feff}K7MQ-2XVT", CodeError::Symbol),
            ("\u{212a}7MQ-2XVT", CodeError::Symbol),
            ("K7MQ-2XV\u{ff34}", CodeError::Symbol),
            ("K7MQ-2XV\0", CodeError::Symbol),
            ("K7MQ-2XV\u{d4}", CodeError::Symbol),
            ("desktop.local", CodeError::Symbol),
            ("K7MQ-2XVS", CodeError::Slip),
            ("7KMQ-2XVT", CodeError::Slip),
        ];
        for (text, expected) in cases {
            assert_eq!(read(text).unwrap_err(), expected, "{text:?}");
            let failure = Failure::from(expected);
            assert_eq!(failure.code, Code::Usage);
            assert!(failure.hint.is_some());
            assert!(text.len() < 2 || !failure.message.contains(text));
        }
        let words = |error: CodeError| error.to_string();
        assert_eq!(words(CodeError::Length(7)), "a code has 8 symbols, and this one has 7");
        assert_eq!(
            words(CodeError::Symbol),
            "a character that is in no code: codes have digits and letters only, and no U"
        );
        assert_eq!(words(CodeError::Slip), "a slip of the finger: the check symbol does not fit");
    }

    #[test]
    fn a_code_is_never_shown_unasked() {
        assert_eq!(format!("{:?}", read("K7MQ-2XVT").unwrap()), "PairingCode(..)");
    }

    #[test]
    fn two_neighbours_swapped_are_a_slip_but_for_zero_and_z() {
        for text in right() {
            for (at, next) in places().zip(places().skip(1)) {
                for (a, b) in
                    ALPHABET.iter().flat_map(|a| ALPHABET.iter().map(move |b| (*a, *b))).filter(|(a, b)| a < b)
                {
                    // Some code that holds this pair here, and then the same one with the pair swapped.
                    let mut symbols = text.as_bytes().to_vec();
                    (symbols[at], symbols[next]) = (a, b);
                    let free = if at == 0 { 2 } else { 0 };
                    let code = ALPHABET.iter().find_map(|symbol| {
                        symbols[free] = *symbol;
                        let code = String::from_utf8(symbols.clone()).unwrap();
                        read(&code).is_ok().then_some(code)
                    });
                    let mut swapped = code.unwrap().into_bytes();
                    swapped.swap(at, next);
                    let swapped = String::from_utf8(swapped).unwrap();
                    let passes = (a, b) == (b'0', b'Z');
                    assert_eq!(read(&swapped).is_ok(), passes, "{swapped}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn each_35_bits_make_a_code_of_their_own(bytes in any::<[u8; 5]>()) {
            let bits = bytes.iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte)) % (1 << 35);
            let code = PairingCode::from_random(&bytes);
            let number = code.password().iter().fold(0, |number, symbol| number << 5 | u64::from(value_of(*symbol)));
            prop_assert_eq!(number, bits);
            let typed = read(&code.shown()).unwrap();
            prop_assert_eq!(typed.password(), code.password());
        }

        #[test]
        fn one_wrong_symbol_is_always_a_slip(bytes in any::<[u8; 5]>()) {
            let shown = PairingCode::from_random(&bytes).shown();
            for at in places() {
                for other in ALPHABET.iter().filter(|other| **other != shown.as_bytes()[at]) {
                    let mut mistyped = shown.as_bytes().to_vec();
                    mistyped[at] = *other;
                    prop_assert_eq!(read(str::from_utf8(&mistyped).unwrap()).unwrap_err(), CodeError::Slip);
                }
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in any::<String>(), near in "[0-9A-Za-z \\-]{0,12}") {
            let _ = (read(&text), read(&near));
        }
    }
}

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
        let bits = Zeroizing::new(bytes.iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte)));
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
    #[error("a code has {SHOWN} symbols, and {0} were typed")]
    Length(usize),
    /// Not of the alphabet, folded or not.
    #[error("one of the symbols is in no code: codes have digits and letters, but no U")]
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
        .fold(0, |sum, digit| (sum + digit) % 32);
    symbol_of((32 - sum) % 32)
}

/// What a symbol of the alphabet is worth.
fn value_of(symbol: u8) -> u8 {
    ALPHABET.iter().zip(0..).find_map(|(known, value)| (*known == symbol).then_some(value)).unwrap_or_default()
}

/// The symbol worth the last five bits of `value`.
fn symbol_of(value: u8) -> u8 {
    ALPHABET[usize::from(value % 32)]
}

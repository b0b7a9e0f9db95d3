//! Values that a script which knows nothing of this program has computed.

/// The script beside it prints this file.
const FILE: &str = include_str!("../../tests/vectors/pairing.txt");

/// All values of this name, as text.
pub(super) fn all(name: &str) -> Vec<&'static str> {
    let values: Vec<_> = FILE.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).collect();
    assert!(!values.is_empty(), "no {name}");
    values
}

/// The one value of this name, as text.
pub(super) fn text(name: &str) -> &'static str {
    let values = all(name);
    assert_eq!(values.len(), 1, "{name}");
    values[0]
}

/// The bytes that this value is the hex of.
pub(super) fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// The one value of this name, as bytes.
pub(super) fn value<const N: usize>(name: &str) -> [u8; N] {
    bytes(text(name)).try_into().unwrap()
}

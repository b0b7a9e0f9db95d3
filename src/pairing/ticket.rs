//! The ticket: one line of text with the offerer's fingerprint, where it can be reached, and the
//! secret that proves who was given it.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::identity::Fingerprint;
use crate::wire::host_port::MAX_HOST_PORT;
use crate::wire::{Code, Failure, HostPort};

/// What a ticket starts with.
const PREFIX: &str = "pir1";
/// First byte of the layout behind the prefix.
const LAYOUT: u8 = 1;
/// Layout, fingerprint and secret.
const HEAD: usize = 1 + 32 + Secret::LEN;
/// First bytes of SHA-256 over everything before them.
const CHECKSUM: usize = 4;
/// Most addresses in a ticket.
pub const MAX_ADDRESSES: usize = 8;
/// Longest address in a ticket, in bytes.
pub const MAX_ADDRESS: usize = MAX_HOST_PORT;
/// Longest ticket, in characters without white space.
const MAX_TEXT: usize = PREFIX.len() + (HEAD + 1 + MAX_ADDRESSES * (1 + MAX_ADDRESS) + CHECKSUM).div_ceil(3) * 4;

/// What an offerer prints and a joiner pastes. Whoever has it can pair while its window is open.
#[derive(Debug)]
pub struct Ticket {
    offerer: Fingerprint,
    secret: Secret,
    addresses: Vec<String>,
}

impl Ticket {
    /// A ticket for the device `offerer`, reachable at `addresses` (each `host:port`, IPv6 in
    /// brackets), in the order in which they should be tried. There may be none.
    ///
    /// # Errors
    /// [`TicketError::TooManyAddresses`] and [`TicketError::Address`].
    pub fn new(offerer: Fingerprint, secret: Secret, addresses: Vec<String>) -> Result<Self, TicketError> {
        if addresses.len() > MAX_ADDRESSES {
            return Err(TicketError::TooManyAddresses);
        }
        if !addresses.iter().all(|address| is_host_port(address)) {
            return Err(TicketError::Address);
        }
        Ok(Self { offerer, secret, addresses })
    }

    /// The device that offers: the only key that may answer.
    pub fn offerer(&self) -> Fingerprint {
        self.offerer
    }

    /// What proves that the joiner was given this ticket.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// Where the offerer can be reached, each `host:port`.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// The ticket as text, without white space.
    pub fn encode(&self) -> Zeroizing<String> {
        let bytes = self.to_bytes();
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + bytes.len().div_ceil(3) * 4));
        text.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(bytes.as_slice(), &mut text);
        text
    }

    /// What the text stands for. All the room is taken beforehand: a buffer that moves leaves a copy of
    /// the secret behind.
    fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let size = HEAD + 1 + self.addresses.iter().map(|a| 1 + a.len()).sum::<usize>() + CHECKSUM;
        let mut bytes = Zeroizing::new(Vec::with_capacity(size));
        bytes.push(LAYOUT);
        bytes.extend_from_slice(self.offerer.as_bytes());
        bytes.extend_from_slice(self.secret.as_bytes());
        // Both numbers fit a byte: `new` saw to it.
        bytes.push(self.addresses.len() as u8);
        for address in &self.addresses {
            bytes.push(address.len() as u8);
            bytes.extend_from_slice(address.as_bytes());
        }
        let sum = checksum(&bytes);
        bytes.extend_from_slice(&sum);
        bytes
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    /// Reads a pasted ticket. White space anywhere, line wraps included, is passed over; all else
    /// must be exactly as [`Ticket::encode`] wrote it.
    fn from_str(text: &str) -> Result<Self, TicketError> {
        let mut packed = Zeroizing::new(String::with_capacity(text.len().min(MAX_TEXT)));
        for c in text.chars().filter(|c| !c.is_whitespace()) {
            // Checked before each push, so that the buffer never moves and leaves a copy behind.
            if packed.len() + c.len_utf8() > MAX_TEXT {
                return Err(if packed.starts_with(PREFIX) { TicketError::TooLong } else { TicketError::NotATicket });
            }
            packed.push(c);
        }
        let body = packed.strip_prefix(PREFIX).ok_or(TicketError::NotATicket)?;
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(body).map_err(|_| TicketError::Encoding)?);
        let (content, sum) = bytes.split_last_chunk::<CHECKSUM>().ok_or(TicketError::TooShort)?;
        if content.len() <= HEAD {
            return Err(TicketError::TooShort);
        }
        if checksum(content) != *sum {
            return Err(TicketError::Checksum);
        }
        let mut rest = Reader(content);
        if rest.byte()? != LAYOUT {
            return Err(TicketError::Layout);
        }
        let offerer = Fingerprint::from_bytes(*rest.array::<32>()?);
        let secret = Secret::from_bytes(rest.array::<{ Secret::LEN }>()?);
        let count = usize::from(rest.byte()?);
        if count > MAX_ADDRESSES {
            return Err(TicketError::TooManyAddresses);
        }
        let mut addresses = Vec::with_capacity(count);
        for _ in 0..count {
            let length = usize::from(rest.byte()?);
            let address = str::from_utf8(rest.take(length)?).map_err(|_| TicketError::Address)?;
            addresses.push(address.to_owned());
        }
        if !rest.0.is_empty() {
            return Err(TicketError::Trailing);
        }
        Self::new(offerer, secret, addresses)
    }
}

/// Whether `text` holds a ticket or enough of one to give part of its secret away, so that it must
/// be neither resolved as a host nor shown. Damaged and cut ones are met as well.
pub fn looks_like_ticket(text: &str) -> bool {
    // The secret starts at the 44th character behind the prefix; no host has a label this long
    // that starts so, except on purpose.
    const ENOUGH: usize = 32;
    let mut packed = Zeroizing::new(String::with_capacity(text.len()));
    packed.extend(text.chars().filter(|c| !c.is_whitespace()));
    let bytes = packed.as_bytes();
    let is_body = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    bytes.windows(PREFIX.len()).enumerate().any(|(at, window)| {
        window.eq_ignore_ascii_case(PREFIX.as_bytes())
            && bytes.iter().skip(at + PREFIX.len()).take(ENOUGH).filter(|b| is_body(b)).count() == ENOUGH
    })
}

/// The secret of a ticket. Never shown, zeroised when dropped, and without a comparison of its own:
/// it is only ever proven.
pub struct Secret(Zeroizing<[u8; Self::LEN]>);

impl Secret {
    /// Its length in bytes.
    pub const LEN: usize = 16;

    /// A new secret, filled in place by `fill` from the system's randomness.
    ///
    /// # Errors
    /// Those of `fill`.
    pub fn generate<E>(fill: impl FnOnce(&mut [u8]) -> Result<(), E>) -> Result<Self, E> {
        let mut secret = Self(Zeroizing::new([0; Self::LEN]));
        fill(secret.0.as_mut_slice())?;
        Ok(secret)
    }

    /// The secret with these bytes.
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        Self(Zeroizing::new(*bytes))
    }

    /// The bytes, for the ticket's text and the proof alone.
    pub(super) fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Why a text is no ticket. The words never hold a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// It does not start like one.
    #[error("this is not a ticket: a ticket starts with pir1")]
    NotATicket,
    /// Longer than any ticket.
    #[error("this is longer than any ticket")]
    TooLong,
    /// Shorter than any ticket.
    #[error("the ticket is cut short")]
    TooShort,
    /// Not base64url, or not the one way of writing these bytes.
    #[error("the ticket has characters that do not belong in it, or is cut short")]
    Encoding,
    /// Typed or copied wrong.
    #[error("the ticket is damaged: its checksum does not fit")]
    Checksum,
    /// Made by a version that writes tickets otherwise.
    #[error("the ticket has a layout that this version does not know")]
    Layout,
    /// The announced number or length of addresses goes past its end.
    #[error("the ticket names more addresses than it holds")]
    Count,
    /// Bytes behind the last address.
    #[error("the ticket holds more than it names")]
    Trailing,
    /// More than eight addresses.
    #[error("a ticket holds at most {MAX_ADDRESSES} addresses")]
    TooManyAddresses,
    /// Not `host:port`.
    #[error("an address in the ticket is not host:port")]
    Address,
}

impl From<TicketError> for Failure {
    fn from(error: TicketError) -> Self {
        let failure = Failure::new(Code::InvalidRequest, error.to_string());
        if error == TicketError::Layout {
            return failure.hint("run the same version of pi-remote on both machines");
        }
        failure.hint("copy the whole ticket that `pi-remote pair --ticket` printed, or make a new one")
    }
}

/// Whether `text` is `host:port` as [`HostPort`] reads it.
pub fn is_host_port(text: &str) -> bool {
    text.parse::<HostPort>().is_ok()
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM] {
    let [a, b, c, d, ..] = <[u8; 32]>::from(Sha256::digest(bytes));
    [a, b, c, d]
}

/// Takes a ticket's content apart from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], TicketError> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(TicketError::Count)?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], TicketError> {
        let (head, rest) = self.0.split_first_chunk().ok_or(TicketError::Count)?;
        self.0 = rest;
        Ok(head)
    }

    fn byte(&mut self) -> Result<u8, TicketError> {
        self.array::<1>().map(|[byte]| *byte)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use proptest::prelude::*;

    fn ticket(addresses: &[&str]) -> Ticket {
        let addresses = addresses.iter().map(|a| (*a).to_owned()).collect();
        Ticket::new(Fingerprint::from_bytes([0xf1; 32]), Secret::from_bytes(&[0x5e; 16]), addresses).unwrap()
    }

    /// The text of a ticket whose content, up to the checksum, is `content`.
    fn sealed(content: &[u8]) -> String {
        let mut bytes = content.to_vec();
        bytes.extend_from_slice(&checksum(content));
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    fn content(addresses: &[&[u8]], count: u8) -> Vec<u8> {
        let mut bytes = [&[LAYOUT][..], &[0xf1; 32], &[0x5e; 16], &[count]].concat();
        for address in addresses {
            bytes.push(address.len() as u8);
            bytes.extend_from_slice(address);
        }
        bytes
    }

    fn error(text: &str) -> TicketError {
        text.parse::<Ticket>().unwrap_err()
    }

    fn same(a: &Ticket, b: &Ticket) -> bool {
        a.offerer() == b.offerer() && a.secret().as_bytes() == b.secret().as_bytes() && a.addresses() == b.addresses()
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        // From another program: Python's hashlib and base64.
        let text = ticket(&["192.0.2.1:7433", "h:1"]).encode();
        assert_eq!(
            *text,
            "pir1AfHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHx8fHxXl5eXl5eXl5eXl5eXl5eXgIOMTkyLjAuMi4xOjc0MzMDaDox9S_R8w"
        );
        assert_eq!(ticket(&[]).encode().len(), 4 + 72);
    }

    #[test]
    fn the_buffers_of_a_ticket_never_move() {
        let longest = format!("{}a:1", "a.".repeat(126));
        for ticket in [ticket(&[]), ticket(&["h:1"]), ticket(&["ab:12", "h:1"]), ticket(&[&*longest; MAX_ADDRESSES])] {
            let (bytes, text) = (ticket.to_bytes(), ticket.encode());
            assert_eq!(bytes.capacity(), bytes.len());
            assert_eq!(text.capacity(), 4 + bytes.len().div_ceil(3) * 4);
            assert!(same(&text.parse().unwrap(), &ticket));
        }
    }

    #[test]
    fn what_no_ticket_is_as_long_as_is_not_read_to_its_end() {
        assert_ne!(error(&format!("pir1{}", "A".repeat(2804))), TicketError::TooLong);
        assert_eq!(error(&format!("pir1{}", "A".repeat(2805))), TicketError::TooLong);
    }

    #[test]
    fn white_space_and_line_wraps_are_passed_over() {
        let ticket = ticket(&["[2001:db8::1]:7433", "desk.example.com:65535"]);
        assert_eq!(ticket.addresses(), ["[2001:db8::1]:7433", "desk.example.com:65535"]);
        let text = ticket.encode();
        let wrapped: String = text.chars().flat_map(|c| [c, '\n', ' ', '\t', '\r']).collect();
        for pasted in [format!("\r\n  {}\n\n", *text), wrapped] {
            assert!(same(&pasted.parse().unwrap(), &ticket));
        }
    }

    #[test]
    fn each_fault_has_its_own_error() {
        let good = ticket(&["h:1"]).encode();
        assert_eq!(error(""), TicketError::NotATicket);
        assert_eq!(error("PIR1AA"), TicketError::NotATicket);
        assert_eq!(error(&"x".repeat(100_000)), TicketError::NotATicket);
        assert_eq!(error(&format!("pir1{}", "A".repeat(100_000))), TicketError::TooLong);
        assert_eq!(error("pir1"), TicketError::TooShort);
        assert_eq!(error("pir1AQAAAAAA"), TicketError::TooShort);
        assert_eq!(error(&sealed(&content(&[], 0)[..49])), TicketError::TooShort, "no count");
        assert_eq!(error(&good.replace('A', "+")), TicketError::Encoding);
        assert_eq!(error(&format!("{}==", *good)), TicketError::Encoding);
        assert_eq!(error(&good[..good.len() - 4]), TicketError::Encoding, "cut within a byte");
        let even = ticket(&["ab:12"]).encode();
        assert_eq!(error(&even[..even.len() - 4]), TicketError::Checksum);
        assert_eq!(error(&format!("{}AAAA", *even)), TicketError::Checksum);
        assert_eq!(error(&sealed(&[&[2][..], &content(&[], 0)[1..]].concat())), TicketError::Layout);
        assert_eq!(error(&sealed(&content(&[b"h:1"], 2))), TicketError::Count);
        assert_eq!(error(&sealed(&content(&[b"h:1", b"i:1"], 1))), TicketError::Trailing);
        assert_eq!(error(&sealed(&[&content(&[b"h:1"], 1)[..], &[0]].concat())), TicketError::Trailing);
        assert_eq!(error(&sealed(&content(&[&b"h:1"[..]; 9], 9))), TicketError::TooManyAddresses);
        assert_eq!(error(&sealed(&content(&[b"\xff:1"], 1))), TicketError::Address);
        assert_eq!(error(&sealed(&content(&[b""], 1))), TicketError::Address);
        assert_eq!(error(&sealed(&content(&[b"nowhere"], 1))), TicketError::Address);
    }

    #[test]
    fn bits_that_no_byte_needs_must_be_zero() {
        let text = sealed(&content(&[b"host:1"], 1));
        let spare = (text.len() - PREFIX.len()) % 4;
        assert_ne!(spare, 0);
        let last = text.chars().last().unwrap();
        let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        for other in alphabet.chars().filter(|c| *c != last) {
            assert!(format!("{}{other}", &text[..text.len() - 1]).parse::<Ticket>().is_err());
        }
        let next = alphabet.chars().nth(alphabet.find(last).unwrap() + 1).unwrap();
        assert_eq!(error(&format!("{}{next}", &text[..text.len() - 1])), TicketError::Encoding);
    }

    #[test]
    fn the_secret_is_never_shown() {
        let secret: Vec<u8> = (0..16).map(|n| n * 15 + 1).collect();
        let secret = Secret::generate(|out| {
            out.copy_from_slice(&secret);
            Ok::<(), ()>(())
        })
        .unwrap();
        let ticket = Ticket::new(Fingerprint::from_bytes([0; 32]), secret, vec!["h:1".into()]).unwrap();
        assert!(format!("{ticket:?}").contains("Secret(..)"));
        assert!(!format!("{ticket:?}").contains("31, 46"));
        let text = ticket.encode();
        for at in PREFIX.len()..text.len() {
            let mut bytes = text.as_bytes().to_vec();
            bytes[at] = b'~';
            let failure = Failure::from(error(str::from_utf8(&bytes).unwrap()));
            let shown = format!("{failure} {:?} {:?}", failure, failure.hint);
            assert!(!text[PREFIX.len()..].as_bytes().windows(6).any(|w| shown.contains(str::from_utf8(w).unwrap())));
        }
        assert!(Secret::generate(|_| Err(())).is_err());
    }

    #[test]
    fn whatever_may_hold_a_secret_looks_like_a_ticket() {
        let text = ticket(&["h:1"]).encode();
        for like in [
            text.to_string(),
            format!(" \n{}", &text[..40]),
            text[..48].to_string(),
            text.to_uppercase(),
            format!("{}:7433", *text),
            format!("Ticket={}", *text),
            text.chars().flat_map(|c| [c, '\n']).collect(),
        ] {
            assert!(looks_like_ticket(&like), "{like}");
        }
        for other in ["", "pir1", "pir1.example.com", "pir1-laptop", "K7MQ-2XVT", "192.0.2.1:7433", "pir1:7433"] {
            assert!(!looks_like_ticket(other), "{other}");
        }
    }

    #[test]
    fn what_gives_nothing_of_a_secret_away_does_not_look_like_a_ticket_wherever_it_is() {
        for before in ["", "x", &"x ".repeat(40)] {
            assert!(looks_like_ticket(&format!("{before}pir1{}", "A".repeat(32))));
            assert!(!looks_like_ticket(&format!("{before}pir1{}", "A".repeat(31))));
        }
    }

    #[test]
    fn the_hint_is_another_version_for_another_layout_and_another_copy_for_all_else() {
        let hint = |error| Failure::from(error).hint.unwrap();
        assert!(hint(TicketError::Layout).contains("the same version"));
        for error in [TicketError::TooShort, TicketError::Checksum, TicketError::Count] {
            assert!(hint(error).contains("copy the whole ticket"));
        }
    }

    fn addresses() -> impl Strategy<Value = Vec<String>> {
        let host = prop_oneof![
            "[a-z]([a-z0-9-]{0,20}[a-z0-9])?(\\.[a-z]{1,10}){0,3}",
            any::<Ipv4Addr>().prop_map(|ip| ip.to_string()),
            any::<Ipv6Addr>().prop_map(|ip| format!("[{ip}]")),
        ];
        prop::collection::vec((host, 1u16..).prop_map(|(host, port)| format!("{host}:{port}")), 0..=MAX_ADDRESSES)
    }

    proptest! {
        #[test]
        fn a_ticket_comes_back_as_it_was(pin in any::<[u8; 32]>(), secret in any::<[u8; 16]>(), addresses in addresses()) {
            let ticket = Ticket::new(Fingerprint::from_bytes(pin), Secret::from_bytes(&secret), addresses).unwrap();
            let text = ticket.encode();
            prop_assert!(looks_like_ticket(&text));
            let read: Ticket = text.parse().unwrap();
            prop_assert!(same(&read, &ticket));
            prop_assert_eq!(read.encode(), text);
        }

        #[test]
        fn one_changed_character_is_always_noticed(at in 0usize..96, to in "[A-Za-z0-9_-]") {
            let text = ticket(&["192.0.2.1:7433"]).encode();
            let at = at % text.len();
            let changed = format!("{}{to}{}", &text[..at], &text[at + 1..]);
            prop_assert_eq!(changed.parse::<Ticket>().is_ok(), changed == *text);
        }

        #[test]
        fn no_text_makes_it_panic(text in any::<String>(), body in "pir1[A-Za-z0-9_-]{0,3000}") {
            let _ = (looks_like_ticket(&text), looks_like_ticket(&body), text.parse::<Ticket>(), body.parse::<Ticket>());
        }

        #[test]
        fn what_is_accepted_is_written_in_one_way_only(
            layout in 0u8..3,
            count in 0u8..12,
            rest in prop::collection::vec(prop_oneof![3 => 0u8..6, 1 => any::<u8>(), 1 => Just(b':')], 0..60),
        ) {
            let text = sealed(&[&[layout][..], &[1; 48], &[count], &rest].concat());
            if let Ok(ticket) = text.parse::<Ticket>() {
                prop_assert_eq!(&*ticket.encode(), &text);
            }
        }
    }
}

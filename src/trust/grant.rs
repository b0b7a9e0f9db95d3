//! PURE: what a peer was given: which verbs, on which sessions, from where, and until when.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::wire::ids::{SessionId, is_unsafe_in_name};
use crate::wire::link::SessionInfo;
use crate::wire::session::Verb;

/// Most selectors, and most conditions, of one grant.
pub const MAX_PARTS: usize = 64;
/// Largest number of a grant: every reader of JSON has it exact.
pub const MAX_GRANT_ID: u64 = 1 << 53;
/// Longest selector or condition, in bytes.
const MAX_TEXT: usize = 256;

/// Names a grant for `revoke`; never used twice on a device: `g1`, `g2`, ...
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GrantId(pub u64);

/// The name under which a grant was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// Every verb.
    Full,
    /// `list`, `read` and `events` freely, all else after approval.
    Ask,
    /// `list`, `read` and `events`.
    Read,
    /// Every verb denied, whatever other grants say.
    None,
    /// Lists of the user's own.
    Custom,
}

/// Which sessions a grant is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Selector {
    /// `id:` and a session's id.
    Id(SessionId),
    /// `name:` and a pattern of aliases given with `/name`, in which `*` stands for any text.
    Name(String),
}

/// From where a peer must come for a grant to count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Condition {
    /// `cidr:` and a network: the link's far address lies in it.
    Cidr(IpAddr, u8),
    /// `tailscale:user=` and a login name: the tailnet says that the far node is this user's.
    TailscaleUser(String),
    /// `tailscale:node=` and a node's name, the first label of its MagicDNS name.
    TailscaleNode(String),
}

/// Something that a peer may do, or may not. What it does not understand is no grant, and neither is one
/// that lacks a member: a condition that is not known here, or an end with a typing error, would give too
/// much if it were left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// Names it.
    pub id: GrantId,
    /// What it was given as.
    pub preset: Preset,
    /// Verbs allowed.
    pub allow: Vec<Verb>,
    /// Verbs that a person is asked about each time; never `list` or `events`.
    pub ask: Vec<Verb>,
    /// Verbs denied.
    pub deny: Vec<Verb>,
    /// On which sessions; empty means all. One that fits is enough.
    pub sessions: Vec<Selector>,
    /// From where; empty means anywhere. Every one must hold.
    pub from: Vec<Condition>,
    /// When it ends.
    #[serde(with = "date")]
    pub expires: Option<SystemTime>,
}

/// What the tailnet says of the far end of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TailnetNode {
    /// The login name of its user; `None` for a node with tags, which is nobody's.
    pub user: Option<String>,
    /// The first label of its MagicDNS name.
    pub node: String,
}

/// Where a peer comes from, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The far end of its link.
    pub address: IpAddr,
    /// What the tailnet says of it.
    pub tailnet: Tailnet,
}

/// What is known of a link's far end from the tailnet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Tailnet {
    /// Nothing, or nothing any more: no condition is known to hold, and none is known not to.
    #[default]
    Unknown,
    /// It is none of the tailnet's.
    NotThere,
    /// It is this node.
    Node(TailnetNode),
}

impl Tailnet {
    fn says(&self, holds: impl FnOnce(&TailnetNode) -> bool) -> Option<bool> {
        match self {
            Tailnet::Unknown => None,
            Tailnet::NotThere => Some(false),
            Tailnet::Node(node) => Some(holds(node)),
        }
    }
}

impl Preset {
    /// Those that have a name of their own, the widest first.
    pub const NAMED: [Preset; 4] = [Preset::Full, Preset::Ask, Preset::Read, Preset::None];

    /// The name used on the command line and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Preset::Full => "full",
            Preset::Ask => "ask",
            Preset::Read => "read",
            Preset::None => "none",
            Preset::Custom => "custom",
        }
    }

    /// What it allows, asks about and denies.
    fn lists(self) -> [&'static [Verb]; 3] {
        use Verb::{Control, Events, List, Read, Send, Summary};
        match self {
            Preset::Full => [&Verb::ALL, &[], &[]],
            Preset::Ask => [&[List, Read, Events], &[Summary, Send, Control], &[]],
            Preset::Read => [&[List, Read, Events], &[], &[]],
            Preset::None => [&[], &[], &Verb::ALL],
            Preset::Custom => [&[], &[], &[]],
        }
    }
}

impl Grant {
    /// A preset on all sessions, from anywhere, without an end.
    pub fn of_preset(id: GrantId, preset: Preset) -> Self {
        let [allow, ask, deny] = preset.lists().map(<[Verb]>::to_vec);
        Self { id, preset, allow, ask, deny, sessions: Vec::new(), from: Vec::new(), expires: None }
    }

    /// The grant as it is kept: every verb in one list alone and once, in their order.
    ///
    /// # Errors
    /// It asks about `list` or `events`, has too many parts, or is not what its preset says.
    pub fn checked(mut self) -> Result<Self, Invalid> {
        let settle = |verbs: &mut Vec<Verb>, taken: &[Verb]| {
            verbs.retain(|verb| !taken.contains(verb));
            verbs.sort_unstable();
            verbs.dedup();
        };
        settle(&mut self.deny, &[]);
        settle(&mut self.ask, &self.deny);
        settle(&mut self.allow, &[self.deny.as_slice(), &self.ask].concat());
        if let Some(verb) = self.ask.iter().find(|verb| matches!(verb, Verb::List | Verb::Events)) {
            return Err(Invalid(format!("nobody can be asked about {verb} each time: allow it or leave it out")));
        }
        once(&mut self.sessions);
        once(&mut self.from);
        if self.sessions.len().max(self.from.len()) > MAX_PARTS {
            return Err(Invalid(format!("a grant has at most {MAX_PARTS} session selectors and conditions each")));
        }
        let lists = [self.allow.as_slice(), &self.ask, &self.deny];
        if self.preset != Preset::Custom && lists != self.preset.lists() {
            let name = self.preset;
            return Err(Invalid(format!("it is called `{name}` and has other lists of verbs: call it `custom`")));
        }
        Ok(self)
    }

    /// Whether it has ended at this date.
    pub fn is_over(&self, date: SystemTime) -> bool {
        self.expires.is_some_and(|expires| expires <= date)
    }

    /// Whether it is about this session.
    pub fn is_about(&self, session: &SessionInfo) -> bool {
        self.sessions.is_empty() || self.sessions.iter().any(|selector| selector.fits(session))
    }

    /// Whether a peer that comes from there meets its conditions; `None` while that is not known.
    pub fn is_met(&self, origin: &Origin) -> Option<bool> {
        let mut known = true;
        for condition in &self.from {
            match condition.is_met(origin) {
                Some(true) => {}
                Some(false) => return Some(false),
                None => known = false,
            }
        }
        known.then_some(true)
    }
}

impl Selector {
    /// Whether some session may fit both; an id and an alias may well be one session's.
    pub fn may_meet(&self, other: &Self) -> bool {
        match (self, other) {
            (Selector::Id(one), Selector::Id(other)) => one == other,
            (Selector::Name(one), Selector::Name(other)) => matches(one, other) || matches(other, one),
            (Selector::Id(_), Selector::Name(_)) | (Selector::Name(_), Selector::Id(_)) => true,
        }
    }

    /// Whether a session is one of these.
    pub fn fits(&self, session: &SessionInfo) -> bool {
        match self {
            Selector::Id(id) => session.session_id == *id,
            Selector::Name(pattern) => session.aliases.iter().any(|alias| matches(pattern, alias)),
        }
    }
}

impl Condition {
    /// Whether it needs the tailnet's word.
    pub fn is_of_tailnet(&self) -> bool {
        matches!(self, Condition::TailscaleUser(_) | Condition::TailscaleNode(_))
    }

    pub(super) fn is_met(&self, origin: &Origin) -> Option<bool> {
        match self {
            Condition::Cidr(network, bits) => Some(is_in(origin.address, *network, *bits)),
            Condition::TailscaleUser(user) => {
                origin.tailnet.says(|is| is.user.as_ref().is_some_and(|is| is.eq_ignore_ascii_case(user)))
            }
            Condition::TailscaleNode(node) => origin.tailnet.says(|is| is.node.eq_ignore_ascii_case(node)),
        }
    }
}

/// Whether `text` fits a pattern in which `*` stands for any text, in time that grows with the product
/// of their lengths at most.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(byte) = text.get(t) {
        match (pattern.get(p), star) {
            (Some(b'*'), _) => {
                p += 1;
                star = Some((p, t));
            }
            (Some(wanted), _) if wanted == byte => (p, t) = (p + 1, t + 1),
            (_, Some((behind, from))) => {
                (p, t) = (behind, from + 1);
                star = Some((p, t));
            }
            (_, None) => return false,
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|rest| *rest == b'*')
}

fn is_in(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let same = |a: &[u8], b: &[u8]| {
        if usize::from(bits) > a.len() * 8 {
            return false;
        }
        let (whole, rest) = (usize::from(bits / 8), bits % 8);
        let mask = !(0xffu8.checked_shr(u32::from(rest)).unwrap_or(0));
        a.get(..whole) == b.get(..whole)
            && (rest == 0 || a.get(whole).zip(b.get(whole)).is_some_and(|(a, b)| a & mask == b & mask))
    };
    match (address.to_canonical(), network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => same(&a.octets(), &b.octets()),
        (IpAddr::V6(a), IpAddr::V6(b)) => same(&a.octets(), &b.octets()),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

/// Not a preset, selector, condition or grant id; says what one looks like.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

impl FromStr for Preset {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let named = Preset::NAMED.into_iter().find(|preset| preset.as_str() == text);
        named.ok_or_else(|| Invalid("a preset is `full`, `ask`, `read` or `none`".into()))
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for GrantId {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        // One text for each: no sign, no zeros in front.
        let number = text.strip_prefix('g').and_then(|digits| digits.parse::<u64>().ok());
        number
            .filter(|number| *number <= MAX_GRANT_ID && format!("g{number}") == text)
            .map(Self)
            .ok_or_else(|| Invalid("a grant is named `g` and a number: `pi-remote grants` lists them".into()))
    }
}

impl fmt::Display for GrantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{}", self.0)
    }
}

impl FromStr for Selector {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = || {
            Invalid("a session selector is `id:` and a session's id, or `name:` and an alias given with /name, with `*` for any text".into())
        };
        match text.split_once(':') {
            Some(("id", id)) => id.parse().map(Selector::Id).map_err(|error| Invalid(format!("{error}"))),
            Some(("name", pattern)) if is_text(pattern) => Ok(Selector::Name(pattern.to_owned())),
            _ => Err(invalid()),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Selector::Id(id) => write!(f, "id:{id}"),
            Selector::Name(pattern) => write!(f, "name:{pattern}"),
        }
    }
}

impl FromStr for Condition {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid =
            || Invalid("a condition is `cidr:NETWORK/BITS`, `tailscale:user=LOGIN` or `tailscale:node=NAME`".into());
        let (kind, rest) = text.split_once(':').ok_or_else(invalid)?;
        match (kind, rest.split_once('=')) {
            ("cidr", _) => cidr(rest).unwrap_or_else(|| Err(invalid())),
            ("tailscale", Some(("user", user))) if is_text(user) => Ok(Condition::TailscaleUser(user.to_owned())),
            ("tailscale", Some(("node", node))) if node.contains('.') => {
                let label = node.split('.').next().unwrap_or_default();
                Err(Invalid(format!("a node is named by the first label of its name: `tailscale:node={label}`")))
            }
            ("tailscale", Some(("node", node))) if is_text(node) => Ok(Condition::TailscaleNode(node.to_owned())),
            _ => Err(invalid()),
        }
    }
}

/// A network, or one address; `None` where the text is neither.
fn cidr(text: &str) -> Option<Result<Condition, Invalid>> {
    let (address, bits) = match text.split_once('/') {
        // More than a byte holds is too many for any network.
        Some((address, bits)) => (address.parse::<IpAddr>().ok()?, plain_number(bits)?.try_into().unwrap_or(u8::MAX)),
        None => {
            let address = text.parse::<IpAddr>().ok()?;
            (address, if address.is_ipv4() { 32 } else { 128 })
        }
    };
    let network = match address {
        IpAddr::V4(v4) if bits <= 32 => IpAddr::from((v4 & Ipv4Addr::from(mask(32, bits) as u32)).octets()),
        IpAddr::V6(v6) if bits <= 128 => IpAddr::from((v6 & Ipv6Addr::from(mask(128, bits))).octets()),
        IpAddr::V4(_) | IpAddr::V6(_) => {
            let (family, most) = if address.is_ipv4() { ("IPv4", 32) } else { ("IPv6", 128) };
            return Some(Err(Invalid(format!("`cidr:{text}`: a network of {family} has at most {most} bits"))));
        }
    };
    if network != address {
        let message = format!("{text} has bits behind the network's: `cidr:{network}/{bits}`");
        return Some(Err(Invalid(message)));
    }
    // An address of IPv4 is one, however it came: it would never lie in such a network.
    if network.to_canonical() != network {
        let v4 = network.to_canonical();
        let message = match bits.checked_sub(96) {
            Some(bits) => format!("an address of IPv4 is written as one: `cidr:{v4}/{bits}`"),
            None => "addresses of IPv4 are written as such".to_owned(),
        };
        return Some(Err(Invalid(message)));
    }
    Some(Ok(Condition::Cidr(network, bits)))
}

/// The first `bits` of `width` bits.
fn mask(width: u32, bits: u8) -> u128 {
    let all = u128::MAX >> (128 - width);
    all & !all.checked_shr(u32::from(bits)).unwrap_or(0)
}

fn plain_number(digits: &str) -> Option<u32> {
    digits.parse().ok().filter(|number: &u32| number.to_string() == digits)
}

fn once<T: PartialEq>(parts: &mut Vec<T>) {
    let mut seen = Vec::with_capacity(parts.len().min(MAX_PARTS));
    for part in parts.drain(..) {
        if !seen.contains(&part) {
            seen.push(part);
        }
        if seen.len() > MAX_PARTS {
            break;
        }
    }
    *parts = seen;
}

fn is_text(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_TEXT && text.trim() == text && !text.chars().any(is_unsafe_in_name)
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Condition::Cidr(network, bits) => write!(f, "cidr:{network}/{bits}"),
            Condition::TailscaleUser(user) => write!(f, "tailscale:user={user}"),
            Condition::TailscaleNode(node) => write!(f, "tailscale:node={node}"),
        }
    }
}

macro_rules! as_text {
    ($($name:ident),*) => {$(
        impl TryFrom<String> for $name {
            type Error = Invalid;
            fn try_from(text: String) -> Result<Self, Invalid> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.to_string()
            }
        }
    )*};
}
as_text!(GrantId, Selector, Condition);

/// A date in JSON, RFC 3339 in UTC.
pub(super) mod date {
    use std::time::SystemTime;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::wire::dates::{read, rfc3339};

    pub(in super::super) fn serialize<S: Serializer>(date: &Option<SystemTime>, to: S) -> Result<S::Ok, S::Error> {
        match date {
            Some(date) => to.serialize_str(&rfc3339(*date)),
            None => to.serialize_none(),
        }
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SystemTime>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        let no_date = || D::Error::custom("no date such as 2026-12-31T18:00:00Z, up to the year 9999");
        text.map(|text| read(&text).ok_or_else(no_date)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::strategies;
    use super::*;

    #[test]
    fn a_grants_parts_are_written_as_they_are_read() {
        for text in ["id:s1", "name:my work*", "name:a:b"] {
            assert_eq!(text.parse::<Selector>().unwrap().to_string(), text);
        }
        for text in ["cidr:10.0.0.0/8", "cidr:fd00::/8", "tailscale:user=me@github", "tailscale:node=desk"] {
            assert_eq!(text.parse::<Condition>().unwrap().to_string(), text);
        }
        assert_eq!("cidr:192.0.2.7".parse::<Condition>().unwrap().to_string(), "cidr:192.0.2.7/32");
        for bad in ["tailscale:user=", "tailscale:node=", "tailscale:user= me", "cidr:fd00::/129", "cidr:10.0.0.0/33"] {
            assert!(bad.parse::<Condition>().is_err(), "{bad}");
        }
        assert_eq!("g12".parse(), Ok(GrantId(12)));
        for bad in ["", "g", "12", "G1", "g+1", "g01", "g-1", "g1 ", "g18446744073709551615"] {
            assert!(bad.parse::<GrantId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_network_that_no_text_makes_holds_no_address() {
        for (address, bits) in [("10.0.0.0", 33), ("10.0.0.0", 40), ("fd00::", 129), ("fd00::", 255)] {
            let network: IpAddr = address.parse().unwrap();
            assert!(!is_in(network, network, bits), "{address}/{bits}");
        }
    }

    #[test]
    fn a_grant_with_a_member_that_is_not_known_is_no_grant() {
        let rest = r#""allow":[],"ask":[],"deny":[],"sessions":[],"from":[],"expires":null"#;
        let read = |json: &str| {
            let mut grant: serde_json::Value = serde_json::from_str(&format!("{{{rest}}}")).unwrap();
            let own: serde_json::Value = serde_json::from_str(json).unwrap();
            grant.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
            serde_json::from_value::<Grant>(grant)
        };
        read(r#"{"id":"g1","preset":"read"}"#).unwrap();
        for bad in [
            r#"{"id":"g1","preset":"full","expire":"2026-01-01T00:00:00Z"}"#,
            r#"{"id":"g1","preset":"full","expires":"2026-01-01"}"#,
            r#"{"id":"g1","preset":"full","from":["tailscale:group=x"]}"#,
            r#"{"id":"g1","preset":"all"}"#,
            r#"{"id":"g1","preset":"full","allow":["admin"]}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_grant_that_is_not_what_it_is_called_is_refused() {
        let read = Grant::of_preset(GrantId(1), Preset::Read);
        assert!(read.clone().checked().is_ok());
        let wider = Grant { allow: Verb::ALL.to_vec(), ..read.clone() }.checked().unwrap_err();
        assert!(wider.to_string().contains("it is called `read`"), "{wider}");
        assert!(Grant { deny: vec![], ..Grant::of_preset(GrantId(1), Preset::None) }.checked().is_err());
        assert!(Grant { allow: Verb::ALL.to_vec(), preset: Preset::Custom, ..read }.checked().is_ok());
    }

    #[test]
    fn a_grant_has_as_many_parts_as_it_may_have_and_no_more() {
        let with = |sessions: usize, conditions: usize| {
            let sessions = (0..sessions).map(|n| format!("id:s{n}").parse().unwrap()).collect();
            let from = (0..conditions).map(|n| format!("cidr:192.0.2.{n}").parse().unwrap()).collect();
            Grant { sessions, from, ..Grant::of_preset(GrantId(1), Preset::Read) }.checked()
        };
        assert_eq!(with(MAX_PARTS, MAX_PARTS).map(|grant| (grant.sessions.len(), grant.from.len())), Ok((64, 64)));
        assert!(with(MAX_PARTS + 1, 0).is_err() && with(0, MAX_PARTS + 1).is_err());
        let sessions = vec![Selector::Name("x".into()); MAX_PARTS + 1];
        let same = Grant { sessions, ..Grant::of_preset(GrantId(1), Preset::Read) }.checked().unwrap();
        assert_eq!(same.sessions, [Selector::Name("x".into())], "the same but once");
    }

    #[test]
    fn names_and_numbers_are_taken_up_to_the_longest_and_the_largest() {
        let name = |bytes| format!("name:{}", "x".repeat(bytes)).parse::<Selector>();
        assert!(name(MAX_TEXT).is_ok() && name(MAX_TEXT + 1).is_err() && name(0).is_err());
        for bad in ["name: x", "name:x ", "name:a\u{202e}b"] {
            assert!(bad.parse::<Selector>().is_err(), "{bad:?}");
        }
        assert_eq!("g9007199254740992".parse(), Ok(GrantId(MAX_GRANT_ID)));
        assert!("g9007199254740993".parse::<GrantId>().is_err());
    }

    #[test]
    fn the_tailnet_is_asked_for_its_own_conditions_alone() {
        for (text, is_of_tailnet) in [("tailscale:user=me", true), ("tailscale:node=desk", true), ("cidr:::/0", false)]
        {
            assert_eq!(text.parse::<Condition>().unwrap().is_of_tailnet(), is_of_tailnet, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_grant_survives_the_disk(grant in strategies::grant()) {
            let json = serde_json::to_string(&grant).unwrap();
            let read: Grant = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(read.checked().unwrap(), grant);
        }

        #[test]
        fn no_text_makes_it_panic(text in "(cidr:|tailscale:|id:|name:|g)?\\PC{0,30}") {
            let _ = (text.parse::<Condition>(), text.parse::<Selector>(), text.parse::<GrantId>());
        }

        #[test]
        fn a_pattern_of_stars_takes_no_longer_than_its_product(stars in 1..120usize, length in 0..256usize) {
            let pattern = "*a".repeat(stars);
            prop_assert_eq!(matches(&pattern, &"a".repeat(length)), length >= stars);
            prop_assert!(!matches(&pattern, &"b".repeat(length)));
        }
    }
}

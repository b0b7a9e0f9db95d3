//! Messages of multicast DNS (RFC 1035, RFC 6762, RFC 6763), as far as announcing one service and
//! looking for it takes. Nothing of a message outlives it: there is no cache that could be filled.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Most bytes of a message (RFC 6762, 17).
pub(super) const MAX_MESSAGE: usize = 9000;

const SERVICE: [&str; 3] = ["_pi-remote", "_tcp", "local"];
/// How long what is announced holds, in seconds.
const TTL: u32 = 120;
/// Most questions and records of a message that are read, and most instances of the service in it.
const MAX_ENTRIES: usize = 128;
const MAX_INSTANCES: usize = 4;
/// Most bytes of a name, and most pointers that are followed in one.
const MAX_NAME: usize = 255;
const MAX_POINTERS: usize = 16;

const A: u16 = 1;
const PTR: u16 = 12;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const SRV: u16 = 33;
const ANY: u16 = 255;
/// The class of all; the bit beside it says that a record is all there is, or that a question wants
/// an answer to itself alone.
const INTERNET: u16 = 1;
const UNIQUE: u16 = 0x8000;
/// The flags of an authoritative response, and the one that tells a response.
const ANSWER: u16 = 0x8400;
const RESPONSE: u16 = 0x8000;

/// One instance of the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Instance {
    /// Its label, in lower case where it was read; at most 63 bytes.
    pub(super) label: Vec<u8>,
    pub(super) port: u16,
    pub(super) addresses: Vec<IpAddr>,
    /// `key=value` each.
    pub(super) said: Vec<Vec<u8>>,
    /// Whether it says goodbye.
    pub(super) gone: bool,
}

/// Asks for all instances of the service.
pub(super) fn question() -> Vec<u8> {
    let mut message = header(0, 1, 0);
    message.extend(name(&[]));
    message.extend([PTR, INTERNET].map(u16::to_be_bytes).concat());
    message
}

/// All that there is to say of an instance, in one message.
pub(super) fn announcement(instance: &Instance) -> Vec<u8> {
    let ttl = if instance.gone { 0 } else { TTL };
    let own = name(&[&instance.label]);
    let host = host(&instance.label);
    let service = [&[0; 4][..], &instance.port.to_be_bytes(), &host].concat();
    let said = instance.said.iter().flat_map(|text| std::iter::once(length(text)).chain(text.iter().copied()));
    let mut records = vec![
        record(&name(&[]), PTR, INTERNET, ttl, &own),
        record(&own, SRV, INTERNET | UNIQUE, ttl, &service),
        record(&own, TXT, INTERNET | UNIQUE, ttl, &said.collect::<Vec<u8>>()),
    ];
    records.extend(instance.addresses.iter().map(|ip| match ip {
        IpAddr::V4(ip) => record(&host, A, INTERNET | UNIQUE, ttl, &ip.octets()),
        IpAddr::V6(ip) => record(&host, AAAA, INTERNET | UNIQUE, ttl, &ip.octets()),
    }));
    let mut message = header(ANSWER, 0, u16::try_from(records.len()).unwrap_or(u16::MAX));
    message.extend(records.concat());
    message
}

/// Whether a message asks for the service or for what this instance has.
pub(super) fn asks_for(message: &[u8], label: &[u8]) -> bool {
    let Some((reader, [questions, ..])) = Reader::start(message, |flags| flags & RESPONSE == 0) else { return false };
    let ours = [name(&[]), name(&[label]), host(label)];
    let mut reader = reader;
    (0..questions.min(MAX_ENTRIES))
        .map_while(|_| reader.question())
        .any(|(name, kind)| [A, PTR, TXT, AAAA, SRV, ANY].contains(&kind) && ours.contains(&name))
}

/// The instances of the service that a message tells of, each with all that there is to know.
pub(super) fn instances(message: &[u8]) -> Vec<Instance> {
    let Some((mut reader, [questions, counts @ ..])) = Reader::start(message, |flags| flags & RESPONSE != 0) else {
        return Vec::new();
    };
    // No response has a question, of those that anybody sends.
    if questions != 0 {
        return Vec::new();
    }
    let count = counts.iter().sum::<usize>().min(MAX_ENTRIES);
    let records: Vec<Record> = (0..count).map_while(|_| reader.record()).collect();
    let service = name(&[]);
    let pointers = records.iter().filter(|record| record.name == service).filter_map(|record| {
        let Data::Pointer(to) = &record.data else { return None };
        Some((to, record.ttl == 0))
    });
    pointers.filter_map(|(own, gone)| instance(own, &service, gone, &records)).take(MAX_INSTANCES).collect()
}

fn instance(own: &[u8], service: &[u8], gone: bool, records: &[Record]) -> Option<Instance> {
    let label = own.strip_suffix(service)?;
    let (length, label) = label.split_first()?;
    let mut found = Instance { label: label.to_vec(), port: 0, addresses: Vec::new(), said: Vec::new(), gone };
    if usize::from(*length) != label.len() {
        return None;
    }
    if gone {
        return Some(found);
    }
    let of_it = || records.iter().filter(|record| record.name == own);
    let (port, host) = of_it().find_map(|record| {
        let Data::Service { port, host } = &record.data else { return None };
        Some((*port, host))
    })?;
    found.port = port;
    found.said = of_it().find_map(|record| {
        let Data::Text(said) = &record.data else { return None };
        Some(said.clone())
    })?;
    found.addresses = records.iter().filter(|record| record.name == *host).filter_map(Record::address).collect();
    Some(found)
}

fn header(flags: u16, questions: u16, answers: u16) -> Vec<u8> {
    [0, flags, questions, answers, 0, 0].map(u16::to_be_bytes).concat()
}

/// The name of something of the service's, or of the service itself, as it is on the wire.
fn name(labels: &[&[u8]]) -> Vec<u8> {
    let labels = labels.iter().copied().chain(SERVICE.iter().map(|label| label.as_bytes()));
    wire_name(labels)
}

fn host(label: &[u8]) -> Vec<u8> {
    wire_name([label, b"local"].into_iter())
}

fn wire_name<'a>(labels: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut name: Vec<u8> =
        labels.flat_map(|label| std::iter::once(length(label)).chain(label.iter().copied())).collect();
    name.push(0);
    name
}

/// Of a label or a text, both this program's own.
fn length(bytes: &[u8]) -> u8 {
    u8::try_from(bytes.len()).unwrap_or(u8::MAX)
}

fn record(name: &[u8], kind: u16, class: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).unwrap_or(u16::MAX);
    [name, &kind.to_be_bytes(), &class.to_be_bytes(), &ttl.to_be_bytes(), &length.to_be_bytes(), data].concat()
}

/// A record, its names without pointers and in lower case.
struct Record {
    name: Vec<u8>,
    ttl: u32,
    data: Data,
}

enum Data {
    Pointer(Vec<u8>),
    Service { port: u16, host: Vec<u8> },
    Text(Vec<Vec<u8>>),
    Address(IpAddr),
    Other,
}

impl Record {
    fn address(&self) -> Option<IpAddr> {
        let Data::Address(ip) = self.data else { return None };
        Some(ip)
    }
}

/// A message, read up to a place.
struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Behind the header of a message with such flags, and how many questions, answers, authorities
    /// and additional records follow.
    fn start(message: &'a [u8], fits: impl Fn(u16) -> bool) -> Option<(Self, [usize; 4])> {
        let mut reader = Self { message, at: 2 };
        let flags = reader.number()?;
        let mut counts = [0; 4];
        for count in &mut counts {
            *count = usize::from(reader.number()?);
        }
        (fits(flags) && message.len() <= MAX_MESSAGE).then_some((reader, counts))
    }

    fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(length)?;
        let bytes = self.message.get(self.at..end)?;
        self.at = end;
        Some(bytes)
    }

    fn byte(&mut self) -> Option<u8> {
        self.bytes(1)?.first().copied()
    }

    fn number(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.bytes(2)?.try_into().ok()?))
    }

    fn name(&mut self) -> Option<Vec<u8>> {
        let mut name = Vec::new();
        // Where reading goes on behind the name, once a pointer has led away.
        let mut behind = None;
        let mut pointers = 0;
        loop {
            let length = self.byte()?;
            match length >> 6 {
                0 => {
                    name.push(length);
                    name.extend(self.bytes(length.into())?.iter().map(u8::to_ascii_lowercase));
                    if name.len() > MAX_NAME {
                        return None;
                    }
                    if length == 0 {
                        self.at = behind.unwrap_or(self.at);
                        return Some(name);
                    }
                }
                3 if pointers < MAX_POINTERS => {
                    pointers += 1;
                    let to = usize::from(length & 0x3f) << 8 | usize::from(self.byte()?);
                    behind.get_or_insert(self.at);
                    self.at = to;
                }
                _ => return None,
            }
        }
    }

    fn question(&mut self) -> Option<(Vec<u8>, u16)> {
        let (name, kind) = (self.name()?, self.number()?);
        self.number()?;
        Some((name, kind))
    }

    fn record(&mut self) -> Option<Record> {
        let (name, kind) = (self.name()?, self.number()?);
        self.number()?;
        let ttl = u32::from_be_bytes(self.bytes(4)?.try_into().ok()?);
        let length = usize::from(self.number()?);
        let mut inside = Self { message: self.message, at: self.at };
        let data = self.bytes(length)?;
        let data = match kind {
            PTR => Data::Pointer(inside.name()?),
            SRV => {
                inside.bytes(4)?;
                Data::Service { port: inside.number()?, host: inside.name()? }
            }
            TXT => Data::Text(texts(data)),
            A => Data::Address(Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?).into()),
            AAAA => Data::Address(Ipv6Addr::from(<[u8; 16]>::try_from(data).ok()?).into()),
            _ => Data::Other,
        };
        Some(Record { name, ttl, data })
    }
}

fn texts(mut data: &[u8]) -> Vec<Vec<u8>> {
    let mut texts = Vec::new();
    while let Some((length, rest)) = data.split_first()
        && let Some((text, rest)) = rest.split_at_checked(usize::from(*length))
    {
        texts.push(text.to_vec());
        data = rest;
    }
    texts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn example() -> Instance {
        Instance {
            label: b"pi-remote-0a1b2c".to_vec(),
            port: 7433,
            addresses: vec!["192.168.1.9".parse().unwrap(), "2001:db8::9".parse().unwrap()],
            said: vec![b"v=1".to_vec(), b"offering=1".to_vec()],
            gone: false,
        }
    }

    #[test]
    fn what_is_announced_is_read() {
        let example = example();
        assert_eq!(instances(&announcement(&example)), std::slice::from_ref(&example));
        let gone = Instance { gone: true, ..example };
        let read = instances(&announcement(&gone));
        assert_eq!((read.len(), read[0].gone, &read[0].label), (1, true, &gone.label));
        assert_eq!(instances(&question()), []);
    }

    #[test]
    fn the_question_and_what_the_instance_has_are_asked_for_and_nothing_else() {
        let label = &example().label[..];
        assert!(asks_for(&question(), label));
        let asking = |name: Vec<u8>| [header(0, 1, 0), name, vec![0, 255, 0, 1]].concat();
        assert!(asks_for(&asking(name(&[label])), label));
        assert!(asks_for(&asking(host(label)), label));
        assert!(asks_for(&asking(host(&label.to_ascii_uppercase())), &label.to_ascii_lowercase()));
        assert!(!asks_for(&asking(host(b"other")), label));
        assert!(!asks_for(&announcement(&example()), label), "a response asks nothing");
    }

    #[test]
    fn a_name_that_points_to_itself_ends() {
        let pointing = [header(ANSWER, 0, 1), vec![0xc0, 12], vec![0; 10]].concat();
        assert_eq!(instances(&pointing), []);
        let asking = [header(0, 1, 0), vec![1, b'x', 0xc0, 12], vec![0; 4]].concat();
        assert!(!asks_for(&asking, b"x"));
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_without_a_panic(change in proptest::collection::vec((0_usize..300, any::<u8>()), 0..20), cut in 0_usize..300) {
            let mut message = announcement(&example());
            for (at, byte) in change {
                if let Some(place) = message.get_mut(at) {
                    *place = byte;
                }
            }
            message.truncate(cut);
            prop_assert!(instances(&message).len() <= MAX_INSTANCES);
            asks_for(&message, b"x");
        }
    }
}

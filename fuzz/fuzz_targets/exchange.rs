//! Pairing under the hands of somebody who owns the wire: nobody proves anything to anyone who did
//! not see the very same exchange, and without meddling both always do.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use pi_remote::identity::Fingerprint;
use pi_remote::pairing::ticket::Secret;
use pi_remote::pairing::{
    AwaitingElement, AwaitingReceipt, Info, Joiner, Offerer, PairingCode, Parties, Reason, Rejected, Ticket,
};
use rand_core::{CryptoRng, RngCore};
use serde::Deserialize;
use serde_json::value::RawValue;

const MOST_ACTS: usize = 40;

/// What one end of a connection knows.
#[derive(Debug, Clone, PartialEq)]
struct View {
    by_code: bool,
    secret: bool,
    offerer: bool,
    joiner: bool,
    /// No two TLS connections have the same channel binding.
    channel: u8,
}

#[derive(Debug, Arbitrary)]
struct Connection {
    by_code: bool,
    secret: bool,
    offerer: bool,
    joiner: bool,
    /// In what the offerer differs: 0 to 4, else in nothing.
    odd: u8,
}

#[derive(Debug, Arbitrary)]
enum Act {
    /// Lets the last line of one end through to the other, as an honest wire would.
    Forward { from: u8 },
    /// Hands a line that was ever sent to anyone, or again, or never.
    Deliver { line: u8, to: u8 },
    /// The same with one byte changed.
    Alter { line: u8, to: u8, at: u16, byte: u8 },
    /// The head of one line with the tail of another.
    Splice { head: u8, tail: u8, at: u16, to: u8 },
    /// One type's line as another's.
    Rename { line: u8, to: u8, kind: u8 },
    /// A line of one's own.
    Forge { line: Vec<u8>, to: u8 },
}

#[derive(Debug, Arbitrary)]
struct Input {
    connections: [Connection; 2],
    acts: Vec<Act>,
}

/// No randomness at all: the same byte over and over.
struct Steady(u8);

impl RngCore for Steady {
    fn next_u32(&mut self) -> u32 {
        u32::from_ne_bytes([self.0; 4])
    }
    fn next_u64(&mut self) -> u64 {
        u64::from_ne_bytes([self.0; 8])
    }
    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        bytes.fill(self.0);
    }
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), rand_core::Error> {
        self.fill_bytes(bytes);
        Ok(())
    }
}

impl CryptoRng for Steady {}

impl View {
    fn parties<T>(&self, run: impl FnOnce(Parties<'_>) -> T) -> T {
        let (channel, offerer, joiner) = ([self.channel; 32], self.offerers_key(), [2 + u8::from(self.joiner); 44]);
        run(Parties { channel_binding: &channel, offerer_spki: &offerer, joiner_spki: &joiner })
    }

    fn offerers_key(&self) -> [u8; 44] {
        [self.offerer.into(); 44]
    }

    fn secret(&self) -> Secret {
        Secret::from_bytes(&[self.secret.into(); Secret::LEN])
    }

    fn code(&self) -> PairingCode {
        PairingCode::from_random(&[self.secret.into(); 5])
    }

    /// What the offerer knows.
    fn but(&self, odd: u8) -> Self {
        let mut other = self.clone();
        match odd {
            0 => other.by_code ^= true,
            1 => other.secret ^= true,
            2 => other.offerer ^= true,
            3 => other.joiner ^= true,
            4 => other.channel ^= 0x80,
            _ => {}
        }
        other
    }
}

/// What counts of a line: its type, and what this type carries.
#[derive(Debug, PartialEq)]
struct Said(String, Vec<String>);

impl Said {
    fn of(line: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Members<'a> {
            r#type: String,
            #[serde(borrow)]
            m: Option<&'a RawValue>,
            #[serde(borrow)]
            info: Option<&'a RawValue>,
            #[serde(borrow)]
            mac: Option<&'a RawValue>,
        }
        let Members { r#type: kind, m, info, mac } =
            serde_json::from_slice(line).expect("a line that was taken is JSON");
        let members = match kind.as_str() {
            "pair1" | "pair2" => vec![m],
            "pair3" | "pair4" => vec![info, mac],
            _ => vec![],
        };
        let text = |raw: Option<&RawValue>| serde_json::from_str(raw.expect("a member").get()).expect("a text");
        Self(kind, members.into_iter().map(text).collect())
    }
}

enum End {
    AwaitingElement(AwaitingElement),
    Joining(Joiner),
    Listening,
    Offering(Offerer),
    AwaitingReceipt(AwaitingReceipt),
    Done,
}

struct Actor {
    view: View,
    info: Info,
    end: End,
    /// What it took, and what it sent, as far as the exchange went well.
    heard: Vec<Said>,
    said: Vec<Said>,
    /// The other's info, once proven: what a daemon would store.
    proven: Option<Info>,
    confirmed: bool,
}

impl Actor {
    fn new(view: View, name: String, end: End) -> Self {
        let info = Info { name, port: 7433, addresses: vec!["192.0.2.1".into()], version: "0.1.0".into() };
        Self { view, info, end, heard: vec![], said: vec![], proven: None, confirmed: false }
    }

    /// A joiner and its first line.
    fn joiner(view: View, number: u8) -> (Self, Vec<u8>) {
        let mut actor = Self::new(view.clone(), format!("j{number}"), End::Done);
        let chance = Steady(2 * number);
        let ticket =
            || Ticket::new(Fingerprint::of_spki(&view.offerers_key()), view.secret(), vec![]).expect("a ticket");
        let (end, line) = view.parties(|parties| {
            if view.by_code {
                let (awaiting, line) = Joiner::by_code(&view.code(), &parties, chance).expect("a start by code");
                (End::AwaitingElement(awaiting), line)
            } else {
                let (joiner, line) = Joiner::by_ticket(&ticket(), &parties, &actor.info).expect("a start by ticket");
                (End::Joining(joiner), line)
            }
        });
        actor.end = end;
        actor.said.push(Said::of(&line));
        (actor, line)
    }

    /// Takes a line and gives what it sends.
    fn receive(&mut self, line: &[u8]) -> Option<Vec<u8>> {
        match self.step(line) {
            Ok(answer) => {
                self.heard.push(Said::of(line));
                self.said.extend(answer.as_deref().map(Said::of));
                answer
            }
            Err(rejected) => rejected.reply.map(<[u8]>::to_vec),
        }
    }

    fn step(&mut self, line: &[u8]) -> Result<Option<Vec<u8>>, Rejected> {
        let (end, answer) = match std::mem::replace(&mut self.end, End::Done) {
            End::AwaitingElement(awaiting) => {
                let (joiner, line) = awaiting.receive(line, &self.info)?;
                (End::Joining(joiner), Some(line))
            }
            End::Joining(joiner) => {
                let proven = joiner.receive(line)?;
                self.proven = Some(proven.info().clone());
                (End::Done, Some(proven.confirm()))
            }
            End::Listening if self.view.by_code => {
                let chance = Steady(self.info.name.as_bytes()[1]);
                let begun = self.view.parties(|parties| Offerer::by_code(&self.view.code(), &parties, line, chance));
                let (offerer, line) = begun?;
                (End::Offering(offerer), Some(line))
            }
            End::Listening => {
                self.end = End::Offering(
                    self.view.parties(|parties| Offerer::by_ticket(&self.view.secret(), &parties, line))?,
                );
                return self.step(line);
            }
            End::Offering(offerer) => {
                let proven = offerer.receive(line)?;
                self.proven = Some(proven.info().clone());
                let (awaiting, line) = proven.confirm(&self.info);
                (End::AwaitingReceipt(awaiting), Some(line))
            }
            End::AwaitingReceipt(awaiting) => {
                awaiting.receive(line)?;
                self.confirmed = true;
                (End::Done, None)
            }
            End::Done => return Err(Rejected { reason: Reason::Closed, reply: None }),
        };
        self.end = end;
        Ok(answer)
    }

    /// Whether all that this one took before it was sure is all that the other said by then, in that
    /// order, and the other way round.
    fn agrees_with(&self, other: &Self) -> bool {
        // The receipt comes after the proofs.
        let before = |lines: &[Said]| lines.iter().filter(|said| said.0 != "pair5").count();
        let (heard, said) = (before(&self.heard), before(&other.heard));
        self.heard.get(..heard) == other.said.get(..heard) && other.heard.get(..said) == self.said.get(..said)
    }
}

/// Everyone, each joiner beside its offerer, and what was sent.
struct Wire {
    actors: Vec<Actor>,
    sent: Vec<Vec<u8>>,
    /// By actor.
    last: Vec<Option<Vec<u8>>>,
}

impl Wire {
    fn new(connections: [Connection; 2]) -> Self {
        let mut wire = Self { actors: vec![], sent: vec![], last: vec![] };
        for (number, connection) in (0..).zip(connections) {
            let Connection { by_code, secret, offerer, joiner, odd } = connection;
            let view = View { by_code, secret, offerer, joiner, channel: number };
            let offerer = Actor::new(view.but(odd), format!("o{number}"), End::Listening);
            let (joiner, first) = Actor::joiner(view, number);
            wire.actors.extend([joiner, offerer]);
            wire.sent.push(first.clone());
            wire.last.extend([Some(first), None]);
        }
        wire
    }

    fn deliver(&mut self, line: &[u8], to: usize) {
        let to = to % self.actors.len();
        if let Some(answer) = self.actors[to].receive(line) {
            self.sent.push(answer.clone());
            self.last[to] = Some(answer);
        }
    }

    fn forward(&mut self, from: usize) {
        let from = from % self.actors.len();
        if let Some(line) = self.last[from].clone() {
            self.deliver(&line, from ^ 1);
        }
    }

    fn pick(&self, number: u8) -> Vec<u8> {
        self.sent[usize::from(number) % self.sent.len()].clone()
    }

    fn meddle(&mut self, act: Act) {
        let (line, to) = match act {
            Act::Forward { from } => return self.forward(from.into()),
            Act::Deliver { line, to } => (self.pick(line), to),
            Act::Alter { line, to, at, byte } => {
                let mut line = self.pick(line);
                let at = usize::from(at) % line.len();
                line[at] = byte;
                (line, to)
            }
            Act::Splice { head, tail, at, to } => {
                let (mut line, tail) = (self.pick(head), self.pick(tail));
                let at = usize::from(at) % line.len();
                line.truncate(at);
                line.extend_from_slice(tail.get(at..).unwrap_or_default());
                (line, to)
            }
            Act::Rename { line, to, kind } => {
                let text = String::from_utf8(self.pick(line)).expect("what is sent is text");
                let kind = format!("pair{}", 1 + kind % 5);
                ((1..=5).fold(text, |text, n| text.replace(&format!("pair{n}"), &kind)).into_bytes(), to)
            }
            Act::Forge { line, to } => (line, to),
        };
        self.deliver(&line, to.into());
    }
}

/// On an untouched wire both ends of a connection pair when they know the same, and else neither.
fn check_honest(wire: &mut Wire, alike: [bool; 2]) {
    for (at, alike) in [0, 2].into_iter().zip(alike) {
        for end in [0, 1, 0, 1, 0] {
            wire.forward(at + end);
        }
        let [joiner, offerer] = [&wire.actors[at], &wire.actors[at + 1]];
        let proven = (joiner.proven.as_ref(), offerer.proven.as_ref());
        let expected = if alike { (Some(&offerer.info), Some(&joiner.info)) } else { (None, None) };
        assert_eq!((proven, offerer.confirmed), (expected, alike));
    }
}

fn check_proven(actors: &[Actor]) {
    for (number, actor) in actors.iter().enumerate() {
        let Some(proven) = &actor.proven else {
            assert!(!actor.confirmed, "confirmed without a proof");
            continue;
        };
        let witness = actors
            .iter()
            .skip(1 - number % 2)
            .step_by(2)
            .find(|witness| witness.view == actor.view && witness.info == *proven && actor.agrees_with(witness));
        let witness = witness.unwrap_or_else(|| panic!("{proven:?} was proven to {:?}", actor.view));
        if number % 2 == 0 {
            assert_eq!(witness.proven.as_ref(), Some(&actor.info), "the offerer proves itself second, to it");
        }
    }
}

fuzz_target!(|input: Input| {
    let Input { connections, acts } = input;
    let alike = [0, 1].map(|at| connections[at].odd > 4);
    let mut wire = Wire::new(connections);
    if acts.is_empty() {
        check_honest(&mut wire, alike);
    }
    for act in acts.into_iter().take(MOST_ACTS) {
        wire.meddle(act);
    }
    check_proven(&wire.actors);
});

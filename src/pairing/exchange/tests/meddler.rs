//! The exchange under the hands of somebody who owns the wire.

use proptest::prelude::*;

use super::*;

/// One end of a connection.
enum End {
    AwaitingElement(AwaitingElement),
    Joining(Joiner),
    Listening,
    Offering(Offerer),
    AwaitingReceipt(AwaitingReceipt),
    Done,
}

struct Actor {
    kind: OfferKind,
    view: View,
    info: Info,
    /// Stands for its randomness.
    chance: u8,
    end: End,
    /// What it took, and what it sent for it, as far as the exchange went well.
    heard: Vec<Message>,
    said: Vec<Message>,
    /// The other's info, once proven: what a daemon would store.
    proven: Option<Info>,
    confirmed: bool,
}

impl Actor {
    fn new(kind: OfferKind, view: View, info: Info, chance: u8, end: End) -> Self {
        Self { kind, view, info, chance, end, heard: vec![], said: vec![], proven: None, confirmed: false }
    }

    fn joiner(kind: OfferKind, view: View, number: u8) -> (Self, Vec<u8>) {
        let info = info(&format!("j{number}"), "192.0.2.1");
        let (end, line) = match kind {
            OfferKind::Code => {
                let (awaiting, line) = view.typing(2 * number);
                (End::AwaitingElement(awaiting), line)
            }
            OfferKind::Ticket => {
                let (joiner, line) = view.joiner(&info);
                (End::Joining(joiner), line)
            }
        };
        let mut actor = Self::new(kind, view, info, 0, end);
        actor.said.push(Message::read(&line).unwrap());
        (actor, line)
    }

    fn offerer(kind: OfferKind, view: View, number: u8) -> Self {
        let end = match kind {
            OfferKind::Code => End::Listening,
            OfferKind::Ticket => End::Offering(view.offerer()),
        };
        Self::new(kind, view, info(&format!("o{number}"), "192.0.2.2"), 2 * number + 1, end)
    }

    /// Takes a line and gives what it sends.
    fn receive(&mut self, line: &[u8]) -> Option<Vec<u8>> {
        match self.step(line) {
            Ok(answer) => {
                self.heard.push(Message::read(line).unwrap());
                self.said.extend(answer.as_deref().map(|line| Message::read(line).unwrap()));
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
            End::Listening => {
                let (offerer, line) = self.view.showing(line, self.chance)?;
                (End::Offering(offerer), Some(line))
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
            End::Done => return Err(Rejected::silently(Reason::Closed)),
        };
        self.end = end;
        Ok(answer)
    }

    /// Whether all that this one took before it was sure is all that the other said by then, in that
    /// order, and the other way round.
    fn agrees_with(&self, other: &Self) -> bool {
        // The receipt comes after the proofs.
        let before = |messages: &[Message]| messages.iter().filter(|m| **m != Message::Pair5).count();
        let (heard, said) = (before(&self.heard), before(&other.heard));
        self.heard.get(..heard) == other.said.get(..heard) && other.heard.get(..said) == self.said.get(..said)
    }
}

#[derive(Debug, Clone)]
enum Meddling {
    /// Lets the last line of one end through to the other end, as an honest wire would.
    Forward { from: usize },
    /// Hands a line that was ever sent to anyone, or again, or never.
    Deliver { line: usize, to: usize },
    /// The same with one byte changed.
    Alter { line: usize, to: usize, at: usize, byte: u8 },
    /// The head of one line with the tail of another.
    Splice { head: usize, tail: usize, at: usize, to: usize },
    /// One type's line as another's.
    Rename { line: usize, to: usize, kind: u8 },
}

fn meddling() -> impl Strategy<Value = Vec<Meddling>> {
    let (line, to) = (0usize..24, 0usize..8);
    let act = prop_oneof![
        12 => to.clone().prop_map(|from| Meddling::Forward { from }),
        4 => (line.clone(), to.clone()).prop_map(|(line, to)| Meddling::Deliver { line, to }),
        1 => (line.clone(), to.clone(), 0usize..400, any::<u8>())
            .prop_map(|(line, to, at, byte)| Meddling::Alter { line, to, at, byte }),
        1 => (line.clone(), line.clone(), 0usize..400, to.clone())
            .prop_map(|(head, tail, at, to)| Meddling::Splice { head, tail, at, to }),
        1 => (line, to, 1u8..6).prop_map(|(line, to, kind)| Meddling::Rename { line, to, kind }),
    ];
    prop::collection::vec(act, 0..40)
}

/// A joiner and an offerer and what each knows of the connection.
type Machines = ((OfferKind, View), (OfferKind, View));

fn machines() -> impl Strategy<Value = Vec<Machines>> {
    let kind = prop_oneof![Just(OfferKind::Code), Just(OfferKind::Ticket)];
    let view = (0u8..2, 2u8..4, 0u8..2);
    let view = view.prop_map(|(offerer, joiner, secret)| View { cb: 0, offerer, joiner, secret });
    // Either both ends of a connection see the same, or somebody stands in between.
    let pair = (kind, view, 0..10).prop_map(|(kind, view, odd)| {
        let joins = (kind, view.clone());
        let offers = match odd {
            0 => (kind, View { cb: view.cb ^ 1, ..view }),
            1 => (kind, View { offerer: view.offerer ^ 1, ..view }),
            2 => (kind, View { joiner: view.joiner ^ 1, ..view }),
            3 => (kind, View { secret: view.secret ^ 1, ..view }),
            4 => (if kind == OfferKind::Code { OfferKind::Ticket } else { OfferKind::Code }, view),
            _ => (kind, view),
        };
        (joins, offers)
    });
    prop::collection::vec(pair, 1..=3).prop_map(|mut machines| {
        for (number, ((_, joins), (_, offers))) in (0..).zip(&mut machines) {
            // A channel binding is an exporter's value of one TLS connection, to which each of its ends has
            // given a share of its own: whoever owns the wire can have the ends see different ones, but
            // cannot make those of two connections alike. Were they alike, a proof for one would be one for
            // the other where all else is the same, which is what the exchange leaves to TLS.
            joins.cb += 2 * number;
            offers.cb += 2 * number;
        }
        machines
    })
}

proptest! {
    #[test]
    fn who_owns_the_wire_cannot_make_anyone_prove_what_the_other_did_not_see(
        machines in machines(),
        acts in meddling(),
    ) {
        let mut sent = Vec::new();
        let mut last = std::collections::HashMap::new();
        let mut actors = Vec::new();
        for (number, ((kind, joins), (other, offers))) in (0..).zip(machines) {
            let (joiner, first) = Actor::joiner(kind, joins, number);
            last.insert(actors.len(), first.clone());
            sent.push(first);
            actors.push(joiner);
            actors.push(Actor::offerer(other, offers, number));
        }
        for act in acts {
            let pick = |n: usize| sent[n % sent.len()].clone();
            let (line, to) = match act {
                Meddling::Forward { from } => {
                    let from = from % actors.len();
                    let Some(line) = last.get(&from) else { continue };
                    // The ends of a connection stand side by side.
                    (line.clone(), from ^ 1)
                }
                Meddling::Deliver { line, to } => (pick(line), to),
                Meddling::Alter { line, to, at, byte } => {
                    let mut line = pick(line);
                    let at = at % line.len();
                    line[at] = byte;
                    (line, to)
                }
                Meddling::Splice { head, tail, at, to } => {
                    let (mut line, tail) = (pick(head), pick(tail));
                    let at = at % line.len();
                    line.truncate(at);
                    line.extend_from_slice(tail.get(at..).unwrap_or_default());
                    (line, to)
                }
                Meddling::Rename { line, to, kind } => {
                    let text = String::from_utf8(pick(line)).unwrap_or_default();
                    let renamed = (1..6).fold(text, |t, n| t.replace(&format!("pair{n}"), &format!("pair{kind}")));
                    (renamed.into_bytes(), to)
                }
            };
            let to = to % actors.len();
            if let Some(line) = actors[to].receive(&line) {
                last.insert(to, line.clone());
                sent.push(line);
            }
        }
        for (number, actor) in actors.iter().enumerate() {
            let Some(proven) = &actor.proven else {
                prop_assert!(!actor.confirmed);
                continue;
            };
            // The other end of its connection: there is no other that could have seen the same.
            let witness = &actors[number ^ 1];
            let saw_the_same = witness.kind == actor.kind && witness.view == actor.view;
            prop_assert!(saw_the_same, "{:?} was proven to {:?}", proven, actor.view);
            prop_assert_eq!(proven, &witness.info);
            prop_assert!(actor.agrees_with(witness), "{:?} was proven to {:?}", proven, actor.view);
            // Joiners stand at the even places.
            if number % 2 == 0 {
                prop_assert_eq!(witness.proven.as_ref(), Some(&actor.info), "the offerer proves itself second, to it");
            }
        }
    }

    #[test]
    fn an_untouched_exchange_always_pairs(
        code in any::<bool>(),
        view in (any::<u8>(), any::<u8>(), any::<u8>(), any::<u8>()),
        number in 0u8..100,
    ) {
        let (cb, offerer, joiner, secret) = view;
        let view = View { cb, offerer, joiner, secret };
        let kind = if code { OfferKind::Code } else { OfferKind::Ticket };
        let (mut joiner, first) = Actor::joiner(kind, view.clone(), number);
        let mut offerer = Actor::offerer(kind, view, number);
        let mut line = Some(first);
        let mut offerers_turn = true;
        while let Some(sent) = line {
            line = if offerers_turn { offerer.receive(&sent) } else { joiner.receive(&sent) };
            offerers_turn = !offerers_turn;
        }
        prop_assert!(offerer.confirmed);
        prop_assert_eq!((joiner.proven.as_ref(), offerer.proven.as_ref()), (Some(&offerer.info), Some(&joiner.info)));
    }
}

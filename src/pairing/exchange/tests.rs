//! The exchange against the published vectors, and against a meddler who owns the wire.

use proptest::prelude::*;

use super::*;
use crate::pairing::MAX_LINE;

/// A whole exchange by code, computed by two programs that know nothing of this one.
mod vectors {
    pub(super) const CB: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    pub(super) const SPKI_O: &str =
        "302a300506032b657003210000e3c56b91ab0a017174b96645eaf928366cdbae1e87fd21bf86661d86f3e7ef";
    pub(super) const SPKI_J: &str =
        "302a300506032b6570032100353c8a7feeca38b2c4536e0bd2586fdb18d070e50e059f1d43f8bfefb97a7ce1";
    pub(super) const PA: &str = "410d5a94067c1a1c847efadcb265273bd4c3d6d59f8c025a4adf6b18532aab816a";
    pub(super) const PB: &str = "421787f271fdafe740151ed408d5316a63c94ef1c75d6ccd81d9fe62585a0cfa8c";
    pub(super) const K: &str = "bdac74258678d5c63da02983961552a1a292fc8432734390a13aa2ef056a0fb4";
    pub(super) const TT: &str = "1bacfbf40dfc8945bc458c102a4a3e43aadcb9d688b19d53a1c3d7b03a7dc693";
    pub(super) const KC_J: &str = "eed11347edbb1075b37ab3961c35af865c74703718ba3376cbd43fbfdb1d6d49";
    pub(super) const KC_O: &str = "58694e02faa896314d3d011cfcf70db4e387f7ba3296720ffee34fe396e09a51";
    pub(super) const I_J: &str = r#"{"name":"laptop","port":7433,"addresses":["192.0.2.1"],"version":"0.1.0"}"#;
    pub(super) const I_O: &str = r#"{"name":"desktop","port":7433,"addresses":["192.0.2.2"],"version":"0.1.0"}"#;
    pub(super) const PRK: &str = "3ab8cccd392ba7f6a861b93d213ce85fa853b07c0d529b0ce9f9da26a2d8b3e6";
    pub(super) const MAC3: &str = "02b7d141bf956e6202960761edfc9c426a505d60baf74107aca216292beb3971";
    pub(super) const MAC4: &str = "424c195531f56b13eed0fbe9037500ffab5af00692d5e4376e9f169d8c0a3254";
}

fn bytes<const N: usize>(hex: &str) -> [u8; N] {
    let digits: Vec<u8> =
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
    digits.try_into().unwrap()
}

fn info(name: &str, address: &str) -> Info {
    Info { name: name.into(), port: 7433, addresses: vec![address.into()], version: "0.1.0".into() }
}

fn laptop() -> Info {
    info("laptop", "192.0.2.1")
}

fn desktop() -> Info {
    info("desktop", "192.0.2.2")
}

fn vector_parties<T>(run: impl FnOnce(Parties<'_>) -> T) -> T {
    let (cb, o, j) = (bytes::<32>(vectors::CB), bytes::<44>(vectors::SPKI_O), bytes::<44>(vectors::SPKI_J));
    run(Parties { channel_binding: &cb, offerer_spki: &o, joiner_spki: &j })
}

fn vector_confirmation() -> Confirmation {
    let elements = [bytes::<33>(vectors::PA), bytes::<33>(vectors::PB)];
    let tt =
        vector_parties(|parties| elements.iter().fold(parties.transcript(CODE_LABEL), |hash, e| followed_by(hash, e)));
    let tt = tt.finalize().into();
    assert_eq!(tt, bytes::<32>(vectors::TT));
    Confirmation::new(CODE_LABEL, tt, &bytes::<32>(vectors::K)).unwrap()
}

#[test]
fn the_confirmation_gives_the_published_values() {
    let (prk, _) = Hkdf::<Sha256>::extract(Some(&bytes::<32>(vectors::TT)), &bytes::<32>(vectors::K));
    assert_eq!(<[u8; 32]>::from(prk), bytes::<32>(vectors::PRK));
    let confirmation = vector_confirmation();
    assert_eq!(*confirmation.kc_j, bytes::<32>(vectors::KC_J));
    assert_eq!(*confirmation.kc_o, bytes::<32>(vectors::KC_O));
    assert_eq!(laptop().encode(), vectors::I_J.as_bytes());
    assert_eq!(desktop().encode(), vectors::I_O.as_bytes());
    let mac3 = confirmation.joiners(vectors::I_J.as_bytes()).finalize().into_bytes();
    assert_eq!(<[u8; 32]>::from(mac3), bytes::<32>(vectors::MAC3));
    let mac4 = confirmation.offerers(&mac3.into(), vectors::I_O.as_bytes()).finalize().into_bytes();
    assert_eq!(<[u8; 32]>::from(mac4), bytes::<32>(vectors::MAC4));
}

#[test]
fn both_sides_speak_the_published_values() {
    let (joiner, pair3) = Joiner::confirming(vector_confirmation(), &laptop());
    let proof = Proof { info: vectors::I_J.into(), mac: bytes(vectors::MAC3) };
    assert_eq!(Message::read(&pair3).unwrap(), Message::Pair3(proof));
    let proven = Offerer { confirmation: vector_confirmation(), kind: OfferKind::Code }.receive(&pair3).unwrap();
    assert_eq!(proven.info(), &laptop());
    let (awaiting, pair4) = proven.confirm(&desktop());
    let proof = Proof { info: vectors::I_O.into(), mac: bytes(vectors::MAC4) };
    assert_eq!(Message::read(&pair4).unwrap(), Message::Pair4(proof));
    let proven = joiner.receive(&pair4).unwrap();
    assert_eq!(proven.info(), &desktop());
    assert_eq!(awaiting.receive(&proven.confirm()), Ok(()));
}

#[test]
fn a_ticket_binds_label_binding_and_both_keys_in_that_order() {
    // By hand: what security.md writes as TT0, hashed.
    let (cb, o, j) = (bytes::<32>(vectors::CB), bytes::<44>(vectors::SPKI_O), bytes::<44>(vectors::SPKI_J));
    let tt0 = [b"pi-remote ticket v1", &[0, 0, 0, 32][..], &cb, &[0, 0, 0, 44], &o, &[0, 0, 0, 44], &j].concat();
    let tt = <[u8; 32]>::from(Sha256::digest(tt0));
    assert_eq!(<[u8; 32]>::from(vector_parties(|parties| parties.transcript(TICKET_LABEL)).finalize()), tt);
    let confirmation = vector_parties(|parties| Confirmation::by_ticket(&secret(7), &parties)).unwrap();
    // HKDF by its definition in RFC 5869, for one block.
    let hmac = |key: &[u8], text: &[u8]| {
        let mac = <Hmac<Sha256> as Mac>::new_from_slice(key).unwrap().chain_update(text);
        <[u8; 32]>::from(mac.finalize().into_bytes())
    };
    let prk = hmac(&tt, &[7; 16]);
    assert_eq!(*confirmation.kc_j, hmac(&prk, b"pi-remote ticket v1 confirm J\x01"));
    assert_eq!(*confirmation.kc_o, hmac(&prk, b"pi-remote ticket v1 confirm O\x01"));
}

fn secret(byte: u8) -> Secret {
    Secret::from_bytes(&[byte; 16])
}

/// What one end of a connection knows; the ends of two connections can be told apart in each.
#[derive(Debug, Clone, PartialEq, Eq)]
struct View {
    cb: u8,
    offerer: u8,
    joiner: u8,
    secret: u8,
}

const VIEW: View = View { cb: 1, offerer: 2, joiner: 3, secret: 4 };

impl View {
    fn parties<T>(&self, run: impl FnOnce(Parties<'_>) -> T) -> T {
        let (cb, o, j) = ([self.cb; 32], [self.offerer; 44], [self.joiner; 44]);
        run(Parties { channel_binding: &cb, offerer_spki: &o, joiner_spki: &j })
    }

    fn joiner(&self, info: &Info) -> (Joiner, Vec<u8>) {
        let ticket = Ticket::new(Fingerprint::of_spki(&[self.offerer; 44]), secret(self.secret), vec![]).unwrap();
        self.parties(|parties| Joiner::by_ticket(&ticket, &parties, info)).unwrap()
    }

    fn offerer(&self) -> Offerer {
        self.parties(|parties| Offerer::by_ticket(&secret(self.secret), &parties)).unwrap()
    }
}

#[test]
fn a_whole_exchange_pairs_both() {
    let (joiner, pair3) = VIEW.joiner(&laptop());
    let proven_joiner = VIEW.offerer().receive(&pair3).unwrap();
    assert_eq!(proven_joiner.info(), &laptop());
    let (awaiting, pair4) = proven_joiner.confirm(&desktop());
    let proven_offerer = joiner.receive(&pair4).unwrap();
    assert_eq!(proven_offerer.info(), &desktop());
    let pair5 = proven_offerer.confirm();
    assert_eq!(awaiting.receive(&pair5), Ok(()));
    for line in [&pair3, &pair4, &pair5] {
        assert!(line.len() <= MAX_LINE && line.ends_with(b"\n"));
    }
}

#[test]
fn whatever_differs_in_what_they_saw_nothing_is_proven() {
    let (_, pair3) = VIEW.joiner(&laptop());
    let (_, pair4) = VIEW.offerer().receive(&pair3).unwrap().confirm(&desktop());
    for other in [
        View { cb: 9, ..VIEW },
        View { offerer: 9, ..VIEW },
        View { joiner: 9, ..VIEW },
        View { secret: 9, ..VIEW },
        View { offerer: VIEW.joiner, joiner: VIEW.offerer, ..VIEW },
    ] {
        let rejected = other.offerer().receive(&pair3).unwrap_err();
        assert_eq!(rejected, Rejected { reason: Reason::WrongProof, reply: Some(PAIR_FAIL) }, "{other:?}");
        let rejected = other.joiner(&laptop()).0.receive(&pair4).unwrap_err();
        assert_eq!(rejected, Rejected { reason: Reason::WrongProof, reply: Some(PAIR_FAIL) }, "{other:?}");
    }
    let rejected = VIEW.joiner(&desktop()).0.receive(&pair4).unwrap_err();
    assert_eq!(rejected.reason, Reason::WrongProof, "the answer names the proof that it answers");
}

#[test]
fn a_key_that_is_not_the_tickets_gets_no_proof() {
    let ticket = Ticket::new(Fingerprint::of_spki(&[9; 44]), secret(4), vec![]).unwrap();
    let rejected = VIEW.parties(|parties| Joiner::by_ticket(&ticket, &parties, &laptop())).unwrap_err();
    assert_eq!(rejected, Rejected { reason: Reason::WrongOfferer, reply: None });
    assert_eq!(rejected.reason.failure(OfferKind::Ticket).code, Code::FingerprintMismatch);
}

#[test]
fn each_bit_of_each_line_counts() {
    let (_, pair3) = VIEW.joiner(&laptop());
    let answer = || VIEW.offerer().receive(&pair3).unwrap().confirm(&desktop());
    let (_, pair4) = answer();
    let pair5 = VIEW.joiner(&laptop()).0.receive(&pair4).unwrap().confirm();
    let altered = |line: &[u8]| {
        let line = line.to_vec();
        (0..line.len() * 8).map(move |bit| {
            let mut line = line.clone();
            line[bit / 8] ^= 1 << (bit % 8);
            line
        })
    };
    for line in altered(&pair3) {
        assert_eq!(VIEW.offerer().receive(&line).unwrap_err().reply, Some(PAIR_FAIL));
    }
    for line in altered(&pair4) {
        assert_eq!(VIEW.joiner(&laptop()).0.receive(&line).unwrap_err().reply, Some(PAIR_FAIL));
    }
    for line in altered(&pair5) {
        assert_eq!(answer().0.receive(&line).unwrap_err().reply, Some(PAIR_FAIL));
    }
}

#[test]
fn what_is_not_due_ends_it() {
    let (_, pair3) = VIEW.joiner(&laptop());
    let (_, pair4) = VIEW.offerer().receive(&pair3).unwrap().confirm(&desktop());
    let pair1 = br#"{"type":"pair1","v":1,"m":"QQ1alAZ8GhyEfvrcsmUnO9TD1tWfjAJaSt9rGFMqq4Fq"}"#;
    let pair2 = br#"{"type":"pair2","m":"QheH8nH9r+dAFR7UCNUxamPJTvHHXWzNgdn+YlhaDPqM"}"#;
    let other_version = br#"{"type":"pair1","v":2}"#;
    let long = [b" ".repeat(MAX_LINE), pair3.clone()].concat();
    let fail = |reason| Rejected { reason, reply: Some(PAIR_FAIL) };
    let refused = Rejected { reason: Reason::Refused, reply: None };
    for (line, expected) in [
        (&pair1[..], fail(Reason::WrongKind)),
        (pair2, fail(Reason::OutOfOrder)),
        (&pair4, fail(Reason::OutOfOrder)),
        (PAIR5, fail(Reason::OutOfOrder)),
        (other_version, fail(Reason::WrongVersion)),
        (&long, fail(Reason::TooLong)),
        (b"", fail(Reason::Malformed)),
        (PAIR_FAIL, refused),
    ] {
        assert_eq!(VIEW.offerer().receive(line).unwrap_err(), expected);
    }
    for (line, expected) in [
        (&pair1[..], fail(Reason::OutOfOrder)),
        (pair2, fail(Reason::OutOfOrder)),
        (&pair3, fail(Reason::OutOfOrder)),
        (PAIR5, fail(Reason::OutOfOrder)),
        (b"", fail(Reason::Malformed)),
        (PAIR_FAIL, refused),
    ] {
        assert_eq!(VIEW.joiner(&laptop()).0.receive(line).unwrap_err(), expected);
    }
    for (line, expected) in [
        (&pair1[..], fail(Reason::OutOfOrder)),
        (&pair3, fail(Reason::OutOfOrder)),
        (&pair4, fail(Reason::OutOfOrder)),
        (PAIR_FAIL, refused),
    ] {
        let (awaiting, _) = VIEW.offerer().receive(&pair3).unwrap().confirm(&desktop());
        assert_eq!(awaiting.receive(line).unwrap_err(), expected);
    }
}

#[test]
fn a_joiners_own_proof_sent_back_to_it_proves_nothing() {
    let (joiner, pair3) = VIEW.joiner(&laptop());
    let reflected = String::from_utf8(pair3).unwrap().replace("pair3", "pair4");
    assert_eq!(joiner.receive(reflected.as_bytes()).unwrap_err().reason, Reason::WrongProof);
}

#[test]
fn an_info_that_cannot_be_read_still_pairs() {
    let confirmation = VIEW.parties(|parties| Confirmation::by_ticket(&secret(4), &parties)).unwrap();
    let info = b"\xff nonsense".to_vec();
    let mac = confirmation.joiners(&info).finalize().into_bytes().into();
    let proven = VIEW.offerer().receive(&Proof { info, mac }.line("pair3")).unwrap();
    assert_eq!(proven.info(), &Info::default());
}

#[test]
fn no_state_shows_its_keys() {
    let (joiner, pair3) = VIEW.joiner(&laptop());
    assert_eq!(format!("{:?}", VIEW.offerer()), "Offerer { confirmation: Confirmation(..), kind: Ticket }");
    assert!(format!("{joiner:?}").contains("Confirmation(..)"));
    assert!(format!("{:?}", VIEW.offerer().receive(&pair3).unwrap()).contains("Confirmation(..)"));
}

/// One end of a connection under the meddler's hands.
enum End {
    Joining(Joiner),
    Offering(Offerer),
    Awaiting(AwaitingReceipt),
    Done,
}

struct Actor {
    view: View,
    info: Info,
    end: End,
    /// The other's info, once proven: what a daemon would store.
    proven: Option<Info>,
    confirmed: bool,
}

impl Actor {
    /// Takes a line and gives what it sends.
    fn receive(&mut self, line: &[u8]) -> Option<Vec<u8>> {
        let rejected = |rejected: Rejected| rejected.reply.map(<[u8]>::to_vec);
        match std::mem::replace(&mut self.end, End::Done) {
            End::Joining(joiner) => match joiner.receive(line) {
                Ok(proven) => {
                    self.proven = Some(proven.info().clone());
                    Some(proven.confirm())
                }
                Err(error) => rejected(error),
            },
            End::Offering(offerer) => match offerer.receive(line) {
                Ok(proven) => {
                    self.proven = Some(proven.info().clone());
                    let (awaiting, line) = proven.confirm(&self.info);
                    self.end = End::Awaiting(awaiting);
                    Some(line)
                }
                Err(error) => rejected(error),
            },
            End::Awaiting(awaiting) => match awaiting.receive(line) {
                Ok(()) => {
                    self.confirmed = true;
                    None
                }
                Err(error) => rejected(error),
            },
            End::Done => None,
        }
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
    let (line, to) = (0usize..16, 0usize..8);
    let act = prop_oneof![
        12 => to.clone().prop_map(|from| Meddling::Forward { from }),
        4 => (line.clone(), to.clone()).prop_map(|(line, to)| Meddling::Deliver { line, to }),
        1 => (line.clone(), to.clone(), 0usize..400, any::<u8>())
            .prop_map(|(line, to, at, byte)| Meddling::Alter { line, to, at, byte }),
        1 => (line.clone(), line.clone(), 0usize..400, to.clone())
            .prop_map(|(head, tail, at, to)| Meddling::Splice { head, tail, at, to }),
        1 => (line, to, 3u8..6).prop_map(|(line, to, kind)| Meddling::Rename { line, to, kind }),
    ];
    prop::collection::vec(act, 0..40)
}

fn views() -> impl Strategy<Value = Vec<(View, View)>> {
    let near = || (0u8..2, 0u8..2, 2u8..4, 0u8..2);
    let view = |(cb, offerer, joiner, secret)| View { cb, offerer, joiner, secret };
    // Either both ends of a connection see the same, or somebody stands in between.
    let pair = (near(), near(), any::<bool>()).prop_map(move |(a, b, honest)| {
        let a = view(a);
        (a.clone(), if honest { a } else { view(b) })
    });
    prop::collection::vec(pair, 1..=3)
}

proptest! {
    #[test]
    fn who_owns_the_wire_cannot_make_anyone_prove_what_the_other_did_not_see(
        views in views(),
        acts in meddling(),
    ) {
        let mut sent = Vec::new();
        let mut last = std::collections::HashMap::new();
        let mut actors = Vec::new();
        for (number, (joins, offers)) in views.into_iter().enumerate() {
            let info = info(&format!("j{number}"), "192.0.2.1");
            let (joiner, pair3) = joins.joiner(&info);
            last.insert(actors.len(), pair3.clone());
            sent.push(pair3);
            let end = End::Joining(joiner);
            actors.push(Actor { view: joins, info, end, proven: None, confirmed: false });
            let info = self::info(&format!("o{number}"), "192.0.2.2");
            let end = End::Offering(offers.offerer());
            actors.push(Actor { view: offers, info, end, proven: None, confirmed: false });
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
                    let renamed = (3..6).fold(text, |t, n| t.replace(&format!("pair{n}"), &format!("pair{kind}")));
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
            // Joiners stand at the even places, offerers at the odd ones.
            let witness = actors.iter().enumerate().find(|(other, witness)| {
                other % 2 != number % 2 && witness.view == actor.view && &witness.info == proven
            });
            prop_assert!(witness.is_some(), "{:?} was proven to {:?}", proven, actor.view);
            if number % 2 == 0 {
                let (_, offerer) = witness.unwrap();
                prop_assert_eq!(offerer.proven.as_ref(), Some(&actor.info), "the offerer proves itself second, to it");
            }
        }
    }

    #[test]
    fn an_untouched_exchange_always_pairs(view in (any::<u8>(), any::<u8>(), any::<u8>(), any::<u8>()), name in any::<String>()) {
        let (cb, offerer, joiner, secret) = view;
        let view = View { cb, offerer, joiner, secret };
        let (joiner, pair3) = view.joiner(&info(&name, "192.0.2.1"));
        let (awaiting, pair4) = view.offerer().receive(&pair3).unwrap().confirm(&desktop());
        let proven = joiner.receive(&pair4).unwrap();
        prop_assert_eq!(proven.info(), &desktop());
        prop_assert_eq!(awaiting.receive(&proven.confirm()), Ok(()));
    }
}

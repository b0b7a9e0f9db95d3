//! The exchange against the published vectors, and against whoever does not keep to it.

use rand_core::Error;

use super::*;
use crate::pairing::{MAX_LINE, vectors};

mod meddler;

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

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        self.fill_bytes(bytes);
        Ok(())
    }
}

impl CryptoRng for Steady {}

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
    let (cb, o, j) = (vectors::value::<32>("cb"), vectors::value::<44>("SPKI_O"), vectors::value::<44>("SPKI_J"));
    run(Parties { channel_binding: &cb, offerer_spki: &o, joiner_spki: &j })
}

/// The vectors' randomness of one side.
fn vector_rng(name: &str) -> Steady {
    let bytes: [u8; 64] = vectors::value(name);
    assert_eq!(bytes, [bytes[0]; 64]);
    Steady(bytes[0])
}

/// The members of the line in the order in which this program writes them.
fn line(kind: &str, members: &[(&str, &[u8])]) -> Vec<u8> {
    use base64::Engine as _;
    let encode = |bytes| base64::engine::general_purpose::STANDARD.encode(bytes);
    let version = if kind == "pair1" { ",\"v\":1" } else { "" };
    let members: String = members.iter().map(|(name, bytes)| format!(",\"{name}\":\"{}\"", encode(bytes))).collect();
    format!("{{\"type\":\"{kind}\"{version}{members}}}\n").into_bytes()
}

#[test]
fn an_exchange_by_code_gives_the_published_values_byte_for_byte() {
    let code: PairingCode = "K7MQ-2XVT".parse().unwrap();
    let element = |name| vectors::value::<33>(name);
    vector_parties(|parties| {
        let (id_a, id_b) = parties.identities();
        assert_eq!(
            (id_a.as_slice(), id_b.as_slice()),
            (&vectors::value::<32>("idA")[..], &vectors::value::<32>("idB")[..])
        );
        let (awaiting, pair1) = Joiner::by_code(&code, &parties, vector_rng("random_J")).unwrap();
        assert_eq!(pair1, line("pair1", &[("m", &element("pA"))]));
        let (offerer, pair2) = Offerer::by_code(&code, &parties, &pair1, vector_rng("random_O")).unwrap();
        assert_eq!(pair2, line("pair2", &[("m", &element("pB"))]));
        assert_published(&offerer.confirmation, "");
        let (joiner, pair3) = awaiting.receive(&pair2, &laptop()).unwrap();
        assert_published(&joiner.confirmation, "");
        assert_confirmed(joiner, offerer, &pair3, "");
    });
    let spake = vector_parties(|parties| {
        let (id_a, id_b) = parties.identities();
        Spake2::start_a_with_rng(&Password::new(code.password()), &id_a, &id_b, vector_rng("random_J")).0
    });
    assert_eq!(agreed(spake, OFFERERS, &element("pB")).unwrap().as_slice(), vectors::value::<32>("K"));
}

#[test]
fn an_exchange_by_ticket_gives_the_published_values_byte_for_byte() {
    let secret = || Secret::from_bytes(&vectors::value("ticket_secret"));
    vector_parties(|parties| {
        let ticket = Ticket::new(Fingerprint::of_spki(parties.offerer_spki), secret(), vec![]).unwrap();
        let (joiner, pair3) = Joiner::by_ticket(&ticket, &parties, &laptop()).unwrap();
        let offerer = Offerer::by_ticket(&secret(), &parties, &pair3).unwrap();
        assert_published(&offerer.confirmation, "ticket_");
        assert_published(&joiner.confirmation, "ticket_");
        assert_confirmed(joiner, offerer, &pair3, "ticket_");
    });
}

fn assert_published(confirmation: &Confirmation, prefix: &str) {
    let published = |name| vectors::value::<32>(&format!("{prefix}{name}"));
    assert_eq!(confirmation.tt, published("TT"));
    assert_eq!(*confirmation.kc_j, published("kcJ"));
    assert_eq!(*confirmation.kc_o, published("kcO"));
}

/// Both sides go on from the joiner's proof, and every line is the published one.
fn assert_confirmed(joiner: Joiner, offerer: Offerer, pair3: &[u8], prefix: &str) {
    let mac = |name| vectors::value::<32>(&format!("{prefix}{name}"));
    assert_eq!(pair3, line("pair3", &[("info", vectors::text("I_J").as_bytes()), ("mac", &mac("mac3"))]));
    let proven = offerer.receive(pair3).unwrap();
    assert_eq!(proven.info(), &laptop());
    let (awaiting, pair4) = proven.confirm(&desktop());
    assert_eq!(pair4, line("pair4", &[("info", vectors::text("I_O").as_bytes()), ("mac", &mac("mac4"))]));
    let proven = joiner.receive(&pair4).unwrap();
    assert_eq!(proven.info(), &desktop());
    let pair5 = proven.confirm();
    assert_eq!(pair5, line("pair5", &[]));
    assert_eq!(awaiting.receive(&pair5), Ok(()));
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
        let (_, first_line) = self.joiner(&laptop());
        self.parties(|parties| Offerer::by_ticket(&secret(self.secret), &parties, &first_line)).unwrap()
    }

    fn code(&self) -> PairingCode {
        PairingCode::from_random(&[0, 0, 0, 0, self.secret])
    }

    /// The joiner by code: `chance` stands for its randomness.
    fn typing(&self, chance: u8) -> (AwaitingElement, Vec<u8>) {
        self.parties(|parties| Joiner::by_code(&self.code(), &parties, Steady(chance))).unwrap()
    }

    /// The offerer by code, which has heard this line.
    fn showing(&self, first_line: &[u8], chance: u8) -> Result<(Offerer, Vec<u8>), Rejected> {
        self.parties(|parties| Offerer::by_code(&self.code(), &parties, first_line, Steady(chance)))
    }
}

/// What is answered with `pair_fail`.
fn fail(reason: Reason) -> Rejected {
    Rejected { reason, reply: Some(PAIR_FAIL) }
}

/// What ends without an answer.
fn silent(reason: Reason) -> Rejected {
    Rejected { reason, reply: None }
}

fn renamed(line: &[u8], from: &str, to: &str) -> Vec<u8> {
    let text = str::from_utf8(line).unwrap();
    assert!(text.contains(from));
    text.replace(from, to).into_bytes()
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
        assert_eq!(rejected, fail(Reason::WrongProof), "{other:?}");
        let rejected = other.joiner(&laptop()).0.receive(&pair4).unwrap_err();
        assert_eq!(rejected, fail(Reason::WrongProof), "{other:?}");
    }
    let rejected = VIEW.joiner(&desktop()).0.receive(&pair4).unwrap_err();
    assert_eq!(rejected.reason, Reason::WrongProof, "the answer names the proof that it answers");
}

#[test]
fn a_key_that_is_not_the_tickets_gets_no_proof() {
    let ticket = Ticket::new(Fingerprint::of_spki(&[9; 44]), secret(4), vec![]).unwrap();
    let rejected = VIEW.parties(|parties| Joiner::by_ticket(&ticket, &parties, &laptop())).unwrap_err();
    assert_eq!(rejected, silent(Reason::WrongOfferer));
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
    let (_, pair1) = VIEW.typing(1);
    let (_, pair2) = VIEW.showing(&pair1, 2).unwrap();
    let other_version = renamed(&pair1, "\"v\":1", "\"v\":2");
    let no_version = renamed(&pair1, "\"v\":1,", "");
    let long = [b" ".repeat(MAX_LINE), pair3.clone()].concat();
    let lines: [&[u8]; 10] =
        [&pair1, &pair2, &pair3, &pair4, PAIR5, PAIR_FAIL, &other_version, &no_version, &long, b""];
    let meets = |state: &str, due: usize, others: [Rejected; 2], receive: &dyn Fn(&[u8]) -> Result<(), Rejected>| {
        let out_of_order = fail(Reason::OutOfOrder);
        let [first, third] = others;
        let expected = [
            first,
            out_of_order,
            third,
            out_of_order,
            out_of_order,
            silent(Reason::Refused),
            fail(Reason::WrongVersion),
            fail(Reason::Malformed),
            fail(Reason::TooLong),
            fail(Reason::Malformed),
        ];
        for (at, line) in lines.iter().enumerate() {
            let expected = if at == due { Ok(()) } else { Err(expected[at]) };
            assert_eq!(receive(line), expected, "{state}: {}", String::from_utf8_lossy(line));
        }
    };
    let (out_of_order, wrong_kind) = (fail(Reason::OutOfOrder), fail(Reason::WrongKind));
    let neither = [out_of_order, out_of_order];
    meets("an offerer by code", 0, [out_of_order, wrong_kind], &|line| VIEW.showing(line, 2).map(|_| ()));
    meets("an offerer by ticket", 2, [wrong_kind, out_of_order], &|line| VIEW.offerer().receive(line).map(|_| ()));
    meets("a joiner by code", 1, neither, &|line| VIEW.typing(1).0.receive(line, &laptop()).map(|_| ()));
    meets("a joiner", 3, neither, &|line| VIEW.joiner(&laptop()).0.receive(line).map(|_| ()));
    meets("an offerer, paired", 4, neither, &|line| {
        VIEW.offerer().receive(&pair3).unwrap().confirm(&desktop()).0.receive(line)
    });
    let (offerer, _) = VIEW.showing(&pair1, 2).unwrap();
    assert_eq!(offerer.receive(&pair1).unwrap_err(), out_of_order, "the right kind, and said already");
    let (offerer, _) = VIEW.showing(&pair1, 2).unwrap();
    assert_eq!(offerer.receive(&pair3).unwrap_err(), fail(Reason::WrongProof), "the proof of a ticket");
}

#[test]
fn a_joiners_own_proof_sent_back_to_it_proves_nothing() {
    let (joiner, pair3) = VIEW.joiner(&laptop());
    let reflected = renamed(&pair3, "pair3", "pair4");
    assert_eq!(joiner.receive(&reflected).unwrap_err().reason, Reason::WrongProof);
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
    let code: PairingCode = "K7MQ-2XVT".parse().unwrap();
    let (awaiting, _) = VIEW.parties(|parties| Joiner::by_code(&code, &parties, Steady(7))).unwrap();
    let shown = format!("{awaiting:?}");
    assert!(!shown.contains("K7MQ") && !shown.contains("scalar"), "{shown}");
    assert!(format!("{:?}", VIEW.offerer().receive(&pair3).unwrap()).contains("Confirmation(..)"));
}

/// A joiner and an offerer who have exchanged elements, and the joiner's proof.
fn agreed_by_code(joins: &View, offers: &View) -> (Joiner, Offerer, Vec<u8>) {
    let (awaiting, pair1) = joins.typing(1);
    let (offerer, pair2) = offers.showing(&pair1, 2).unwrap();
    let (joiner, pair3) = awaiting.receive(&pair2, &laptop()).unwrap();
    (joiner, offerer, pair3)
}

#[test]
fn with_one_code_over_one_connection_both_are_proven() {
    let (joiner, offerer, pair3) = agreed_by_code(&VIEW, &VIEW);
    let (awaiting, pair4) = offerer.receive(&pair3).unwrap().confirm(&desktop());
    let proven = joiner.receive(&pair4).unwrap();
    assert_eq!(proven.info(), &desktop());
    assert_eq!(awaiting.receive(&proven.confirm()), Ok(()));
}

#[test]
fn a_wrong_code_and_somebody_in_between_prove_nothing_and_look_the_same() {
    for other in [
        View { secret: 9, ..VIEW },
        View { cb: 9, ..VIEW },
        View { offerer: 9, ..VIEW },
        View { joiner: 9, ..VIEW },
        View { offerer: VIEW.joiner, joiner: VIEW.offerer, ..VIEW },
    ] {
        let (_, offerer, pair3) = agreed_by_code(&VIEW, &other);
        assert_eq!(offerer.receive(&pair3).unwrap_err(), fail(Reason::WrongProof), "{other:?}");
        // Who answers all the same, with the best that can be had without the code.
        let (joiner, offerer, _) = agreed_by_code(&VIEW, &other);
        let proof = |mac| Proof { info: desktop().encode(), mac }.line("pair4");
        let mac = offerer.confirmation.offerers(&joiner.mac3, &desktop().encode()).finalize().into_bytes();
        assert_eq!(joiner.receive(&proof(mac.into())).unwrap_err(), fail(Reason::WrongProof), "{other:?}");
    }
    let words = |reason: Reason| reason.to_string();
    for reason in [Reason::WrongProof, Reason::Refused] {
        assert!(words(reason).contains("code or ticket") && words(reason).contains("in between"), "{reason}");
    }
}

#[test]
fn a_replayed_transcript_proves_nothing() {
    let (_, pair1) = VIEW.typing(1);
    let (offerer, pair2) = VIEW.showing(&pair1, 2).unwrap();
    let (joiner, _, pair3) = agreed_by_code(&VIEW, &VIEW);
    let (_, pair4) = offerer.receive(&pair3).unwrap().confirm(&desktop());
    assert!(joiner.receive(&pair4).is_ok(), "true the first time");
    let (offerer, _) = VIEW.showing(&pair1, 3).unwrap();
    assert_eq!(offerer.receive(&pair3).unwrap_err().reason, Reason::WrongProof);
    let (joiner, _) = VIEW.typing(4).0.receive(&pair2, &laptop()).unwrap();
    assert_eq!(joiner.receive(&pair4).unwrap_err().reason, Reason::WrongProof);
}

#[test]
fn a_point_that_no_honest_side_sends_is_refused_by_both() {
    let kinds = ["small_order", "mixed_order", "non_canonical", "off_the_curve"];
    for (kind, point) in kinds.iter().flat_map(|kind| vectors::all(kind).into_iter().map(move |hex| (kind, hex))) {
        let point = vectors::bytes(point);
        let element = |letter| [&[letter], &point[..]].concat();
        let rejected = VIEW.showing(&line("pair1", &[("m", &element(b'A'))]), 2).unwrap_err();
        assert_eq!(rejected, fail(Reason::BadElement), "{kind} {point:?}");
        let pair2 = line("pair2", &[("m", &element(b'B'))]);
        let rejected = VIEW.typing(1).0.receive(&pair2, &laptop()).unwrap_err();
        assert_eq!(rejected, fail(Reason::BadElement), "{kind} {point:?}");
        // Else these checks could go.
        assert_eq!(VIEW.typing(1).0.spake.finish(&element(b'B')).is_ok(), *kind != "off_the_curve", "{kind}");
    }
}

#[test]
fn an_element_of_the_wrong_side_is_refused() {
    let (pa, pb) = (vectors::value::<33>("pA"), vectors::value::<33>("pB"));
    let with = |letter: u8, element: [u8; 33]| [&[letter], &element[1..]].concat();
    for letter in 0..=255 {
        let pair1 = line("pair1", &[("m", &with(letter, pa))]);
        let expected = if letter == b'A' { None } else { Some(fail(Reason::BadElement)) };
        assert_eq!(VIEW.showing(&pair1, 2).err(), expected, "{letter}");
        let pair2 = line("pair2", &[("m", &with(letter, pb))]);
        let expected = if letter == b'B' { None } else { Some(fail(Reason::BadElement)) };
        assert_eq!(VIEW.typing(1).0.receive(&pair2, &laptop()).err(), expected, "{letter}");
    }
}

#[test]
fn a_joiners_own_element_sent_back_to_it_proves_nothing() {
    let (awaiting, pair1) = VIEW.typing(1);
    let reflected = renamed(&pair1, "pair1", "pair2");
    assert_eq!(awaiting.receive(&reflected, &laptop()).unwrap_err(), fail(Reason::BadElement));
    // Under the offerer's letter it is a point like any other, and then there is no proof.
    let (awaiting, _) = VIEW.typing(1);
    let Ok(Message::Pair1(mut element)) = Message::read(&pair1) else { panic!("not read") };
    element[0] = b'B';
    let (joiner, pair3) = awaiting.receive(&pair2(&element), &laptop()).unwrap();
    let reflected = renamed(&pair3, "pair3", "pair4");
    assert_eq!(joiner.receive(&reflected).unwrap_err(), fail(Reason::WrongProof));
}

#[test]
fn each_bit_of_the_elements_counts() {
    let (_, pair1) = VIEW.typing(1);
    let (offerer, pair2) = VIEW.showing(&pair1, 2).unwrap();
    let (_, _, pair3) = agreed_by_code(&VIEW, &VIEW);
    let (_, pair4) = offerer.receive(&pair3).unwrap().confirm(&desktop());
    // Those that cannot be read are refused before anything else is done with them.
    let altered = |line: &[u8]| -> Vec<Vec<u8>> {
        let one = |bit: usize| {
            let mut line = line.to_vec();
            line[bit / 8] ^= 1 << (bit % 8);
            line
        };
        (0..line.len() * 8).map(one).filter(|line| Message::read(line).is_ok()).collect()
    };
    let mut taken = 0;
    for line in altered(&pair1) {
        if let Ok((offerer, _)) = VIEW.showing(&line, 2) {
            assert_eq!(offerer.receive(&pair3).unwrap_err(), fail(Reason::WrongProof));
            taken += 1;
        }
    }
    for line in altered(&pair2) {
        if let Ok((joiner, _)) = VIEW.typing(1).0.receive(&line, &laptop()) {
            assert_eq!(joiner.receive(&pair4).unwrap_err(), fail(Reason::WrongProof));
            taken += 1;
        }
    }
    assert!(taken > 0, "some are points all the same");
}

#[test]
fn each_failure_says_what_mends_it() {
    let hint = |reason: Reason, kind| reason.failure(kind).hint.unwrap();
    assert!(hint(Reason::WrongProof, OfferKind::Code).contains("`pi-remote pair`"));
    assert!(hint(Reason::Refused, OfferKind::Ticket).contains("`pi-remote pair --ticket`"));
    for kind in [OfferKind::Code, OfferKind::Ticket] {
        assert!(hint(Reason::WrongVersion, kind).contains("same version"));
        assert_eq!(Reason::BadElement.failure(kind).code, Code::PairingFailed);
    }
}

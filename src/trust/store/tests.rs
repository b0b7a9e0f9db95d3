use super::*;
use crate::wire::commands::HOSTILE;
use std::os::unix::fs::PermissionsExt;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::open(&dir.path().join("s")).unwrap();
    (dir, Store::load(state).unwrap())
}

impl Store {
    fn pin_now(&mut self, new: NewPeer) -> Result<Peer, Failure> {
        let (peer, change) = self.pin(new, SystemTime::UNIX_EPOCH)?;
        change.write()?;
        self.believe(change);
        Ok(peer)
    }
}

fn new(byte: u8, suggested: &str) -> NewPeer {
    NewPeer {
        fingerprint: Fingerprint::from_bytes([byte; 32]),
        petname: None,
        suggested: PeerName::suggested(suggested),
        replaces: None,
        addresses: vec![],
        grant: Grant::of_preset(GrantId(0), Preset::Full),
        via: "ticket",
    }
}

#[test]
fn a_name_that_would_do_harm_in_a_shell_is_loaded_and_quoted_in_hints() {
    let (_dir, mut store) = store();
    let named = |byte| NewPeer { petname: Some(HOSTILE.parse().unwrap()), ..new(byte, "x") };
    store.pin_now(named(1)).unwrap();
    let mut again = Store::load(store.dir.clone()).unwrap();
    assert_eq!(again.peers()[0].name.as_str(), HOSTILE);
    let taken = again.pin_now(named(2)).unwrap_err().hint.unwrap();
    let option = format!("--replace {}", quoted(HOSTILE));
    assert!(taken.contains(&option), "{taken}");
}

#[test]
fn what_was_pinned_is_there_after_a_restart() {
    let (_dir, mut store) = store();
    let peer = store.pin_now(new(1, "desktop")).unwrap();
    let again = Store::load(store.dir.clone()).unwrap();
    assert_eq!(again.peers(), [peer]);
    let mode = std::fs::metadata(store.dir.join(FILE)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_suggested_name_that_is_taken_gets_a_number_and_a_given_one_is_refused() {
    let (_dir, mut store) = store();
    store.pin_now(new(1, "pi")).unwrap();
    assert_eq!(store.pin_now(new(2, "pi")).unwrap().name.as_str(), "pi-2");
    let given = NewPeer { petname: Some("pi".parse().unwrap()), ..new(3, "x") };
    assert_eq!(store.pin_now(given).unwrap_err().code, Code::NameTaken);
    assert_eq!(store.peers().len(), 2);
}

#[test]
fn pairing_again_keeps_the_name_and_replacing_moves_it_to_the_new_key() {
    let (_dir, mut store) = store();
    store.pin_now(new(1, "pi")).unwrap();
    assert_eq!(store.pin_now(new(1, "other")).unwrap().name.as_str(), "pi");
    let replacing = NewPeer { replaces: Some(Fingerprint::from_bytes([1; 32])), ..new(2, "other") };
    assert_eq!(store.pin_now(replacing).unwrap().name.as_str(), "pi");
    assert!(store.get(Fingerprint::from_bytes([1; 32])).is_none(), "the old pin is dropped");
}

#[test]
fn pairing_again_changes_nothing_but_when_and_how_it_was_paired() {
    let (_dir, mut store) = store();
    let address = |n: u8| Address { address: format!("192.0.2.{n}:7433"), source: AddressSource::User };
    store.pin_now(NewPeer { addresses: vec![address(1)], ..new(1, "pi") }).unwrap();
    let seen = |peer: &mut Peer| (peer.last_seen, peer.version) = (Some("then".into()), Some("1".into()));
    let (before, change) = store.update(Fingerprint::from_bytes([1; 32]), seen).unwrap();
    store.believe(change);
    let again = NewPeer { via: "code", addresses: vec![address(1), address(2)], ..new(1, "other") };
    let again = store.pin_now(again).unwrap();
    let expected = Peer { addresses: vec![address(1), address(2)], paired_via: "code".into(), ..before };
    assert_eq!(again, expected);
    assert_eq!(store.peers(), [again]);
}

#[test]
fn no_peer_is_called_what_this_machine_is_called() {
    let (_dir, mut store) = store();
    store.keep_for_itself("pi".parse().unwrap());
    assert_eq!(store.pin_now(new(1, "pi")).unwrap().name.as_str(), "pi-2");
    let given = NewPeer { petname: Some("pi".parse().unwrap()), ..new(2, "x") };
    assert_eq!(store.pin_now(given).unwrap_err().code, Code::NameTaken);
    let renamed = store.update(Fingerprint::from_bytes([1; 32]), |peer| peer.name = "pi".parse().unwrap());
    let refused = renamed.err().unwrap();
    assert_eq!(refused.code, Code::NameTaken);
    let hint = refused.hint.unwrap();
    assert!(!hint.contains("--"), "it has neither --as nor --replace: {hint}");
}

#[test]
fn addresses_are_bounded_and_the_least_certain_goes_first() {
    let mut addresses = Vec::new();
    let address = |n: usize, source| Address { address: format!("192.0.2.{n}:7433"), source };
    add_address(&mut addresses, address(0, AddressSource::User));
    for n in 1..20 {
        add_address(&mut addresses, address(n, AddressSource::Hello));
    }
    assert_eq!(addresses.len(), MAX_ADDRESSES);
    assert_eq!(addresses[0].address, "192.0.2.0:7433");
    assert_eq!(addresses[7].address, "192.0.2.19:7433");
}

#[test]
fn a_broken_file_is_named_and_left_alone() {
    let (_dir, mut store) = store();
    store.pin_now(new(1, "a")).unwrap();
    store.dir.write_atomic(FILE, b"{\"version\":1,\"peers\":[{}]}").unwrap();
    let failure = Store::load(store.dir.clone()).unwrap_err();
    assert!(failure.message.contains("peers.json") && failure.hint.is_some(), "{failure:?}");
}

fn terms(json: &str) -> Grant {
    Grant::of_terms(&serde_json::from_str(json).unwrap(), SystemTime::UNIX_EPOCH).unwrap()
}

fn device(byte: u8) -> Fingerprint {
    Fingerprint::from_bytes([byte; 32])
}

impl Store {
    fn grant_now(&mut self, peer: u8, grant: &str, add: bool) -> Result<Grant, Failure> {
        let (_, grant, change) = self.grant(device(peer), terms(grant), add)?;
        change.write()?;
        self.believe(change);
        Ok(grant)
    }

    fn ids(&self, peer: u8) -> Vec<u64> {
        self.get(device(peer)).unwrap().grants.iter().map(|grant| grant.id.0).collect()
    }
}

#[test]
fn a_grant_replaces_or_is_added_and_no_id_is_used_twice() {
    let (_dir, mut store) = store();
    store.pin_now(new(1, "pi")).unwrap();
    store.pin_now(new(2, "other")).unwrap();
    assert_eq!((store.ids(1), store.ids(2)), (vec![1], vec![2]));
    store.grant_now(1, r#"{"preset":"read"}"#, false).unwrap();
    store.grant_now(1, r#"{"verbs":["send"]}"#, true).unwrap();
    assert_eq!(store.ids(1), [3, 4]);
    let (peer, grant, change) = store.revoke(GrantId(4)).unwrap();
    assert_eq!((peer.grants.len(), grant.id), (1, GrantId(4)));
    change.write().unwrap();
    store.believe(change);
    let mut again = Store::load(store.dir.clone()).unwrap();
    assert_eq!(again.peers(), store.peers());
    again.grant_now(2, r#"{"preset":"none"}"#, true).unwrap();
    assert_eq!(again.ids(2), [2, 5], "not 4 again");
    assert_eq!(again.revoke(GrantId(4)).err().unwrap().code, Code::NotFound);
    // What gives nothing without the list is refused, and so is one too many.
    assert!(again.grant_now(1, r#"{"verbs":["send"]}"#, false).is_err());
    for n in again.ids(2).len()..MAX_GRANTS {
        again.grant_now(2, &format!(r#"{{"preset":"read","sessions":["id:s-{n}"]}}"#), true).unwrap();
    }
    assert_eq!(again.grant_now(2, r#"{"preset":"read"}"#, true).unwrap_err().code, Code::Overloaded);
    again.grant_now(2, r#"{"preset":"read"}"#, false).unwrap();
    // Other changes name no grant.
    let next = again.contents.next_grant;
    assert_eq!(
        [again.lock(true), again.unpin(device(1)), again.with(|_| ())].map(|c| c.contents.next_grant),
        [next; 3]
    );
}

#[test]
fn pairing_again_never_widens_and_replacing_moves_grants_to_the_new_key() {
    let (_dir, mut store) = store();
    store.pin_now(new(1, "pi")).unwrap();
    let read = store.grant_now(1, r#"{"preset":"read","sessions":["name:x"]}"#, false).unwrap();
    assert_eq!(store.pin_now(new(1, "pi")).unwrap().grants, std::slice::from_ref(&read));
    let replacing = NewPeer { replaces: Some(device(1)), ..new(2, "pi") };
    assert_eq!(store.pin_now(replacing).unwrap().grants, std::slice::from_ref(&read));
    let (_, _, change) = store.revoke(read.id).unwrap();
    store.believe(change);
    assert_eq!(store.pin_now(new(2, "pi")).unwrap().grants, [], "nothing stays nothing");
}

#[test]
fn what_is_over_is_taken_out_and_the_rest_stays() {
    let (_dir, mut store) = store();
    let second = |n| SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(n);
    store.pin_now(new(1, "pi")).unwrap();
    assert_eq!(store.next_end(), None);
    store.grant_now(1, r#"{"preset":"read","forSeconds":10}"#, true).unwrap();
    store.grant_now(1, r#"{"preset":"read","forSeconds":20}"#, true).unwrap();
    assert_eq!(store.next_end(), Some(second(10)));
    let (over, change) = store.expire(second(10));
    assert_eq!(over.iter().map(|(peer, grant)| (*peer, grant.id.0)).collect::<Vec<_>>(), [(device(1), 2)]);
    store.believe(change);
    assert_eq!((store.ids(1), store.next_end()), (vec![1, 3], Some(second(20))));
}

#[test]
fn lock_and_date_are_kept_and_the_date_never_goes_back() {
    let (_dir, mut store) = store();
    let second = |n| SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(n);
    let mut change = store.lock(true);
    change.date(second(9));
    change.write().unwrap();
    store.believe(change);
    let mut again = Store::load(store.dir.clone()).unwrap();
    assert_eq!((again.is_locked(), again.latest()), (true, Some(second(9))));
    let mut change = again.lock(false);
    change.date(second(5));
    again.believe(change);
    assert_eq!((again.is_locked(), again.latest()), (false, Some(second(9))));
}

#[test]
fn what_a_peer_has_already_is_not_given_again_beside_itself() {
    let (_dir, mut store) = store();
    store.pin_now(new(1, "pi")).unwrap();
    let read = r#"{"preset":"read","sessions":["name:work"]}"#;
    let first = store.grant_now(1, read, true).unwrap();
    assert_eq!(store.grant_now(1, read, true).unwrap(), first);
    assert_eq!(store.ids(1), [1, 2]);
    let until = r#"{"preset":"read","sessions":["name:work"],"forSeconds":60}"#;
    assert_eq!((store.grant_now(1, until, true).unwrap().id, store.ids(1)), (GrantId(3), vec![1, 2, 3]));
    // In place of all else it is a new one.
    assert_eq!((store.grant_now(1, read, false).unwrap().id, store.ids(1)), (GrantId(4), vec![4]));
}

#[test]
fn when_a_peer_was_paired_is_a_date_and_of_where_it_was_seen_the_newest_are_read() {
    let file = |paired_at: &str, seen_from: &[String]| {
        let peer = serde_json::json!({
            "name": "desk", "fingerprint": device(1), "addresses": [], "pairedAt": paired_at, "pairedVia": "code",
            "seenFrom": seen_from, "grants": [],
        });
        let file =
            serde_json::json!({ "version": 2, "nextGrant": 1, "locked": false, "latest": null, "peers": [peer] });
        read(file.to_string().as_bytes())
    };
    for bad in ["", "then", "2026-01-01", "1969-12-31T23:59:59Z", "\u{1b}[2J"] {
        assert_eq!(file(bad, &[]).unwrap_err(), "the pairedAt of desk is no date", "{bad:?}");
    }
    let seen: Vec<String> = (0..100).map(|n| format!("192.0.2.{n}")).collect();
    assert_eq!(file("2026-01-01T00:00:00.000Z", &seen).unwrap().peers[0].seen_from, seen[68..]);
}

#[test]
fn a_file_of_the_first_version_gives_everything_and_is_written_as_the_second() {
    let (_dir, store) = store();
    let peer = |byte: u8, name: &str| {
        serde_json::json!({
            "name": name, "fingerprint": device(byte), "addresses": [], "pairedAt": "2026-01-01T00:00:00Z", "pairedVia": "code",
            "grant": "full",
        })
    };
    let file = serde_json::json!({ "version": 1, "peers": [peer(1, "b"), peer(2, "a")] });
    store.dir.write_atomic(FILE, file.to_string().as_bytes()).unwrap();
    let mut read = Store::load(store.dir.clone()).unwrap();
    let full = |id| vec![Grant::of_preset(GrantId(id), Preset::Full)];
    assert_eq!(read.peers().iter().map(|peer| peer.grants.clone()).collect::<Vec<_>>(), [full(2), full(1)]);
    read.grant_now(1, r#"{"preset":"read"}"#, false).unwrap();
    assert_eq!(read.ids(1), [3]);
    let written = String::from_utf8(std::fs::read(store.dir.join(FILE)).unwrap()).unwrap();
    assert!(written.contains("\"version\": 2"), "{written}");
    assert_eq!(Store::load(store.dir.clone()).unwrap().peers(), read.peers());
}

#[test]
fn a_file_of_the_first_version_with_what_that_did_not_have_is_refused() {
    let peer = |more: Value| {
        let mut peer = serde_json::json!({
            "name": "desk", "fingerprint": device(1), "addresses": [], "pairedAt": "2026-01-01T00:00:00Z", "pairedVia": "code",
        });
        peer.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::json!({ "version": 1, "peers": [peer] })
    };
    assert!(read(peer(serde_json::json!({})).to_string().as_bytes()).is_ok());
    for (member, value) in [
        ("grants", serde_json::json!([])),
        ("grant", serde_json::json!("read")),
        ("grant", serde_json::json!({ "preset": "read" })),
    ] {
        let error = read(peer(serde_json::json!({ member: value })).to_string().as_bytes()).unwrap_err();
        assert!(error.contains("version 1 has no grant"), "{error}");
    }
    for (member, value) in [("nextGrant", 1.into()), ("locked", true.into()), ("latest", Value::Null)] {
        let mut file = peer(serde_json::json!({}));
        file[member] = value;
        assert_eq!(
            read(file.to_string().as_bytes()).unwrap_err(),
            format!("version 1 has no {member}, and this file has")
        );
    }
}

#[test]
fn a_file_that_lacks_a_limit_or_has_one_that_is_not_known_is_refused() {
    let (_dir, mut store) = store();
    store.pin_now(new(1, "desk")).unwrap();
    let whole: Value = serde_json::from_slice(&std::fs::read(store.dir.join(FILE)).unwrap()).unwrap();
    assert!(read(whole.to_string().as_bytes()).is_ok());
    let grant = "/peers/0/grants/0";
    for (place, members) in [
        ("", ["nextGrant", "locked", "latest", "peers"].as_slice()),
        ("/peers/0", &["grants"]),
        (grant, &["allow", "ask", "deny", "sessions", "from", "expires"]),
    ] {
        for member in members {
            let mut without = whole.clone();
            assert!(without.pointer_mut(place).unwrap().as_object_mut().unwrap().remove(*member).is_some(), "{member}");
            let error = read(without.to_string().as_bytes()).unwrap_err();
            assert!(error.contains("missing field"), "{member}: {error}");
        }
        let mut more = whole.clone();
        more.pointer_mut(place).unwrap()["lockd"] = true.into();
        assert!(read(more.to_string().as_bytes()).unwrap_err().contains("unknown field `lockd`"));
    }
}

/// Grants with every member, those that are not named empty.
fn whole(grants: &str) -> String {
    let mut grants: Value = serde_json::from_str(grants).unwrap();
    for grant in grants.as_array_mut().unwrap().iter_mut().filter_map(Value::as_object_mut) {
        for list in ["allow", "ask", "deny", "sessions", "from"] {
            grant.entry(list).or_insert(serde_json::json!([]));
        }
        grant.entry("expires").or_insert(Value::Null);
    }
    grants.to_string()
}

#[test]
fn a_grant_that_a_hand_has_spoilt_is_refused_with_whose_it_is() {
    let desk = |grants: &str| read(&file(std::iter::once(("desk".to_owned(), device(1), grants))));
    assert!(desk("[]").is_ok());
    let many = |n| {
        let one = |n| format!(r#"{{"id":"g{n}","preset":"read","allow":["list","read","events"]}}"#);
        format!("[{}]", (0..n).map(one).collect::<Vec<_>>().join(","))
    };
    assert!(desk(&many(MAX_GRANTS)).is_ok());
    for (grants, says) in [
        (r#"[{"id":"g1","preset":"custom","allow":["read"],"ask":["list"]}]"#, "desk: nobody can be asked about list"),
        (r#"[{"id":"g1","preset":"read","allow":["list","read","send"]}]"#, "the grant g1 of desk"),
        (r#"[{"id":"g1","preset":"custom"},{"id":"g1","preset":"custom"}]"#, "g1 of desk stands there twice"),
        (r#"[{"id":"g9007199254740992","preset":"custom"}]"#, "no number is left"),
        (&many(MAX_GRANTS + 1), "desk has more than 64"),
        (r#"[{"id":"g1","preset":"custom","until":"x"}]"#, "unknown field"),
    ] {
        let error = desk(grants).unwrap_err();
        assert!(error.contains(says), "{grants}: {error}");
    }
    let soon = String::from_utf8(file(std::iter::empty())).unwrap().replace("null", "\"soon\"");
    assert!(read(soon.as_bytes()).is_err());
    assert!(read(br#"{"version":3}"#).unwrap_err().contains("version 3"));
}

/// A file with these peers, each `(name, fingerprint, grants)`.
fn file<'a>(peers: impl Iterator<Item = (String, Fingerprint, &'a str)>) -> Vec<u8> {
    let peer = |(name, fingerprint, grants)| {
        let grants = whole(grants);
        format!(
            r#"{{"name":"{name}","fingerprint":"{fingerprint}","addresses":[],"pairedAt":"2026-01-01T00:00:00Z","pairedVia":"code","grants":{grants}}}"#
        )
    };
    let peers: Vec<String> = peers.map(peer).collect();
    format!(r#"{{"version":2,"nextGrant":0,"locked":false,"latest":null,"peers":[{}]}}"#, peers.join(",")).into_bytes()
}

#[test]
fn a_thousand_peers_are_pinned_and_one_more_only_in_place_of_another() {
    let (_dir, mut store) = store();
    let key = |n: usize| {
        let mut key = [7; 32];
        key[..8].copy_from_slice(&n.to_be_bytes());
        Fingerprint::from_bytes(key)
    };
    store.contents = read(&file((1..MAX_PEERS).map(|n| (format!("p{n}"), key(n), "[]")))).unwrap();
    store.pin_now(new(1, "last")).unwrap();
    assert_eq!(store.pin_now(new(2, "more")).unwrap_err().code, Code::Overloaded);
    store.pin_now(new(1, "last")).unwrap();
    store.pin_now(NewPeer { replaces: Some(key(1)), ..new(2, "more") }).unwrap();
    assert_eq!(store.peers().len(), MAX_PEERS);
}

#[test]
fn a_name_or_a_key_that_stands_there_twice_is_refused() {
    let two = |name: &str, byte| {
        read(&file([("pi", 1), (name, byte)].map(|(n, b)| (n.to_owned(), device(b), "[]")).into_iter()))
    };
    assert!(two("desk", 2).is_ok());
    assert!(two("pi", 2).unwrap_err().contains("pi stands there twice"));
    assert!(two("desk", 1).unwrap_err().contains("desk stands there twice"));
}

#[test]
fn the_last_number_of_a_grant_is_given_and_none_after_it() {
    let (_dir, mut store) = store();
    let last = r#"[{"id":"g9007199254740990","preset":"custom"}]"#;
    store.contents = read(&file(std::iter::once(("pi".to_owned(), device(1), last)))).unwrap();
    assert_eq!(store.grant_now(1, r#"{"preset":"read"}"#, false).unwrap().id, GrantId(MAX_GRANT_ID - 1));
    let mut again = Store::load(store.dir.clone()).unwrap();
    assert_eq!(again.grant_now(1, r#"{"preset":"read"}"#, false).unwrap_err().code, Code::Overloaded);
    let empty = read(&file(std::iter::empty())).unwrap();
    assert_eq!(empty.next_grant, 1, "none is named g0");
}

#[test]
fn a_peer_is_found_by_its_name_or_its_key_and_renamed_to_none_that_another_has() {
    let (_dir, mut store) = store();
    store.pin_now(new(1, "pi")).unwrap();
    store.pin_now(new(2, "desk")).unwrap();
    for text in ["pi".to_owned(), device(1).to_string()] {
        assert_eq!(store.find(&text).unwrap().fingerprint, device(1), "{text}");
    }
    assert_eq!(store.find("p").unwrap_err().code, Code::PeerNotFound);
    assert_eq!(store.find(&device(3).to_string()).unwrap_err().code, Code::PeerNotFound);
    let rename = |store: &Store, byte, name: &str| {
        let renamed = store.update(device(byte), |peer| peer.name = name.parse().unwrap());
        renamed.map(|(peer, _)| peer.name.to_string()).map_err(|failure| failure.code)
    };
    assert_eq!(rename(&store, 1, "desk"), Err(Code::NameTaken));
    assert_eq!(rename(&store, 1, "pi"), Ok("pi".into()));
    assert_eq!(rename(&store, 3, "x"), Err(Code::PeerNotFound));
    // A name that it had before this machine took it stays its own.
    store.keep_for_itself("pi".parse().unwrap());
    assert_eq!(rename(&store, 1, "pi"), Ok("pi".into()));
    let again = NewPeer { petname: Some("pi".parse().unwrap()), ..new(1, "x") };
    assert_eq!(store.pin_now(again).unwrap().name.as_str(), "pi");
    let change = store.unpin(device(1));
    store.believe(change);
    assert_eq!(store.peers().iter().map(|peer| peer.fingerprint).collect::<Vec<_>>(), [device(2)]);
}

#[test]
fn a_new_key_that_is_pinned_already_may_keep_its_own_name_when_it_replaces_another() {
    let (_dir, mut store) = store();
    store.pin_now(new(1, "pi")).unwrap();
    store.pin_now(new(2, "desk")).unwrap();
    let named = |name: &str| NewPeer { replaces: Some(device(1)), petname: Some(name.parse().unwrap()), ..new(2, "x") };
    store.pin_now(new(3, "other")).unwrap();
    assert_eq!(store.petname_for(&named("other")).unwrap_err().code, Code::NameTaken);
    assert_eq!(store.pin_now(named("desk")).unwrap().name.as_str(), "desk");
    assert_eq!(store.peers().len(), 2, "one for both");
}

#[test]
fn what_would_not_be_read_again_is_not_written() {
    let (_dir, mut store) = store();
    store.pin_now(new(1, "pi")).unwrap();
    let with = |seen: String| store.update(device(1), |peer| peer.seen_from = vec![seen]).unwrap().1;
    with(String::new()).write().unwrap();
    let room = MAX_FILE - std::fs::metadata(store.dir.join(FILE)).unwrap().len() as usize;
    with("x".repeat(room)).write().unwrap();
    assert_eq!(std::fs::metadata(store.dir.join(FILE)).unwrap().len(), 4 * 1024 * 1024);
    assert_eq!(with("x".repeat(room + 1)).write().unwrap_err().code, Code::Overloaded);
    Store::load(store.dir.clone()).unwrap();
}

#[test]
fn an_address_gets_its_better_source_and_a_less_certain_one_takes_no_place_from_better() {
    let address = |n: usize, source| Address { address: format!("192.0.2.{n}:7433"), source };
    let mut addresses: Vec<_> = (0..MAX_ADDRESSES).map(|n| address(n, AddressSource::Seen)).collect();
    add_address(&mut addresses, address(1, AddressSource::User));
    add_address(&mut addresses, address(1, AddressSource::Hello));
    assert_eq!((addresses.len(), addresses[1].source), (MAX_ADDRESSES, AddressSource::User));
    let before = addresses.clone();
    add_address(&mut addresses, address(20, AddressSource::Hello));
    assert_eq!(addresses, before);
    add_address(&mut addresses, address(20, AddressSource::Seen));
    assert_eq!(addresses, [&before[1..], &[address(20, AddressSource::Seen)]].concat(), "the oldest of them goes");
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes: Vec<u8>, text in "\\{\"version\":2,\\PC{0,60}") {
        let _ = (read(&bytes), read(text.as_bytes()));
    }
}

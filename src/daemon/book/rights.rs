//! What pinned peers may do: given, taken away, ended by their date, locked.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::{Book, entry, lock};
use crate::daemon::views::{grant_view, peer_ref, standing_grants};
use crate::relay::Relay;
use crate::trust::compare::{changes, changes_at};
use crate::trust::store::Address;
use crate::trust::{Grant, GrantId, Peer, Store};
use crate::wire::audit::{Action, Caller, Entry};
use crate::wire::control::GrantView;
use crate::wire::error::Failure;
use crate::wire::rights::{GrantTerms, Granted, Lock};

/// How often the date is kept on the disk while some grant has an end.
const KEEP_DATE: Duration = Duration::from_secs(60);
/// Longest pause between two looks at the date while some grant has an end: it may jump.
const LONGEST_LOOK: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
/// From here on the date that is kept cannot be what the machine's clock says.
const FAR_AHEAD: Duration = Duration::from_secs(24 * 3600);

/// A peer whose grants have changed, and what that means.
struct Changed {
    action: Action,
    /// As it is from then on.
    peer: Peer,
    /// The grant that was given, taken away or has ended.
    grant: GrantView,
    /// What the peer has from then on.
    grants: Vec<GrantView>,
    /// The grants it had and has still, and those it has no more.
    kept: Vec<String>,
    gone: Vec<String>,
    gained: Vec<String>,
    lost: Vec<String>,
}

impl Book {
    /// Gives a peer what it may do here from now on.
    ///
    /// # Errors
    /// What is wrong with the terms, or the store's; nothing has changed then.
    pub(in crate::daemon) fn grant(
        &self,
        peer: &str,
        terms: &GrantTerms,
        add: bool,
        by: Option<Caller>,
    ) -> Result<Granted, Failure> {
        let date = self.clock.date();
        let grant = Grant::of_terms(terms, date).map_err(|failure| self.blame_date(failure, terms))?;
        let make = |store: &Store| {
            let known = store.find(peer)?;
            let (peer, grant, change) = store.grant(known.fingerprint, grant, add)?;
            Ok((Changed::new(Action::Grant, &known.grants, peer, &grant, date), change))
        };
        let changed = self.change(make, |relay, changed| changed.tell(relay, by))?;
        changed.say();
        Ok(changed.answer())
    }

    /// Takes a grant away. Where that gives the peer nothing, it holds from the moment this is called.
    ///
    /// # Errors
    /// `not_found`, or the disk's, which would give it back after a restart.
    pub(in crate::daemon) fn revoke(&self, id: GrantId, by: Option<Caller>) -> Result<Granted, Failure> {
        let date = self.clock.date();
        let make = |store: &Store| {
            let before = store.find_grant(id).map(|(peer, _)| peer.grants.as_slice()).unwrap_or_default();
            let (peer, grant, change) = store.revoke(id)?;
            Ok((Changed::new(Action::Revoke, before, peer, &grant, date), change))
        };
        // One that denies or asks may have held another one down. Others may change meanwhile what this
        // gives: whether it waits for the disk is for the change itself to say.
        let at_once = !make(&self.store())?.0.gives();
        if at_once {
            lock(&self.withdrawn).insert(id);
            self.publish();
        }
        let tell = |relay: &mut Relay, changed: &Changed| changed.tell(relay, by);
        let revoked = self.settle(make, |changed| !changed.gives(), tell, Changed::say);
        if at_once {
            lock(&self.withdrawn).remove(&id);
            if revoked.is_err() {
                self.publish();
            }
        }
        Ok(revoked?.answer())
    }

    /// Has nothing taken from any peer from now on; [`Book::lock`] is to follow.
    pub(in crate::daemon) fn lock_at_once(&self) {
        self.locking.fetch_add(1, Ordering::AcqRel);
        self.publish();
    }

    /// Keeps the lock that [`Book::lock_at_once`] has begun.
    ///
    /// # Errors
    /// The disk's: it holds all the same, until a restart.
    pub(in crate::daemon) fn lock(&self, by: Option<Caller>) -> Result<Lock, Failure> {
        let make = |store: &Store| Ok((lock_state(true, store), store.lock(true)));
        let locked = self.settle(make, |_| true, |relay, lock| tell_lock(relay, *lock, by), |lock| say_lock(*lock));
        // What is believed by now holds in its place.
        self.locking.fetch_sub(1, Ordering::AcqRel);
        locked
    }

    /// Serves peers again.
    ///
    /// # Errors
    /// The disk's; the lock holds then.
    pub(in crate::daemon) fn unlock(&self, by: Option<Caller>) -> Result<Lock, Failure> {
        let make = |store: &Store| Ok((lock_state(false, store), store.lock(false)));
        self.change(make, |relay, lock| tell_lock(relay, *lock, by)).inspect(|lock| say_lock(*lock))
    }

    /// Looks after the date while some grant has an end: what has ended is taken away, and the date is
    /// kept, for as long as this is polled.
    pub(in crate::daemon) async fn keep_dates(self: Arc<Self>) {
        let mut kept = self.clock.now();
        let mut was_ahead = false;
        loop {
            let ahead = self.clock.ahead();
            if ahead > FAR_AHEAD && !was_ahead {
                tracing::warn!("{}", self.date_is_ahead(ahead));
            }
            was_ahead = ahead > FAR_AHEAD;
            let Some(end) = self.store().next_end() else {
                self.granted.notified().await;
                continue;
            };
            let now = self.clock.now();
            let left = end.duration_since(self.clock.date()).unwrap_or_default();
            let is_over = left.is_zero();
            if is_over || now.saturating_sub(kept) >= KEEP_DATE {
                kept = now;
                let book = Arc::clone(&self);
                let done = spawn_blocking(move || if is_over { book.expire() } else { book.keep_date() }).await;
                match done {
                    Ok(Ok(())) => {}
                    Ok(Err(failure)) => tracing::warn!(%failure, "what was granted for a time could not be kept"),
                    Err(error) => tracing::warn!(%error, "what was granted for a time could not be looked at"),
                }
                continue;
            }
            let _ = timeout(left.min(LONGEST_LOOK), self.granted.notified()).await;
        }
    }

    /// Keeps the date, where anything goes by it.
    ///
    /// # Errors
    /// The disk's.
    pub(in crate::daemon) fn keep_date(&self) -> Result<(), Failure> {
        if self.store().next_end().is_none() {
            return Ok(());
        }
        self.change(|store| Ok(((), store.with(|_| ()))), |_, ()| Vec::new())
    }

    /// Takes away what has ended by now.
    ///
    /// # Errors
    /// The disk's: it is over all the same.
    pub(in crate::daemon) fn expire(&self) -> Result<(), Failure> {
        let date = self.clock.date();
        let make = |store: &Store| {
            let (over, change) = store.expire(date);
            let changed = over.into_iter().filter_map(|(peer, grant)| {
                let peer = store.get(peer)?;
                let left = peer.grants.iter().filter(|grant| !grant.is_over(date)).cloned().collect();
                let after = Peer { grants: left, ..peer.clone() };
                Some(Changed::new(Action::Expire, &peer.grants, after, &grant, date))
            });
            Ok((changed.collect::<Vec<_>>(), change))
        };
        let tell = |relay: &mut Relay, changed: &Vec<Changed>| {
            changed.iter().flat_map(|changed| changed.tell(relay, None)).collect()
        };
        self.settle(make, |_| true, tell, |changed| changed.iter().for_each(Changed::say)).map(|_| ())
    }

    /// The date by which grants end.
    pub(in crate::daemon) fn date(&self) -> SystemTime {
        self.clock.date()
    }

    fn date_is_ahead(&self, ahead: Duration) -> String {
        let unit = if ahead < MINUTE { 1 } else { MINUTE.as_secs() };
        let ahead = Duration::from_secs(ahead.as_secs() / unit * unit);
        format!(
            "the latest date seen, by which grants end, is {} ahead of this machine's clock (`latest` in peers.json)",
            humantime::format_duration(ahead)
        )
    }

    /// Terms that the machine's clock would take, and that are refused for a date ahead of it, need a
    /// word more.
    pub(in crate::daemon) fn blame_date(&self, failure: Failure, terms: &GrantTerms) -> Failure {
        if Grant::of_terms(terms, self.clock.wall()).is_err() {
            return failure;
        }
        let message = format!("{}; {}", failure.message, self.date_is_ahead(self.clock.ahead()));
        Failure { message, ..failure }.hint(
            "if that date was a mistake: `pi-remote stop`, take `latest` out of peers.json, then start the daemon",
        )
    }
}

impl Changed {
    fn new(action: Action, before: &[Grant], peer: Peer, grant: &Grant, date: SystemTime) -> Self {
        // What has just ended is compared with as it was a moment before.
        let ended = (action == Action::Expire).then_some(grant.expires).flatten();
        let (gained, lost) = match ended.and_then(|end| end.checked_sub(Duration::from_nanos(1))) {
            Some(moment) => changes_at((before, moment), (&peer.grants, date)),
            None => changes(before, &peer.grants, date),
        };
        let is_kept = |was: &&Grant| peer.grants.iter().any(|grant| grant.id == was.id);
        let (kept, gone): (Vec<&Grant>, Vec<&Grant>) = before.iter().partition(is_kept);
        let ids = |grants: Vec<&Grant>| grants.iter().map(|grant| grant.id.to_string()).collect();
        let (grant, grants) = (grant_view(&peer, grant), standing_grants(&peer, date));
        Self { action, peer, grant, grants, kept: ids(kept), gone: ids(gone), gained, lost }
    }

    fn gives(&self) -> bool {
        !self.gained.is_empty()
    }

    /// Tells local clients and the audit log.
    fn tell(&self, relay: &mut Relay, by: Option<Caller>) -> Vec<Entry> {
        let Self { action, peer, grant, grants, kept, gone, gained, lost } = self;
        if *action == Action::Expire {
            relay.emit("grant_expired", &json!({ "peer": peer_ref(peer), "grant": grant, "grants": grants }));
        } else {
            relay.emit("grant_changed", &json!({ "peer": peer_ref(peer), "grants": grants }));
        }
        let mut data = json!({ "grant": grant, "gained": gained, "lost": lost });
        if *action == Action::Grant {
            for (name, ids) in [("addedTo", kept), ("inPlaceOf", gone)].into_iter().filter(|(_, ids)| !ids.is_empty()) {
                data[name] = json!(ids);
            }
        }
        vec![Entry { data: Some(data), ..entry(*action, peer, by) }]
    }

    /// Logs it.
    fn say(&self) {
        let Self { action, peer, grant, gained, lost, .. } = self;
        let what = if *action == Action::Expire { "a grant has ended" } else { "grants changed" };
        tracing::info!(
            peer = %peer.name, fingerprint = %peer.fingerprint, grant = %grant.id, gained = gained.join("; "),
            lost = lost.join("; "), "{what}"
        );
    }

    fn answer(self) -> Granted {
        let Self { grant, grants, gained, lost, .. } = self;
        Granted { grant, grants, gained, lost }
    }
}

/// What of a peer is not as it was, for the audit log; `None` when nothing of it.
pub(super) fn differences(before: &Peer, after: &Peer) -> Option<Value> {
    let mut changed = Map::new();
    if before.name != after.name {
        changed.insert("name".into(), json!({ "was": before.name, "is": after.name }));
    }
    let beyond = |these: &[Address], those: &[Address]| -> Vec<String> {
        let is_new = |new: &&Address| !those.iter().any(|known| known.address == new.address);
        these.iter().filter(is_new).map(|new| new.address.clone()).collect()
    };
    for (member, addresses) in [
        ("addressesAdded", beyond(&after.addresses, &before.addresses)),
        ("addressesRemoved", beyond(&before.addresses, &after.addresses)),
    ] {
        if !addresses.is_empty() {
            changed.insert(member.into(), addresses.into());
        }
    }
    if before.calls_per_minute != after.calls_per_minute {
        changed.insert("callsPerMinute".into(), after.calls_per_minute.into());
    }
    if before.removed != after.removed {
        changed.insert("linkCut".into(), after.removed.into());
    }
    (!changed.is_empty()).then_some(Value::Object(changed))
}

fn lock_state(locked: bool, store: &Store) -> Lock {
    Lock { locked, changed: store.is_locked() != locked }
}

fn tell_lock(relay: &mut Relay, lock: Lock, by: Option<Caller>) -> Vec<Entry> {
    if !lock.changed {
        return Vec::new();
    }
    let (action, event) = if lock.locked { (Action::Lock, "locked") } else { (Action::Unlock, "unlocked") };
    relay.emit(event, &lock);
    vec![Entry { caller: by, ..Entry::new(action) }]
}

fn say_lock(lock: Lock) {
    if lock.changed {
        tracing::info!("{}", if lock.locked { "locked" } else { "unlocked" });
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::super::tests::new_peer;
    use super::*;
    use crate::clock::Clock;
    use crate::daemon::offers::tests::desk;
    use crate::identity::Fingerprint;
    use crate::relay::ClientId;
    use crate::state_dir::StateDir;
    use crate::trust::Preset;
    use crate::wire::error::Code;

    const SECOND: Duration = Duration::from_secs(1);

    /// A book with one peer, `p`, and a client that reads along.
    struct Trying {
        temp: tempfile::TempDir,
        book: Arc<Book>,
        clock: Clock,
        client: ClientId,
    }

    impl Trying {
        fn new() -> Self {
            let (temp, offers, clock) = desk();
            let book = Arc::clone(&offers.book);
            let client = book.relay.lock().open_client();
            book.pin(new_peer(Fingerprint::from_bytes([1; 32])), by()).unwrap();
            book.relay.lock().subscribe(client);
            let trying = Self { temp, book, clock, client };
            assert_eq!(trying.recorded()[0].action, Action::Pair);
            trying
        }

        fn grant(&self, terms: &str) -> Result<Granted, Failure> {
            self.book.grant("p", &serde_json::from_str(terms).unwrap(), false, by())
        }

        fn recorded(&self) -> Vec<Entry> {
            match self.book.relay.lock().poll_audit(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready((entries, _)) => entries,
                Poll::Pending => Vec::new(),
            }
        }

        fn events(&self) -> Vec<Value> {
            let mut events = Vec::new();
            let mut relay = self.book.relay.lock();
            while let Poll::Ready(Some(lines)) =
                relay.poll_client(self.client, 1 << 20, &mut Context::from_waker(Waker::noop()))
            {
                events.extend(lines.iter().map(|line| serde_json::from_slice(line).unwrap()));
            }
            events
        }

        fn stored(&self) -> Store {
            Store::load(StateDir::open(&self.temp.path().join("s")).unwrap()).unwrap()
        }

        /// Nothing can be put where a directory is.
        fn break_disk(&self) {
            let file = self.temp.path().join("s/peers.json");
            std::fs::rename(&file, file.with_extension("kept")).unwrap();
            std::fs::create_dir(&file).unwrap();
        }

        fn mend_disk(&self) {
            let file = self.temp.path().join("s/peers.json");
            std::fs::remove_dir(&file).unwrap();
            std::fs::rename(file.with_extension("kept"), &file).unwrap();
        }
    }

    fn by() -> Option<Caller> {
        Some(Caller { pid: 7, executable: Some("/bin/x".into()) })
    }

    #[tokio::test]
    async fn who_grants_and_revokes_is_told_and_put_on_record() {
        let trying = Trying::new();
        let granted = trying.grant(r#"{"preset":"read"}"#).unwrap();
        assert_eq!((granted.grant.id.as_str(), granted.grants.len()), ("g2", 1));
        assert_eq!(
            (granted.gained.len(), granted.lost),
            (0, vec!["summary, send, control on all sessions".to_owned()])
        );
        let revoked = trying.book.revoke(GrantId(2), by()).unwrap();
        assert_eq!((revoked.grants.len(), revoked.lost), (0, vec!["list, read, events on all sessions".to_owned()]));
        let events = trying.events();
        assert!(events.iter().all(|event| event["event"] == "grant_changed" && event["data"]["peer"]["name"] == "p"));
        let left: Vec<_> = events.iter().map(|event| event["data"]["grants"].as_array().unwrap().len()).collect();
        assert_eq!(left, [1, 0]);
        let entries = trying.recorded();
        assert_eq!(entries.iter().map(|entry| entry.action).collect::<Vec<_>>(), [Action::Grant, Action::Revoke]);
        for (entry, in_place_of) in entries.into_iter().zip([json!(["g1"]), json!(null)]) {
            assert_eq!((entry.peer.as_deref(), entry.caller.clone(), entry.failed), (Some("p"), by(), None));
            let data = entry.data.unwrap();
            assert_eq!((&data["grant"]["id"], &data["inPlaceOf"]), (&json!("g2"), &in_place_of));
            assert_eq!(data["addedTo"], json!(null));
        }
        assert_eq!(trying.stored().peers(), trying.book.store().peers());
        assert_eq!(trying.book.revoke(GrantId(2), by()).unwrap_err().code, Code::NotFound);
        assert!(trying.recorded().is_empty() && trying.events().is_empty());
    }

    #[tokio::test]
    async fn what_takes_holds_though_the_disk_refuses_and_what_gives_does_not() {
        let trying = Trying::new();
        let own = Fingerprint::from_bytes([1; 32]);
        trying.break_disk();
        assert!(trying.grant(r#"{"preset":"read"}"#).is_err());
        assert_eq!(trying.book.store().get(own).unwrap().grants[0].preset, Preset::Full, "nothing has changed");
        let failure = trying.book.revoke(GrantId(1), by()).unwrap_err();
        assert!(failure.message.contains("a restart would undo it") && failure.hint.is_some(), "{failure}");
        assert!(trying.book.store().get(own).unwrap().grants.is_empty());
        assert!(trying.recorded()[0].failed.is_some());
        trying.book.lock_at_once();
        assert!(trying.book.relay.lock().is_locked(), "before the disk is asked");
        assert!(trying.book.lock(by()).is_err());
        assert!(trying.book.relay.lock().is_locked());
        assert!(trying.book.unlock(by()).is_err() && trying.book.relay.lock().is_locked());
        trying.mend_disk();
        assert!(!trying.stored().is_locked() && !trying.stored().get(own).unwrap().grants.is_empty());
        // Kept as soon as that can be.
        trying.book.take_notes(true);
        assert!(trying.stored().is_locked() && trying.stored().get(own).unwrap().grants.is_empty());
    }

    #[tokio::test]
    async fn taking_a_denial_away_gives_and_so_waits_for_the_disk() {
        let trying = Trying::new();
        let none = serde_json::from_str(r#"{"preset":"none","sessions":["name:x"]}"#).unwrap();
        let denial: GrantId = trying.book.grant("p", &none, true, by()).unwrap().grant.id.parse().unwrap();
        trying.break_disk();
        assert!(trying.book.revoke(denial, by()).is_err());
        assert_eq!(trying.book.store().get(Fingerprint::from_bytes([1; 32])).unwrap().grants.len(), 2);
        trying.mend_disk();
        assert_eq!(trying.book.revoke(denial, by()).unwrap().gained.len(), 1);
    }

    #[tokio::test]
    async fn a_lock_is_kept_told_once_and_put_on_record() {
        let trying = Trying::new();
        for changed in [true, false] {
            trying.book.lock_at_once();
            assert_eq!(trying.book.lock(by()).unwrap(), Lock { locked: true, changed });
        }
        assert!(trying.stored().is_locked());
        for changed in [true, false] {
            assert_eq!(trying.book.unlock(by()).unwrap(), Lock { locked: false, changed });
        }
        assert!(!trying.stored().is_locked() && !trying.book.relay.lock().is_locked());
        let events: Vec<_> = trying.events().into_iter().map(|event| event["event"].clone()).collect();
        assert_eq!(events, ["locked", "unlocked"]);
        let actions: Vec<_> = trying.recorded().into_iter().map(|entry| (entry.action, entry.caller)).collect();
        assert_eq!(actions, [(Action::Lock, by()), (Action::Unlock, by())]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_grant_that_ends_is_taken_away_and_no_clock_revives_it() {
        let trying = Trying::new();
        let start = trying.clock.wall();
        trying.grant(r#"{"preset":"read","forSeconds":100}"#).unwrap();
        let keeping = tokio::spawn(Arc::clone(&trying.book).keep_dates());
        tokio::task::yield_now().await;
        trying.clock.advance(99 * SECOND);
        let mut kept = trying.stored();
        for _ in 0..1000 {
            if kept.latest() != Some(start) {
                break;
            }
            tokio::time::sleep(SECOND).await;
            kept = trying.stored();
        }
        assert_eq!((kept.latest(), kept.next_end()), (Some(start + 99 * SECOND), Some(start + 100 * SECOND)));
        trying.clock.set_wall(start);
        trying.clock.advance(SECOND);
        let mut events = trying.events();
        for _ in 0..1000 {
            if events.len() > 1 {
                break;
            }
            tokio::time::sleep(SECOND).await;
            events.extend(trying.events());
        }
        keeping.abort();
        assert_eq!(events[1]["event"], "grant_expired");
        assert_eq!((&events[1]["data"]["grant"]["id"], &events[1]["data"]["grants"]), (&json!("g2"), &json!([])));
        let entry = trying.recorded().pop().unwrap();
        assert_eq!((entry.action, entry.caller), (Action::Expire, None));
        assert_eq!(entry.data.unwrap()["lost"], json!(["list, read, events on all sessions"]));
        assert_eq!(trying.stored().peers()[0].grants, []);
        assert_eq!(trying.stored().latest(), Some(start + 100 * SECOND));
    }

    #[tokio::test]
    async fn a_date_refused_for_a_clock_set_back_says_where_the_later_one_is_kept() {
        let trying = Trying::new();
        let start = trying.clock.wall();
        let until = |at: Duration| format!(r#"{{"preset":"read","until":"{}"}}"#, crate::clock::rfc3339(start + at));
        trying.clock.not_before(start + Duration::from_secs(3 * 24 * 3600));
        let failure = trying.grant(&until(SECOND)).unwrap_err();
        assert!(failure.message.contains("`latest` in peers.json") && failure.hint.unwrap().contains("take `latest`"));
        trying.grant(&until(Duration::from_secs(4 * 24 * 3600))).unwrap();
    }

    #[tokio::test]
    async fn a_time_refused_for_a_date_far_ahead_names_that_date_and_how_far_it_is() {
        let trying = Trying::new();
        let start = trying.clock.wall();
        trying.clock.not_before(crate::wire::dates::last() - SECOND);
        let failure = trying.grant(r#"{"preset":"read","forSeconds":7200}"#).unwrap_err();
        for words in ["the year 9999", "years", "ahead of this machine's clock (`latest` in peers.json)"] {
            assert!(failure.message.contains(words), "{failure}");
        }
        assert!(failure.hint.unwrap().contains("take `latest`"));
        // What no clock would take is not blamed on it.
        let failure = trying.grant(r#"{"preset":"read","forSeconds":0}"#).unwrap_err();
        assert!(!failure.message.contains("latest"), "{failure}");
        let ahead = |ahead: Duration| trying.book.date_is_ahead(ahead);
        assert!(ahead(59 * SECOND).contains(" is 59s ahead") && ahead(61 * SECOND).contains(" is 1m ahead"));
        assert!(trying.clock.wall() == start && ahead(7322 * SECOND).contains(" is 2h 2m ahead"));
    }

    #[tokio::test]
    async fn what_a_revocation_gives_is_what_it_gives_when_it_is_made() {
        let trying = Trying::new();
        let own = Fingerprint::from_bytes([1; 32]);
        let denial: GrantId = trying.grant(r#"{"preset":"none"}"#).unwrap().grant.id.parse().unwrap();
        trying.break_disk();
        let held = trying.book.hold_up();
        std::thread::scope(|scope| {
            let revoking = scope.spawn(|| trying.book.revoke(denial, by()));
            while !lock(&trying.book.withdrawn).contains(&denial) {
                std::thread::yield_now();
            }
            // While it waits, something is given that the denial holds down.
            let full = Grant::of_preset(GrantId(0), Preset::Full);
            trying.book.believe(trying.book.store().grant(own, full, true).unwrap().2);
            drop(held);
            let failure = revoking.join().unwrap().unwrap_err();
            assert!(!failure.message.contains("it holds now"), "{failure}");
        });
        assert!(trying.book.store().find_grant(denial).is_some() && lock(&trying.book.withdrawn).is_empty());
    }

    #[test]
    fn what_is_not_as_it_was_is_named_and_nothing_else() {
        let peer: Peer = serde_json::from_value(json!({
            "name": "p", "fingerprint": Fingerprint::from_bytes([1; 32]), "pairedAt": "", "pairedVia": "code",
            "addresses": [{ "address": "192.0.2.1:7433", "source": "user" }], "grants": [],
        }))
        .unwrap();
        assert_eq!(differences(&peer, &Peer { last_seen: Some("now".into()), ..peer.clone() }), None);
        let mut other = Peer { name: "q".parse().unwrap(), calls_per_minute: Some(5), removed: true, ..peer.clone() };
        other.addresses[0].address = "192.0.2.2:7433".into();
        let expected = json!({
            "name": { "was": "p", "is": "q" }, "addressesAdded": ["192.0.2.2:7433"],
            "addressesRemoved": ["192.0.2.1:7433"], "callsPerMinute": 5, "linkCut": true,
        });
        assert_eq!(differences(&peer, &other), Some(expected));
    }
}

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
use crate::trust::compare::changes;
use crate::trust::store::Address;
use crate::trust::{Grant, GrantId, Peer, Store};
use crate::wire::audit::{Action, Caller, Entry};
use crate::wire::error::Failure;
use crate::wire::rights::{GrantTerms, Granted, Lock};

/// How often the date is kept on the disk while some grant has an end.
const KEEP_DATE: Duration = Duration::from_secs(60);
/// Longest pause between two looks at the date while some grant has an end: it may jump.
const LONGEST_LOOK: Duration = Duration::from_secs(1);
/// From here on the date that is kept cannot be what the machine's clock says.
const FAR_AHEAD: Duration = Duration::from_secs(24 * 3600);

/// A peer whose grants have changed.
struct Changed {
    peer: Peer,
    before: Vec<Grant>,
    grant: Grant,
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
        let grant = Grant::of_terms(terms, date).map_err(|failure| self.blame_date(failure, terms.until.as_deref()))?;
        let make = |store: &Store| {
            let peer = store.find(peer)?;
            let (grant, change) = store.grant(peer.fingerprint, grant, add)?;
            let before = peer.grants.clone();
            let grants =
                if add { before.iter().cloned().chain([grant.clone()]).collect() } else { vec![grant.clone()] };
            Ok((Changed { peer: Peer { grants, ..peer.clone() }, before, grant }, change))
        };
        let changed = self.change(make, |relay, changed| changed.tell(relay, Action::Grant, date, by))?;
        Ok(changed.answer(date))
    }

    /// Takes a grant away. It holds no more from the moment this is called.
    ///
    /// # Errors
    /// `not_found`, or the disk's, which would give it back after a restart.
    pub(in crate::daemon) fn revoke(&self, id: GrantId, by: Option<Caller>) -> Result<Granted, Failure> {
        lock(&self.withdrawn).insert(id);
        self.publish();
        let date = self.clock.date();
        let make = |store: &Store| {
            let (fingerprint, grant, change) = store.revoke(id)?;
            let peer = store.find(&fingerprint.to_string())?.clone();
            let before = peer.grants.clone();
            let grants = before.iter().filter(|grant| grant.id != id).cloned().collect();
            Ok((Changed { peer: Peer { grants, ..peer }, before, grant }, change))
        };
        let revoked = self.narrow(make, |relay, changed| changed.tell(relay, Action::Revoke, date, by));
        lock(&self.withdrawn).remove(&id);
        Ok(revoked?.answer(date))
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
        let locked = self.narrow(make, |relay, lock| tell_lock(relay, *lock, by));
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
        self.change(make, |relay, lock| tell_lock(relay, *lock, by))
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
                let peer = store.get(peer)?.clone();
                let left = peer.grants.iter().filter(|grant| !grant.is_over(date)).cloned().collect();
                let before = peer.grants.clone();
                Some(Changed { peer: Peer { grants: left, ..peer }, before, grant })
            });
            Ok((changed.collect::<Vec<_>>(), change))
        };
        let tell = |relay: &mut Relay, changed: &Vec<Changed>| {
            changed.iter().flat_map(|changed| changed.tell(relay, Action::Expire, date, None)).collect()
        };
        self.narrow(make, tell).map(|_| ())
    }

    /// By how much the date that is kept is ahead of the machine's clock, in words, where that is far.
    pub(in crate::daemon) fn date_ahead(&self) -> Option<String> {
        Some(self.clock.ahead()).filter(|ahead| *ahead > FAR_AHEAD).map(|ahead| self.date_is_ahead(ahead))
    }

    /// The date by which grants end.
    pub(in crate::daemon) fn date(&self) -> SystemTime {
        self.clock.date()
    }

    fn date_is_ahead(&self, ahead: Duration) -> String {
        let hours = Duration::from_secs(ahead.as_secs() / 3600 * 3600);
        format!(
            "the latest date seen, by which grants end, is {} ahead of this machine's clock (`latest` in peers.json)",
            humantime::format_duration(hours)
        )
    }

    /// A date that the machine's clock says is to come, and that is refused as over, needs a word more.
    pub(in crate::daemon) fn blame_date(&self, failure: Failure, until: Option<&str>) -> Failure {
        let until = until.and_then(|until| humantime::parse_rfc3339(until).ok());
        match self.date_ahead().filter(|_| until.is_some_and(|until| until > self.clock.wall())) {
            Some(ahead) => Failure { message: format!("{}; {ahead}", failure.message), ..failure }.hint(
                "if that date was a mistake: `pi-remote stop`, take `latest` out of peers.json, then start the daemon",
            ),
            None => failure,
        }
    }
}

impl Changed {
    /// Tells local clients and the log.
    fn tell(&self, relay: &mut Relay, action: Action, date: SystemTime, by: Option<Caller>) -> Vec<Entry> {
        let Self { peer, grant, .. } = self;
        let (gained, lost) = self.words(action, date);
        let grants = standing_grants(peer, date);
        let grant = grant_view(peer, grant);
        tracing::info!(
            peer = %peer.name, fingerprint = %peer.fingerprint, grant = grant.id, gained = gained.join("; "),
            lost = lost.join("; "), "{}", if action == Action::Expire { "a grant has ended" } else { "grants changed" }
        );
        if action == Action::Expire {
            relay.emit("grant_expired", &json!({ "peer": peer_ref(peer), "grant": grant, "grants": grants }));
        } else {
            relay.emit("grant_changed", &json!({ "peer": peer_ref(peer), "grants": grants }));
        }
        let data = json!({ "grant": grant, "gained": gained, "lost": lost });
        vec![Entry { data: Some(data), ..entry(action, peer, by) }]
    }

    fn answer(&self, date: SystemTime) -> Granted {
        let (gained, lost) = self.words(Action::Grant, date);
        let grants = standing_grants(&self.peer, date);
        Granted { grant: grant_view(&self.peer, &self.grant), grants, gained, lost }
    }

    fn words(&self, action: Action, date: SystemTime) -> (Vec<String>, Vec<String>) {
        // What has just ended is compared with as it was a moment before.
        let ended = (action == Action::Expire).then_some(self.grant.expires).flatten();
        let before = ended.and_then(|end| end.checked_sub(Duration::from_nanos(1)));
        changes(&self.before, &self.peer.grants, before.unwrap_or(date))
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
    tracing::info!("{event}");
    relay.emit(event, &lock);
    vec![Entry { caller: by, ..Entry::new(action) }]
}

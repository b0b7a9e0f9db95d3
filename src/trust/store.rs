//! `peers.json`: the pinned peers, what they may do, and whether any is served at all. A change is
//! written first and believed afterwards, so memory and disk agree on who is trusted.

use std::collections::HashSet;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::grant::{Grant, GrantId, MAX_GRANT_ID, Preset, date};
use super::seen::forget_oldest;
use crate::clock::rfc3339;
use crate::identity::Fingerprint;
use crate::state_dir::StateDir;
use crate::wire::commands::quoted;
use crate::wire::dates;
use crate::wire::error::{Code, Failure};
use crate::wire::ids::PeerName;
use crate::wire::link::MAX_ADDRESSES;

const FILE: &str = "peers.json";
const MAX_FILE: usize = 4 * 1024 * 1024;
/// Version of the file; 1 knew no grants but `full`.
const VERSION: u32 = 2;
/// Most peers that a device pins.
pub const MAX_PEERS: usize = 1000;
/// Most grants of one peer.
pub const MAX_GRANTS: usize = 64;

/// Where an address of a peer comes from; what is more certain is forgotten later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AddressSource {
    /// The peer said so on an authenticated link.
    Hello,
    /// The peer was seen there.
    Seen,
    /// It was in the ticket that paired the two.
    Ticket,
    /// The user gave it.
    User,
}

/// An address at which a peer may be reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// `host:port`, IPv6 in brackets.
    pub address: String,
    /// Where it comes from.
    pub source: AddressSource,
}

/// A pinned peer. A member that is not known here might be a limit that was misspelt: there may be none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Peer {
    /// What this device calls it.
    pub name: PeerName,
    /// Who it is.
    pub fingerprint: Fingerprint,
    /// Where it is dialled.
    pub addresses: Vec<Address>,
    /// What it may do here.
    pub grants: Vec<Grant>,
    /// How many calls a minute it may make, where the user has said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calls_per_minute: Option<u32>,
    /// When it was paired, RFC 3339.
    pub paired_at: String,
    /// How: `ticket` or `code`.
    pub paired_via: String,
    /// When a link was last up, RFC 3339.
    #[serde(default)]
    pub last_seen: Option<String>,
    /// Its version, once it was seen.
    #[serde(default)]
    pub version: Option<String>,
    /// From where its links came, and where it answered, as [`crate::wire::Source`] says; the newest last, 32 at
    /// most: at what is forgotten it is new again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seen_from: Vec<String>,
    /// The user cut the link (`remove_peer`); none is dialled or taken until `add_peer`.
    #[serde(default)]
    pub removed: bool,
}

/// What pairing has found out about a peer.
#[derive(Debug, Clone)]
pub struct NewPeer {
    /// Who it is; proven.
    pub fingerprint: Fingerprint,
    /// The petname that the user gave.
    pub petname: Option<PeerName>,
    /// What it calls itself.
    pub suggested: PeerName,
    /// The peer whose petname, grant and addresses it takes over.
    pub replaces: Option<Fingerprint>,
    /// Where it can be reached.
    pub addresses: Vec<Address>,
    /// What it may do here; the store names it.
    pub grant: Grant,
    /// How it was paired.
    pub via: &'static str,
}

/// What the file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Contents {
    version: u32,
    /// The number of the next grant: none is used twice.
    next_grant: u64,
    /// Nothing is taken from any peer.
    pub locked: bool,
    /// The latest date that was seen: what has an end has ended though the clock be set back.
    #[serde(with = "date")]
    pub latest: Option<SystemTime>,
    /// By name.
    pub peers: Vec<Peer>,
}

/// A change that was checked, to be written with [`Change::write`] and then believed with
/// [`Store::believe`] or [`Store::after`]; no other may be made meanwhile.
#[derive(Debug)]
pub struct Change {
    dir: StateDir,
    contents: Contents,
}

/// The pinned peers, on disk and in memory.
#[derive(Debug, Clone)]
pub struct Store {
    dir: StateDir,
    contents: Contents,
    own_name: Option<PeerName>,
}

/// Reads what `peers.json` holds.
///
/// # Errors
/// What is wrong with it, in words.
pub fn read(bytes: &[u8]) -> Result<Contents, String> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct File {
        #[serde(rename = "version")]
        _version: u32,
        next_grant: u64,
        locked: bool,
        #[serde(with = "date")]
        latest: Option<SystemTime>,
        peers: Vec<Peer>,
    }
    let in_words = |error: serde_json::Error| error.to_string();
    let Versioned { version } = serde_json::from_slice(bytes).map_err(in_words)?;
    if version != 1 && version != VERSION {
        return Err(format!("version {version} is not known to this program"));
    }
    let file = if version == 1 { serde_json::from_value(upgraded(bytes)?) } else { serde_json::from_slice(bytes) };
    let File { mut next_grant, locked, latest, mut peers, .. } = file.map_err(in_words)?;
    let (mut names, mut keys, mut ids) = (HashSet::new(), HashSet::new(), HashSet::new());
    for peer in &mut peers {
        let name = &peer.name;
        if !names.insert(name.clone()) || !keys.insert(peer.fingerprint) {
            return Err(format!("{name} stands there twice"));
        }
        if dates::read(&peer.paired_at).is_none() {
            return Err(format!("the pairedAt of {name} is no date"));
        }
        if peer.calls_per_minute == Some(0) {
            return Err(format!("the callsPerMinute of {name} is 0: at least 1"));
        }
        forget_oldest(&mut peer.seen_from);
        if peer.grants.len() > MAX_GRANTS {
            return Err(format!("{name} has more than {MAX_GRANTS} grants"));
        }
        for grant in &mut peer.grants {
            let id = grant.id;
            if !ids.insert(id) {
                return Err(format!("the grant {id} of {name} stands there twice"));
            }
            *grant = grant.clone().checked().map_err(|wrong| format!("the grant {id} of {name}: {wrong}"))?;
            next_grant = next_grant.max(id.0 + 1);
        }
    }
    if next_grant > MAX_GRANT_ID {
        return Err("no number is left for another grant".to_owned());
    }
    peers.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Contents { version: VERSION, next_grant: next_grant.max(1), locked, latest, peers })
}

/// A file of version 1 with what this version has: whoever was paired by that one had everything. One that
/// has something of this version's is none, since what it limits would be lost.
fn upgraded(bytes: &[u8]) -> Result<Value, String> {
    let mut file: Map<String, Value> = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let add = |object: &mut Map<String, Value>, member: &str, value: Value| match object.insert(member.into(), value) {
        None => Ok(()),
        Some(_) => Err(format!("version 1 has no {member}, and this file has")),
    };
    add(&mut file, "nextGrant", 1.into())?;
    add(&mut file, "locked", false.into())?;
    add(&mut file, "latest", Value::Null)?;
    let peers = file.get_mut("peers").and_then(Value::as_array_mut).into_iter().flatten();
    for (peer, number) in peers.filter_map(Value::as_object_mut).zip(1..) {
        if peer.remove("grant").is_some_and(|grant| grant != "full") {
            return Err("version 1 has no grant but full, and this file has".to_owned());
        }
        add(peer, "grants", json!([Grant::of_preset(GrantId(number), Preset::Full)]))?;
    }
    Ok(file.into())
}

impl Store {
    /// Reads the pins.
    ///
    /// # Errors
    /// When the file is open to others, unreadable, or not what this program wrote.
    pub fn load(dir: StateDir) -> Result<Self, Failure> {
        let contents = match dir.read_secret(FILE, MAX_FILE)? {
            Some(bytes) => read(&bytes).map_err(|what| {
                Failure::new(Code::Io, format!("{}: {what}", dir.join(FILE).display()))
                    .hint("restore the file from a backup, or move it away and pair again")
            })?,
            None => Contents { version: VERSION, next_grant: 1, locked: false, latest: None, peers: Vec::new() },
        };
        Ok(Self { dir, contents, own_name: None })
    }

    /// Whether nothing is taken from any peer.
    pub fn is_locked(&self) -> bool {
        self.contents.locked
    }

    /// The latest date that was seen when this was last written.
    pub fn latest(&self) -> Option<SystemTime> {
        self.contents.latest
    }

    /// When the next grant ends, of those that do.
    pub fn next_end(&self) -> Option<SystemTime> {
        self.peers().iter().flat_map(|peer| &peer.grants).filter_map(|grant| grant.expires).min()
    }

    /// Whose grant this is.
    pub fn find_grant(&self, id: GrantId) -> Option<(&Peer, &Grant)> {
        self.peers().iter().find_map(|peer| Some((peer, peer.grants.iter().find(|grant| grant.id == id)?)))
    }

    /// Every pinned peer, by name.
    pub fn peers(&self) -> &[Peer] {
        &self.contents.peers
    }

    /// A peer by fingerprint.
    pub fn get(&self, fingerprint: Fingerprint) -> Option<&Peer> {
        self.peers().iter().find(|peer| peer.fingerprint == fingerprint)
    }

    /// A peer by petname or full fingerprint.
    ///
    /// # Errors
    /// `peer_not_found`.
    pub fn find(&self, text: &str) -> Result<&Peer, Failure> {
        let wanted = text.parse::<Fingerprint>().ok();
        self.peers().iter().find(|peer| Some(peer.fingerprint) == wanted || peer.name.as_str() == text).ok_or_else(
            || {
                Failure::new(Code::PeerNotFound, format!("no peer is called `{text}`"))
                    .hint("`pi-remote peers` lists them")
            },
        )
    }

    /// This device's own name, which no peer is to be called: `NAME/session` must mean one machine.
    pub fn keep_for_itself(&mut self, own_name: PeerName) {
        self.own_name = Some(own_name);
    }

    /// The petname under which a new peer would be pinned.
    ///
    /// # Errors
    /// `name_taken` when the user gave a petname that another peer has.
    pub fn petname_for(&self, new: &NewPeer) -> Result<PeerName, Failure> {
        let own = |peer: &&Peer| peer.fingerprint == new.fingerprint || Some(peer.fingerprint) == new.replaces;
        let kept = self.peers().iter().find(|peer| Some(peer.fingerprint) == new.replaces);
        let kept = kept.or_else(|| self.get(new.fingerprint)).map(|peer| peer.name.clone());
        let is_taken = |name: &PeerName| {
            self.own_name.as_ref() == Some(name) || self.peers().iter().any(|peer| peer.name == *name && !own(&peer))
        };
        match (new.petname.clone(), kept) {
            (Some(name), kept) if is_taken(&name) && kept.as_ref() != Some(&name) => Err(name_taken(&name)),
            (Some(name), _) | (None, Some(name)) => Ok(name),
            (None, None) => {
                let numbered = (2..).map(|number| new.suggested.numbered(number));
                let free = std::iter::once(new.suggested.clone()).chain(numbered).find(|name| !is_taken(name));
                free.ok_or_else(|| name_taken(&new.suggested))
            }
        }
    }

    /// Pins a peer whose key was proven. Pairing again keeps what is there and never widens it.
    ///
    /// # Errors
    /// `name_taken`, `overloaded` with too many peers, or the disk's; nothing is pinned then.
    pub fn pin(&self, new: NewPeer, at: SystemTime) -> Result<(Peer, Change), Failure> {
        let name = self.petname_for(&new)?;
        let before = self.get(new.replaces.unwrap_or(new.fingerprint)).or_else(|| self.get(new.fingerprint));
        let same = self.get(new.fingerprint);
        let mut peer = Peer {
            name,
            fingerprint: new.fingerprint,
            addresses: new.addresses,
            grants: before.map(|before| before.grants.clone()).unwrap_or_default(),
            calls_per_minute: before.and_then(|before| before.calls_per_minute),
            paired_at: rfc3339(at),
            paired_via: new.via.to_owned(),
            last_seen: same.and_then(|same| same.last_seen.clone()),
            version: same.and_then(|same| same.version.clone()),
            seen_from: same.map(|same| same.seen_from.clone()).unwrap_or_default(),
            removed: false,
        };
        let mut change = self.change();
        if before.is_none() {
            peer.grants.push(change.minted(new.grant)?);
        }
        for address in before.map(|before| before.addresses.as_slice()).unwrap_or_default() {
            add_address(&mut peer.addresses, address.clone());
        }
        let peers = &mut change.contents.peers;
        peers.retain(|p| p.fingerprint != new.fingerprint && Some(p.fingerprint) != new.replaces);
        if peers.len() >= MAX_PEERS {
            return Err(Failure::new(Code::Overloaded, format!("More than {MAX_PEERS} peers"))
                .hint("`pi-remote unpair` those you do not use"));
        }
        peers.push(peer.clone());
        peers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok((peer, change))
    }

    /// Takes a pin away.
    pub fn unpin(&self, fingerprint: Fingerprint) -> Change {
        let mut change = self.change();
        change.contents.peers.retain(|peer| peer.fingerprint != fingerprint);
        change
    }

    /// Changes what is kept of a peer.
    ///
    /// # Errors
    /// `peer_not_found`, `name_taken`, or the disk's; nothing is changed then.
    pub fn update(&self, fingerprint: Fingerprint, change: impl FnOnce(&mut Peer)) -> Result<(Peer, Change), Failure> {
        let mut made = self.change();
        let peer = made.peer(fingerprint)?;
        change(peer);
        let changed = peer.clone();
        let is_new_name = self.get(fingerprint).is_some_and(|peer| peer.name != changed.name);
        let is_own = is_new_name && self.own_name.as_ref() == Some(&changed.name);
        let peers = &mut made.contents.peers;
        if is_own || peers.iter().any(|peer| peer.name == changed.name && peer.fingerprint != fingerprint) {
            return Err(taken(&changed.name).hint(OTHER_NAME));
        }
        peers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok((changed, made))
    }

    /// Gives a peer a grant, which gets its name: in place of those it has, or beside them. One that it
    /// has already is not given to it again beside itself.
    ///
    /// # Errors
    /// `peer_not_found`, `overloaded` with too many grants, or `invalid_request` for one that gives
    /// nothing; nothing is changed then.
    pub fn grant(&self, fingerprint: Fingerprint, grant: Grant, add: bool) -> Result<(Peer, Grant, Change), Failure> {
        let mut change = self.change();
        let peer = change.peer(fingerprint)?;
        let is_same = |known: &&Grant| **known == Grant { id: known.id, ..grant.clone() };
        if let Some(same) = peer.grants.iter().find(is_same).filter(|_| add).cloned() {
            return Ok((peer.clone(), same, change));
        }
        let grant = change.minted(grant)?;
        let peer = change.peer(fingerprint)?;
        let grants = &mut peer.grants;
        if !add {
            grants.clear();
        }
        if grants.len() >= MAX_GRANTS {
            return Err(Failure::new(Code::Overloaded, format!("More than {MAX_GRANTS} grants of one peer"))
                .hint("`pi-remote revoke` those that are of no use, or grant without --add, which replaces all"));
        }
        grant.check_is_of_use(grants)?;
        grants.push(grant.clone());
        Ok((peer.clone(), grant, change))
    }

    /// Takes a grant away; it is given back with what the peer is without it.
    ///
    /// # Errors
    /// `not_found`.
    pub fn revoke(&self, id: GrantId) -> Result<(Peer, Grant, Change), Failure> {
        let Some((peer, grant)) = self.find_grant(id) else {
            return Err(Failure::new(Code::NotFound, format!("No grant {id}")).hint("`pi-remote grants` lists them"));
        };
        let (fingerprint, grant) = (peer.fingerprint, grant.clone());
        let mut change = self.change();
        let peer = change.peer(fingerprint)?;
        peer.grants.retain(|grant| grant.id != id);
        Ok((peer.clone(), grant, change))
    }

    /// Takes away what has ended at this date; it is given back with whose it was.
    pub fn expire(&self, date: SystemTime) -> (Vec<(Fingerprint, Grant)>, Change) {
        let mut over = Vec::new();
        let change = self.with(|peer| {
            over.extend(peer.grants.extract_if(.., |grant| grant.is_over(date)).map(|grant| (peer.fingerprint, grant)));
        });
        (over, change)
    }

    /// Nothing is taken from any peer, or they are served again.
    pub fn lock(&self, locked: bool) -> Change {
        let mut change = self.change();
        change.contents.locked = locked;
        change
    }

    /// All as it is, after this change to each peer.
    pub fn with(&self, change: impl FnMut(&mut Peer)) -> Change {
        let mut made = self.change();
        made.contents.peers.iter_mut().for_each(change);
        made
    }

    /// Makes a change that was written what is in memory too.
    pub fn believe(&mut self, change: Change) {
        *self = self.after(change);
    }

    /// The pins as they are once a change is believed.
    #[must_use]
    pub fn after(&self, change: Change) -> Self {
        Self { dir: self.dir.clone(), contents: change.contents, own_name: self.own_name.clone() }
    }

    fn change(&self) -> Change {
        Change { dir: self.dir.clone(), contents: self.contents.clone() }
    }
}

impl Change {
    /// Has the date written with it, where it is later than the one that is kept.
    pub fn date(&mut self, date: SystemTime) {
        self.contents.latest = self.contents.latest.max(Some(date));
    }

    /// Writes it to the disk.
    ///
    /// # Errors
    /// The disk's, or more than is read again; what was there before is there still.
    pub fn write(&self) -> Result<(), Failure> {
        let mut json =
            serde_json::to_vec_pretty(&self.contents).map_err(|e| Failure::new(Code::Internal, e.to_string()))?;
        json.push(b'\n');
        if json.len() > MAX_FILE {
            return Err(Failure::new(Code::Overloaded, format!("{FILE} would exceed {MAX_FILE} bytes"))
                .hint("`pi-remote revoke` grants or `pi-remote unpair` peers that are of no use"));
        }
        self.dir.write_atomic(FILE, &json)
    }

    fn peer(&mut self, fingerprint: Fingerprint) -> Result<&mut Peer, Failure> {
        let peer = self.contents.peers.iter_mut().find(|peer| peer.fingerprint == fingerprint);
        peer.ok_or_else(|| Failure::new(Code::PeerNotFound, format!("no peer has the key {fingerprint}")))
    }

    /// A grant with a name that none has had.
    fn minted(&mut self, grant: Grant) -> Result<Grant, Failure> {
        let id = GrantId(self.contents.next_grant);
        if id.0 >= MAX_GRANT_ID {
            return Err(Failure::new(Code::Overloaded, "no number is left for another grant"));
        }
        self.contents.next_grant += 1;
        Ok(Grant { id, ..grant })
    }
}

/// Puts an address in front, or notes its better source; the least certain of too many goes.
pub fn add_address(addresses: &mut Vec<Address>, new: Address) {
    if let Some(known) = addresses.iter_mut().find(|known| known.address == new.address) {
        known.source = known.source.max(new.source);
        return;
    }
    if addresses.len() >= MAX_ADDRESSES {
        let least = addresses.iter().map(|a| a.source).min().unwrap_or(AddressSource::User);
        if least > new.source {
            return;
        }
        if let Some(at) = addresses.iter().position(|a| a.source == least) {
            addresses.remove(at);
        }
    }
    addresses.push(new);
}

/// What helps where a peer is to be called something else.
const OTHER_NAME: &str =
    "choose another name: `pi-remote peers` shows those of peers, `pi-remote id` this machine's own";

fn taken(name: &PeerName) -> Failure {
    Failure::new(Code::NameTaken, format!("another peer, or this machine itself, is called {name}"))
}

fn name_taken(name: &PeerName) -> Failure {
    taken(name).hint(format!(
        "choose another with --as; if it is that very machine, leave --as out, or use --replace {} when it has a new key",
        quoted(name.as_str())
    ))
}

#[cfg(test)]
mod tests;

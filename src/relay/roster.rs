//! Which sessions there are, here and on which peer, and the JSON that clients see of each.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use crate::identity::Fingerprint;
use crate::wire::control::SessionView;
use crate::wire::ids::SessionId;
use crate::wire::link::{SessionInfo, to_json};

/// A session with its JSON, made once so that a list costs only the copying.
#[derive(Debug, Clone)]
pub struct Entry {
    /// As its machine describes it.
    pub info: SessionInfo,
    /// Its [`SessionView`] as raw JSON.
    pub view: Bytes,
}

impl Entry {
    /// An entry of a session on `host`.
    pub fn new(info: SessionInfo, host: &str, is_remote: bool) -> Self {
        let view = SessionView {
            session_id: info.session_id.as_str().to_owned(),
            name: info.name.clone(),
            aliases: info.aliases.clone(),
            host: host.to_owned(),
            is_remote,
        };
        Self { view: to_json(&view).into(), info }
    }

    /// About how many bytes it takes.
    pub fn size(&self) -> usize {
        2 * self.view.len()
    }
}

/// Sessions of one machine, in the order of their ids.
pub type Sessions = BTreeMap<SessionId, Entry>;

/// Where sessions are found by id alone.
#[derive(Debug, Default)]
pub struct RemoteIndex(HashMap<SessionId, Vec<Fingerprint>>);

impl RemoteIndex {
    /// A peer has this session.
    pub fn add(&mut self, id: &SessionId, peer: Fingerprint) {
        let peers = self.0.entry(id.clone()).or_default();
        if !peers.contains(&peer) {
            peers.push(peer);
        }
    }

    /// A peer has it no more.
    pub fn remove(&mut self, id: &SessionId, peer: Fingerprint) {
        if let Some(peers) = self.0.get_mut(id) {
            peers.retain(|p| *p != peer);
            if peers.is_empty() {
                self.0.remove(id);
            }
        }
    }

    /// The peers that have it.
    pub fn peers(&self, id: &str) -> &[Fingerprint] {
        self.0.get(id).map_or(&[], Vec::as_slice)
    }

    /// Whether no peer has any session.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// `list_sessions` data: local ones first, then those of each peer.
pub fn list<'a>(local: &'a Sessions, remote: impl Iterator<Item = &'a Sessions> + Clone) -> Vec<u8> {
    let entries = std::iter::once(local).chain(remote).flat_map(BTreeMap::values);
    let size: usize = entries.clone().map(|entry| entry.view.len() + 1).sum();
    let mut out = Vec::with_capacity(size + 32);
    out.extend_from_slice(br#"{"sessions":["#);
    let mut first = true;
    for entry in entries {
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        out.extend_from_slice(&entry.view);
    }
    out.extend_from_slice(b"]}");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_json_with_local_sessions_first() {
        let entry = |id: &str, remote| {
            let info = SessionInfo { session_id: id.parse().unwrap(), name: "n".into(), aliases: vec!["a\"b".into()] };
            (id.parse().unwrap(), Entry::new(info, "h", remote))
        };
        let local = Sessions::from([entry("z", false)]);
        let remote = Sessions::from([entry("a", true), entry("b", true)]);
        let list: crate::wire::control::SessionList =
            serde_json::from_slice(&list(&local, [&remote].into_iter())).unwrap();
        let ids: Vec<_> = list.sessions.iter().map(|s| s.session_id.as_str()).collect();
        assert_eq!(ids, ["z", "a", "b"]);
    }

    #[test]
    fn an_index_forgets_what_a_peer_no_longer_has() {
        let (mut index, id) = (RemoteIndex::default(), "s".parse().unwrap());
        let peer = Fingerprint::from_bytes([1; 32]);
        index.add(&id, peer);
        index.add(&id, peer);
        assert_eq!(index.peers("s"), [peer]);
        assert!(!index.is_empty());
        index.remove(&id, peer);
        assert!(index.is_empty());
    }
}

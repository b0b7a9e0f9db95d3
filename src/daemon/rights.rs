//! What the user grants, takes away and locks.

use super::office::Office;
use super::views::standing_grants;
use crate::trust::{GrantId, Peer};
use crate::wire::audit::Caller;
use crate::wire::error::{Code, Failure};
use crate::wire::link::to_json;
use crate::wire::rights::{GrantList, GrantRequest};

impl Office {
    /// Has a peer make so many calls a minute; `None` is the default.
    pub(super) async fn set_rate(
        &self,
        peer: &str,
        calls_per_minute: Option<u32>,
        by: Option<Caller>,
    ) -> Result<Vec<u8>, Failure> {
        if calls_per_minute == Some(0) {
            return Err(Failure::new(Code::InvalidRequest, "a peer may make at least 1 call a minute")
                .hint("`pi-remote grant PEER none` lets it make none"));
        }
        let fingerprint = self.book.store().find(peer)?.fingerprint;
        let set = move |peer: &mut Peer| peer.calls_per_minute = calls_per_minute;
        let peer = self.on_disk(move |book| book.update(fingerprint, by, set)).await?;
        Ok(self.peer_answer(&peer))
    }

    pub(super) async fn grant(&self, request: GrantRequest, by: Option<Caller>) -> Result<Vec<u8>, Failure> {
        let GrantRequest { peer, terms, add } = request;
        Ok(to_json(&self.on_disk(move |book| book.grant(&peer, &terms, add, by)).await?))
    }

    pub(super) fn grants(&self, peer: Option<&str>) -> Result<Vec<u8>, Failure> {
        let date = self.context.clock.date();
        let store = self.book.store();
        let grants = match peer {
            Some(peer) => standing_grants(store.find(peer)?, date),
            None => store.peers().iter().flat_map(|peer| standing_grants(peer, date)).collect(),
        };
        Ok(to_json(&GrantList { grants }))
    }

    pub(super) async fn revoke(&self, grant: &str, by: Option<Caller>) -> Result<Vec<u8>, Failure> {
        let id: GrantId = grant.parse::<GrantId>()?;
        Ok(to_json(&self.on_disk(move |book| book.revoke(id, by)).await?))
    }

    /// Has nothing taken from any peer, from this moment on, however long the disk takes.
    pub(super) async fn lock_peers(&self, by: Option<Caller>) -> Result<Vec<u8>, Failure> {
        self.book.lock_at_once();
        Ok(to_json(&self.on_disk(move |book| book.lock(by)).await?))
    }

    pub(super) async fn unlock_peers(&self, by: Option<Caller>) -> Result<Vec<u8>, Failure> {
        Ok(to_json(&self.on_disk(move |book| book.unlock(by)).await?))
    }
}

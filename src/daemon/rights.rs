//! What the user grants, takes away and locks.

use super::caller::caller;
use super::office::Office;
use super::views::standing_grants;
use crate::control::server::Connected;
use crate::trust::GrantId;
use crate::wire::error::{Code, Failure};
use crate::wire::link::to_json;
use crate::wire::request::Request;
use crate::wire::rights::GrantList;

impl Office {
    /// Answers the requests about rights.
    pub(super) async fn rights(&self, by: Connected, request: Request) -> Result<Vec<u8>, Failure> {
        let by = caller(by);
        match request {
            Request::PeerRate { peer, calls_per_minute } => {
                if calls_per_minute == Some(0) {
                    return Err(Failure::new(Code::InvalidRequest, "a peer may make at least 1 call a minute")
                        .hint("`pi-remote grant PEER none` lets it make none"));
                }
                let fingerprint = self.book.store().find(&peer)?.fingerprint;
                let set = move |peer: &mut crate::trust::Peer| peer.calls_per_minute = calls_per_minute;
                let peer = self.on_disk(move |book| book.update(fingerprint, by, set)).await?;
                Ok(self.peer_answer(&peer))
            }
            Request::Grant(grant) => {
                let granted = self.on_disk(move |book| book.grant(&grant.peer, &grant.terms, grant.add, by)).await?;
                Ok(to_json(&granted))
            }
            Request::Grants { peer } => {
                let date = self.context.clock.date();
                let store = self.book.store();
                let grants = match peer {
                    Some(peer) => standing_grants(store.find(&peer)?, date),
                    None => store.peers().iter().flat_map(|peer| standing_grants(peer, date)).collect(),
                };
                Ok(to_json(&GrantList { grants }))
            }
            Request::Revoke { grant } => {
                let id: GrantId = grant.parse::<GrantId>()?;
                Ok(to_json(&self.on_disk(move |book| book.revoke(id, by)).await?))
            }
            Request::Lock => {
                self.book.lock_at_once();
                Ok(to_json(&self.on_disk(move |book| book.lock(by)).await?))
            }
            Request::Unlock => Ok(to_json(&self.on_disk(move |book| book.unlock(by)).await?)),
            _ => Err(Failure::new(Code::Internal, "A request went astray")),
        }
    }
}

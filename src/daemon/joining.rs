//! Joining the pairing window of another machine, by the code or the ticket that it shows.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::addresses;
use super::offers::{Offers, Terms, address, view, wait_linked};
use crate::identity::Fingerprint;
use crate::link::dialer::DialError;
use crate::link::pairing::{Given, JoinError, join};
use crate::link::tls::{RefusedBy, TlsError};
use crate::pairing::PairingCode;
use crate::pairing::exchange::Reason;
use crate::pairing::message::Info;
use crate::pairing::ticket::Ticket;
use crate::trust::Peer;
use crate::trust::store::{Address, AddressSource};
use crate::wire::audit::Caller;
use crate::wire::commands::command_to_join;
use crate::wire::control::{OfferKind, PairCheck, PairChecked, PairJoin, Paired};
use crate::wire::error::{Code, Failure};
use crate::wire::host_port::check_dialled;
use crate::wire::link::MAX_ADDRESSES;
use crate::wire::{DEFAULT_PORT, HostPort};

impl Offers {
    /// Whether pairing could work, as far as is known here without a packet.
    ///
    /// # Errors
    /// What joining would end with.
    pub(super) fn check(&self, request: &PairCheck) -> Result<PairChecked, Failure> {
        let terms = self.terms(&request.terms, None)?;
        self.check_petname(&terms)?;
        let Some(address) = &request.address else { return Ok(PairChecked::default()) };
        let address = self.other_machine(address)?;
        let whole = address.to_string();
        let is_there = |peer: &&Peer| {
            peer.name.as_str() == address.host() || peer.addresses.iter().any(|known| known.address == whole)
        };
        let known = self.book.store().peers().iter().find(is_there).cloned();
        Ok(PairChecked { known: known.map(|peer| view(&self.book, &self.context.relay, &peer)) })
    }

    /// Pairs with who shows a code or made a ticket.
    ///
    /// # Errors
    /// Whatever is in the way; nothing is stored then.
    pub(super) async fn join(
        &self,
        own_spki: &[u8],
        request: &PairJoin,
        by: Option<Caller>,
    ) -> Result<Paired, Failure> {
        let terms = self.terms(&request.terms, by)?;
        match (&request.code, &request.ticket) {
            (Some(code), None) => self.join_by_code(own_spki, code, request.address.as_deref(), &terms).await,
            (None, Some(ticket)) => self.join_by_ticket(own_spki, ticket, request.address.as_deref(), &terms).await,
            (Some(_), Some(_)) | (None, None) => {
                Err(Failure::new(Code::InvalidRequest, "pair_join needs either a code or a ticket"))
            }
        }
    }

    async fn join_by_code(
        &self,
        own_spki: &[u8],
        code: &str,
        at: Option<&str>,
        terms: &Terms,
    ) -> Result<Paired, Failure> {
        // A slip of the finger is met before anything is resolved or sent.
        let code: PairingCode = code.parse().map_err(|error: crate::pairing::CodeError| Failure::from(error))?;
        let at = at.ok_or_else(|| {
            Failure::new(Code::InvalidRequest, "a code does not say where its machine is")
                .hint("`pi-remote pair HOST` with the address that the other screen shows")
        })?;
        let host = self.other_machine(at)?;
        self.check_petname(terms)?;
        let typed = host.to_string();
        let known = |typed: &str| vec![address(typed, AddressSource::User)];
        let addresses = std::slice::from_ref(&typed);
        let joined = self.join_at(own_spki, Given::Code(&code), addresses, terms, known).await;
        joined.map_err(|error| self.code_failed(error, &host))
    }

    async fn join_by_ticket(
        &self,
        own_spki: &[u8],
        ticket: &str,
        first: Option<&str>,
        terms: &Terms,
    ) -> Result<Paired, Failure> {
        let ticket: Ticket = ticket.parse().map_err(|error: crate::pairing::TicketError| Failure::from(error))?;
        if ticket.offerer() == self.own {
            return Err(Failure::new(Code::InvalidRequest, "This ticket is of this very machine")
                .hint("use it on the other one"));
        }
        let date = self.context.clock.date();
        // Refused before anything is sent: the other side would be left with a pin of this one.
        self.book.store().petname_for(&terms.peer(ticket.offerer(), "peer", Vec::new(), OfferKind::Ticket, date))?;
        let mut addresses: Vec<String> = first.map(str::to_owned).into_iter().collect();
        addresses.extend(ticket.addresses().iter().cloned());
        let known = |reached: &str| {
            let mut known = vec![address(reached, AddressSource::Ticket)];
            known
                .extend(ticket.addresses().iter().filter(|a| *a != reached).map(|a| address(a, AddressSource::Ticket)));
            known.truncate(MAX_ADDRESSES);
            known
        };
        let joined = self.join_at(own_spki, Given::Ticket(&ticket), &addresses, terms, known).await;
        joined.map_err(ticket_failed)
    }

    /// Pairs with who answers at these addresses; `known` gives where it is from then on, from the one
    /// at which it answered.
    async fn join_at(
        &self,
        own_spki: &[u8],
        given: Given<'_>,
        addresses: &[String],
        terms: &Terms,
        known: impl FnOnce(&str) -> Vec<Address>,
    ) -> Result<Paired, JoinError> {
        let kind = match given {
            Given::Code(_) => OfferKind::Code,
            Given::Ticket(_) => OfferKind::Ticket,
        };
        let store = |offerer: Fingerprint, info: &Info, reached: &str| {
            let already = self.book.store().get(offerer).is_some();
            let new = terms.peer(offerer, &info.name, known(reached), kind, self.context.clock.date());
            let by = terms.by.clone();
            let (book, dialer) = (Arc::clone(&self.book), self.dialer.clone());
            // Waits for the disk, and goes on also when the client has gone meanwhile.
            let stored = spawn_blocking(move || {
                let peer = book.pin(new, by).map_err(half_paired)?;
                dialer.kick(offerer);
                Ok((peer, already))
            });
            async move { stored.await.unwrap_or_else(|error| Err(Failure::new(Code::Internal, error.to_string()))) }
        };
        let own = self.info();
        let (peer, already) = join(&self.context, given, addresses, own_spki, &own, store).await?;
        wait_linked(&self.context.relay, peer.fingerprint).await;
        Ok(Paired { peer: view(&self.book, &self.context.relay, &peer), confirmed: true, already })
    }

    /// An address as it was typed, with its port.
    ///
    /// # Errors
    /// It is none, or this machine's own.
    fn other_machine(&self, typed: &str) -> Result<HostPort, Failure> {
        let no_address = || {
            Failure::new(Code::InvalidRequest, format!("{typed} is no address"))
                .hint("a name or an IP address, and :PORT behind it if the other screen shows one")
        };
        check_dialled(typed)?;
        let whole = HostPort::with_default(typed, DEFAULT_PORT).map_err(|_| no_address())?;
        let ports = self.ports.all();
        // No other name says where it leads: two machines may well have the same one.
        let ips = match whole.host().trim_end_matches('.') {
            local if local.eq_ignore_ascii_case("localhost") => {
                vec![IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)]
            }
            host => host.parse().into_iter().collect(),
        };
        if ips.into_iter().any(|ip| addresses::is_own(SocketAddr::new(ip, whole.port()), &ports)) {
            return Err(own_machine(typed));
        }
        Ok(whole)
    }

    /// Whether this may be this machine: it is called like that, and listens on that port.
    fn is_namesake(&self, address: &HostPort) -> bool {
        let host = address.host().trim_end_matches('.');
        let short = host.strip_suffix(".local").unwrap_or(host);
        let system = nix::unistd::gethostname().ok();
        let system = system.as_ref().and_then(|name| name.to_str());
        let is_own_name = short.eq_ignore_ascii_case(self.context.relay.lock().own_name())
            || system.is_some_and(|system| short.eq_ignore_ascii_case(system));
        is_own_name && self.ports.all().iter().any(|own| own.port() == address.port())
    }

    fn code_failed(&self, error: JoinError, host: &HostPort) -> Failure {
        // Without a window this machine shows no key by which it would know itself.
        let namesake = if self.is_namesake(host) { ", or it is this very machine" } else { "" };
        match error {
            JoinError::Dial(DialError::Tls { source: TlsError::OwnKey { copied: false }, .. }) => {
                own_machine(&host.to_string())
            }
            JoinError::Dial(DialError::Tls { source: TlsError::PeerRefusedUs(RefusedBy::Protocol), .. }) => {
                let what = "is up, but not pairing now (if it is, its version of pi-remote is another one)";
                Failure::new(Code::PairingFailed, format!("{host} {what}{namesake}"))
                    .hint("run `pi-remote pair` there first, then join with the code that it shows")
            }
            JoinError::Dial(DialError::Connect { source, .. }) if source.kind() == ErrorKind::ConnectionRefused => {
                let what = "is up, but nothing listens there (connection refused)";
                Failure::new(Code::Unreachable, format!("{host} {what}{namesake}"))
                    .hint("run `pi-remote pair` there first: it starts the daemon and shows a code and where to join")
                    .delivered(false)
            }
            JoinError::Dial(error) => {
                let silent =
                    matches!(&error, DialError::Connect { .. } | DialError::Tls { source: TlsError::Timeout, .. });
                let failure = error.into_failure();
                if !silent {
                    return failure;
                }
                let swap = format!("or swap roles: run `pi-remote pair` here, and `{}` there", self.how_to_join());
                let hint = failure.hint.as_ref().map_or_else(|| swap.clone(), |hint| format!("{hint}\n{swap}"));
                failure.hint(hint)
            }
            JoinError::Exchange { reason, .. } => code_refused(reason, host),
            JoinError::Here(failure) => failure,
        }
    }

    /// What is typed on another machine to join this one.
    fn how_to_join(&self) -> String {
        let first = addresses::own(&self.ports.all()).into_iter().next();
        let first = first.unwrap_or_else(|| self.context.relay.lock().own_name().to_owned());
        command_to_join(&first).unwrap_or_else(|| "pi-remote pair HOST".to_owned())
    }
}

fn own_machine(typed: &str) -> Failure {
    Failure::new(Code::InvalidRequest, format!("{typed} is this very machine"))
        .hint("type the code on the other one, or give the other one's address")
}

/// The offerer stores its pin first.
fn half_paired(failure: Failure) -> Failure {
    let message = format!("{}. The other machine trusts this one by now", failure.message);
    let hint = failure.hint.as_deref().map(|hint| format!("{hint}; ")).unwrap_or_default();
    Failure { message, ..failure }.hint(format!("{hint}then pair again, or unpair this machine there"))
}

/// An exchange by code that failed, as the joiner sees it.
fn code_refused(reason: Reason, host: &HostPort) -> Failure {
    let message = match reason {
        Reason::Refused => format!(
            "{host} refused: the code is not the one shown there, or it is used up, burned or too old, or others are \
             pairing right now, or somebody stands in between. Nothing was paired"
        ),
        Reason::WrongProof => format!(
            "what answers at {host} did not prove that it has this code: it shows another one, or somebody stands \
             in between. Nothing was paired"
        ),
        Reason::Disconnected | Reason::Stalled => format!(
            "{host}: {reason}: the offer there was taken back, the network failed, or somebody stands in between. \
             Nothing was paired"
        ),
        Reason::WrongOfferer
        | Reason::WrongKind
        | Reason::BadElement
        | Reason::WrongVersion
        | Reason::OutOfOrder
        | Reason::Malformed
        | Reason::TooLong
        | Reason::Closed
        | Reason::Internal => format!("{host}: {reason}"),
    };
    let failure = Failure { message, ..reason.failure(OfferKind::Code) };
    if failure.code == Code::IncompatibleVersion {
        return failure;
    }
    failure.hint(
        "look at the other screen, which shows every failed attempt and from where; then type its code again, \
         or make a new one there with `pi-remote pair`",
    )
}

fn ticket_failed(error: JoinError) -> Failure {
    match error {
        // The other side closes its pairing door by this alert: the ticket is late, not the program old.
        JoinError::Dial(DialError::Tls { source: TlsError::PeerRefusedUs(RefusedBy::Protocol), address }) => {
            let what = "no pairing window is open there: the ticket was used, taken back or is too old";
            Failure::new(Code::PairingFailed, format!("{address}: {what}"))
                .hint("`pi-remote pair --ticket` on the other machine prints a new one; else compare both versions")
        }
        JoinError::Dial(error) => {
            let refused =
                matches!(&error, DialError::Connect { source, .. } if source.kind() == ErrorKind::ConnectionRefused);
            let failure = error.into_failure();
            if !refused {
                return failure;
            }
            failure.hint("the ticket was used, taken back or is too old, or no daemon runs there: `pi-remote pair --ticket` there makes a new one")
        }
        JoinError::Exchange { reason, .. } => reason.failure(OfferKind::Ticket),
        JoinError::Here(failure) => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::offers::tests::desk;

    #[tokio::test]
    async fn who_cannot_be_reached_may_reach_this_machine() {
        let (_temp, offers, _) = desk();
        let address = || "192.0.2.1:7433".to_owned();
        let host = address().parse().unwrap();
        let failed = |error: DialError| offers.code_failed(JoinError::Dial(error), &host);
        let silent = |kind: ErrorKind| DialError::Connect { address: address(), source: kind.into() };
        for error in [
            silent(ErrorKind::TimedOut),
            silent(ErrorKind::HostUnreachable),
            DialError::Tls { address: address(), source: TlsError::Timeout },
        ] {
            let hint = failed(error).hint.unwrap();
            assert!(hint.ends_with("run `pi-remote pair` here, and `pi-remote pair 127.0.0.1` there"), "{hint}");
        }
        for error in [
            silent(ErrorKind::ConnectionRefused),
            DialError::Tls { address: address(), source: TlsError::OwnKey { copied: false } },
            DialError::Resolve { host: "desktop".into(), temporary: false },
        ] {
            let failure = failed(error);
            assert!(!failure.hint.unwrap().contains("swap"), "{}", failure.message);
        }
    }

    #[tokio::test]
    async fn only_an_address_that_is_its_own_is_this_machine_and_a_name_of_its_own_may_be() {
        // Called `here`, at 127.0.0.1:7433.
        let (_temp, offers, _) = desk();
        for own in ["localhost", "LOCALHOST.", "127.0.0.1", "[::1]", "127.0.0.1:7433", "localhost:7433"] {
            let failure = offers.other_machine(own).unwrap_err();
            assert!(failure.message.contains("this very machine"), "{own}: {failure}");
        }
        for other in ["here", "here.local:7433", "localhost:7434", "127.0.0.1:7434", "192.0.2.1", "there"] {
            offers.other_machine(other).unwrap();
        }
        let closed = |host: &str| {
            let source = TlsError::PeerRefusedUs(RefusedBy::Protocol);
            let error = DialError::Tls { address: "192.0.2.1:7433".into(), source };
            offers.code_failed(JoinError::Dial(error), &offers.other_machine(host).unwrap()).message
        };
        for (host, may_be) in [("here", true), ("Here.local", true), ("here:7434", false), ("there", false)] {
            assert_eq!(closed(host).contains("or it is this very machine"), may_be, "{host}");
        }
    }

    #[test]
    fn what_may_be_somebody_in_between_is_said_to_be() {
        let host = "desktop:7433".parse().unwrap();
        for reason in [Reason::Refused, Reason::WrongProof, Reason::Disconnected, Reason::Stalled, Reason::BadElement] {
            let failure = code_refused(reason, &host);
            assert!(failure.message.contains("desktop:7433") && failure.message.contains("in between"), "{reason:?}");
        }
        let other = code_refused(Reason::WrongVersion, &host);
        assert_eq!(other.code, Code::IncompatibleVersion);
        assert!(other.hint.unwrap().contains("the same version"));
    }
}

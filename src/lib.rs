//! pi-remote: relays commands between coding-agent sessions on several machines,
//! every link between two machines in mutual TLS 1.3.
//!
//! # The house
//!
//! Three wings of I/O around a pure core:
//!
//! | room | what it does |
//! |---|---|
//! | [`cli`] | one file a command; `output.rs` alone prints |
//! | [`daemon`] | wires the wings together; its desks: `offers` and `joining` (pairing), `peering`, `machines`, `reach` (the way to a peer and back); `origins` asks the tailnet who is there, `copies` tells of a copied key |
//! | [`session`] | the machine's own sessions: `watch` sees them come and go, `call` asks one |
//! | [`link`] | peers: `tls`, `admission`, `listener`, `dialer`, `session` (a live link), `pairing`; what is at an address: `probe`, `way`, `holder`, `obstacles` |
//! | [`control`] | `daemon.sock`: `server` answers, `client` asks; `original` knows the original's daemon |
//! | [`discover`] | machines around this one: `tailscale`, `lan` |
//! | [`doctor`], [`service`] | checks with remedies; the daemon as a service of the user's |
//! | [`relay`] | PURE routing: roster, calls in flight, calls held for approval, subscribers, bounded outboxes, checks of the way back; `rights` (who is shown what, kept true), `rate`, `records` (for the audit) |
//! | [`pairing`] | PURE: codes and tickets, the exchange of proofs, the offerer's window |
//! | [`trust`] | `policy` (PURE) decides, `store` keeps the pins |
//! | [`identity`] | the device's key, certificate and fingerprint |
//! | [`audit`] | who did what: lines in a chain of hashes (`line`, `walk`, `collapse` are PURE), two logs, their check |
//! | [`wire`] | PURE: the messages of the three wires and their bounded codecs |
//! | [`config`], [`clock`], [`state_dir`], [`tasks`] | settings; time; files, modes and the lock; tasks that end |
//! | [`programs`] | programs of the system, run without a shell |
//!
//! Imports run downwards: cli -> doctor -> service -> daemon -> session, link, control, discover -> relay -> pairing, trust
//! -> identity, config, audit -> wire, state_dir, clock, tasks, programs.
//!
//! # Invariants, each kept by a test
//!
//! - `wire`, `relay`, `pairing`, the rules of `trust` (`grant`, `policy`, `terms`, `compare`) and of
//!   `audit` (`line`, `walk`, `collapse`) import no tokio, no rustls, no file system and no clock:
//!   `now` is a parameter, randomness is passed in.
//! - Only `cli/output.rs` prints, only `state_dir` creates files, only `link/tls` names a rustls
//!   configuration, only TLS 1.3 with both certificates makes a link.
//! - A live link exists only after authentication, so its peer is never optional.
//! - Nothing of a peer reaches a session or is shown to a peer but by `relay::rights`, which asks
//!   `trust::policy`; every call has one outcome, and one line in the audit.
//!
//! # How a call travels
//!
//! A line comes in at `control::server`; `relay::Relay` puts the message into the destination's
//! bounded outbox while its lock is held; a writer drains it: for a peer, `link::session`, over TLS
//! to the far relay, which asks the policy and hands it to `session::call`. The answer returns the
//! same way. Commands and answers are carried as the bytes that came.

pub mod audit;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod daemon;
pub mod discover;
pub mod doctor;
pub mod identity;
pub mod link;
pub mod pairing;
pub mod programs;
pub mod relay;
pub mod service;
pub mod session;
pub mod state_dir;
pub mod tasks;
pub mod trust;
pub mod wire;

//! The product from outside: real sockets, real TLS, real processes. One file a theme.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    unreachable_pub,
    missing_docs,
    dead_code
)]

mod alarms;
mod approvals;
mod audit;
mod background;
mod carrying;
mod cli;
mod cli_code;
mod cli_pairing;
mod cli_sessions;
mod conditions;
mod control;
mod diagnosis;
mod discover;
mod doctor;
mod doctor_fixes;
mod flood;
mod grants;
mod hints;
mod hostile_peer;
mod hostile_words;
mod joining;
mod lan;
mod layers;
mod links;
mod listen;
mod local;
mod pairing;
mod pairing_code;
mod proofs_rights;
mod relaying;
mod rights;
mod service;
mod sessions;
mod support;
mod tls;
mod transcripts;

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

mod background;
mod cli;
mod cli_pairing;
mod cli_sessions;
mod control;
mod layers;
mod local;
mod relaying;
mod sessions;
mod support;
mod transcripts;

//! The product from outside: real sockets, real TLS, real processes. One file a theme.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod relaying;
mod support;

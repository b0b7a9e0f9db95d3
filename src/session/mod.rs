//! The machine's own sessions.
//!
//! A session is a UNIX socket `<id>.sock` in the state directory. [`watch`] sees the sockets and
//! their `<alias>.alias` links come and go, [`scan`] judges one name of that directory, [`names`]
//! gives each session its adjective-noun name, [`call`] asks one session one thing, and [`fake`] is
//! a session without an agent behind it, for the demo, the tests and the benchmark.
//!
//! An open connection to a session's socket keeps the agent from ending or changing its session.
//! So nothing here holds one: a call's connection lives as long as the call, a probe's not at all,
//! and whoever has a call under way drops it when [`watch`] reports the session removed.

pub mod call;
pub mod fake;
mod known;
pub mod names;
pub mod scan;
pub mod watch;

//! PURE: how two devices come to pin each other's keys.
//!
//! Time is a parameter (`Duration` since the start of a clock that counts suspend), randomness is
//! passed in, and lines go in and out as bytes.
//!
//! | file | what it does |
//! |---|---|
//! | [`code`] | the short code that one reads and the other types |
//! | [`ticket`] | what the offerer prints and the joiner pastes |
//! | [`window`] | the offerer's offer: how long, how many at once, who won |
//! | [`exchange`] | the proofs, each state a type of its own |
//! | [`message`] | the lines of an exchange, and what a device says of itself in them |
//!
//! The offerer's side of one connection, in order:
//!
//! 1. the first line has come: by code, [`Offerer::by_code`] checks it and makes the answer;
//! 2. [`Window::begin`] gives it a place, or it gets [`PAIR_FAIL`]; only now the answer may be sent;
//! 3. [`Offerer::receive`] checks the proof;
//! 4. [`Window::succeed`] lets this one win, unless another has, its time is over or the window is
//!    closed; from here on the window is closed to all, whatever becomes of the rest;
//! 5. the joiner's pin is stored, and only then [`ProvenJoiner::confirm`] gives the answer;
//! 6. [`AwaitingReceipt::receive`] hears that the joiner has stored the offerer's pin too.
//!
//! By ticket, [`Offerer::by_ticket`] needs no line, and the first one is the proof.
//!
//! The joiner's: [`Joiner::by_code`] and [`AwaitingElement::receive`], or [`Joiner::by_ticket`]; then
//! [`Joiner::receive`], the pin is stored, [`ProvenOfferer::confirm`]. Whatever fails says what to
//! send, if anything, and ends it; at a window, [`Window::fail`] records it.

pub mod code;
pub mod exchange;
pub mod message;
pub mod ticket;
pub mod window;

#[cfg(test)]
mod vectors;

pub use code::{CodeError, PairingCode};
pub use exchange::{
    AwaitingElement, AwaitingReceipt, Joiner, Offerer, Parties, ProvenJoiner, ProvenOfferer, Reason, Rejected,
};
pub use message::{Info, MAX_LINE, PAIR_FAIL};
pub use ticket::{Secret, Ticket, TicketError, looks_like_ticket};
pub use window::{AttemptId, Window};

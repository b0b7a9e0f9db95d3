//! Held calls, as the user sees and decides them.

use super::office::Office;
use crate::control::server::Connected;
use crate::wire::error::{Code, Failure};
use crate::wire::request::Request;

impl Office {
    pub(super) fn consent(&self, _by: Connected, _request: Request) -> Result<Vec<u8>, Failure> {
        Err(Failure::new(Code::Internal, "not there yet"))
    }
}

//! What the benchmark is built from: the daemons under test, the floor beside them, the load on
//! both, and the report.

use std::error::Error;

pub(crate) mod chain;
pub(crate) mod daemon;
pub(crate) mod floor;
pub(crate) mod keeper;
pub(crate) mod load;
pub(crate) mod process;
pub(crate) mod report;
pub(crate) mod roles;
pub(crate) mod tls;

/// Any failure of the benchmark itself; it is shown and ends the section it happened in.
pub(crate) type Outcome<T> = Result<T, Box<dyn Error>>;

//! The Python face: the only place, with `lib.rs`, that names pyo3.

pub(crate) mod awaitable;
pub(crate) mod connection;
pub(crate) mod context;
pub(crate) mod deepcopy;
pub(crate) mod emitter;
pub(crate) mod engines;
pub(crate) mod errors;
pub(crate) mod ids;
pub(crate) mod json;
pub(crate) mod lanes;
pub(crate) mod lazy;
pub(crate) mod limits;
pub(crate) mod loopaccount;
pub(crate) mod loops;
#[cfg(feature = "mutants")]
pub(crate) mod mutants;
pub(crate) mod policy;
pub(crate) mod process;
pub(crate) mod request;
pub(crate) mod runs;
pub(crate) mod source_lines;
pub(crate) mod trampoline;
pub(crate) mod verify;

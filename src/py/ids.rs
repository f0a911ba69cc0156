//! `UnifiedIDManager`: making, checking and reading ids.

use pyo3::prelude::*;

use crate::context::Identity;
use crate::ids;

/// Makes ids that are ordered by time and do not collide over processes, and reads them again.
///
/// Every id ends in 32 hexadecimal digits: a UUID of version 7 with 48 bits of time, a 12-bit counter and 62 random bits.
#[pyclass(frozen, module = "isolane")]
pub(crate) struct UnifiedIDManager;

#[pymethods]
impl UnifiedIDManager {
    #[new]
    fn new() -> Self {
        Self
    }

    /// `run_{thread_id}_{32 hex digits}`; a thread id that would make it too long is left out.
    #[staticmethod]
    fn generate_run_id(thread_id: &str) -> String {
        ids::fresh_run(thread_id)
    }

    /// `req_{32 hex digits}`.
    #[staticmethod]
    fn generate_request_id() -> String {
        ids::fresh_with("req")
    }

    /// `thread_{32 hex digits}`.
    #[staticmethod]
    fn generate_thread_id() -> String {
        ids::fresh_with("thread")
    }

    /// `ws_{32 hex digits}`.
    #[staticmethod]
    fn generate_websocket_client_id() -> String {
        ids::fresh_with("ws")
    }

    /// The thread id inside a structured run id, or the run id itself when it has none.
    #[staticmethod]
    fn extract_thread_id(run_id: &str) -> String {
        ids::thread_of_run(run_id).unwrap_or(run_id).to_owned()
    }

    /// Whether a run id is structured and names a thread.
    #[staticmethod]
    fn validate_run_id(run_id: &str) -> bool {
        ids::thread_of_run(run_id).is_some_and(|thread| !thread.is_empty())
    }

    /// Whether a value is a UUID or a structured id (`word_…_{8 or 32 hex digits}`).
    #[staticmethod]
    fn is_valid_id_format(value: &str) -> bool {
        ids::is_known_format(value)
    }

    /// Checks a user id by the rules that contexts use. Raises `InvalidContextError`.
    #[staticmethod]
    fn check_user_id(py: Python<'_>, user_id: &str) -> PyResult<()> {
        super::policy::with_placeholders(|policy| Identity::user(user_id, policy))
            .map(drop)
            .map_err(|error| super::errors::to_python(py, error))
    }
}

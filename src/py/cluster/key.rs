//! What a user is called in a store that several workers share.

use pyo3::prelude::*;

use crate::cluster;

/// What a user is called in a store that several workers share: HMAC-SHA256 of the id under the cluster's secret, 32
/// hexadecimal digits.
#[pyfunction]
pub(crate) fn cluster_user_key(secret: &[u8], user_id: &str) -> String {
    cluster::user_key(secret, user_id)
}

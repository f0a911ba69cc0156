//! What a user is called in a store that several workers share.

use std::fmt::Write;

use hkdf::hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Bytes of the hash that are told.
const KEPT: usize = 16;

/// HMAC-SHA256 of a user's id under the secret of the cluster, as 32 hexadecimal digits: the same on each worker, and nobody's
/// who does not have the secret.
pub fn user_key(secret: &[u8], user: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("a key of any length");
    mac.update(user.as_bytes());
    let mut key = String::with_capacity(2 * KEPT);
    for byte in &mac.finalize().into_bytes()[..KEPT] {
        let _ = write!(key, "{byte:02x}");
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_that_of_the_rfc() {
        // RFC 4231, test case 2, the first 128 bits.
        let key = user_key(b"Jefe", "what do ya want for nothing?");
        assert_eq!(key, "5bdcc146bf60754e6a042426089575c7");
        assert_ne!(key, user_key(b"Jefe2", "what do ya want for nothing?"));
        assert_ne!(key, user_key(b"Jefe", "what do ya want for nothing!"));
    }
}

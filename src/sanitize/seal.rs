//! Fields that are encrypted where they stand: XChaCha20-Poly1305 with a random nonce before the ciphertext.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};

const NONCE: usize = 24;

/// The bytes are not what was sealed with this key for this place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the field was not encrypted with this key for this user and place, or it was changed since")]
pub struct OpenError;

/// Seals a field. `place` is bound to it: it opens for the same user and field alone.
pub fn seal_field(key: &[u8; 32], place: &[u8], plaintext: &[u8]) -> Vec<u8> {
    let mut nonce = [0; NONCE];
    getrandom::fill(&mut nonce).expect("the operating system gives random bytes");
    let payload = Payload {
        msg: plaintext,
        aad: place,
    };
    let ciphertext = XChaCha20Poly1305::new(&Key::from(*key))
        .encrypt(&XNonce::from(nonce), payload)
        .expect("a field is shorter than 256 GiB");
    [&nonce[..], &ciphertext].concat()
}

/// Opens a field that was sealed for this place.
pub fn open_field(key: &[u8; 32], place: &[u8], sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
    let (nonce, ciphertext) = sealed.split_first_chunk::<NONCE>().ok_or(OpenError)?;
    let payload = Payload {
        msg: ciphertext,
        aad: place,
    };
    XChaCha20Poly1305::new(&Key::from(*key))
        .decrypt(&XNonce::from(*nonce), payload)
        .map_err(|_| OpenError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_opens_with_its_key_at_its_place_alone() {
        let sealed = seal_field(&[1; 32], b"ann/email", b"text");
        assert_eq!(open_field(&[1; 32], b"ann/email", &sealed).expect("opens"), b"text");
        assert!(open_field(&[2; 32], b"ann/email", &sealed).is_err());
        assert!(open_field(&[1; 32], b"bob/email", &sealed).is_err());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(open_field(&[1; 32], b"ann/email", &changed).is_err());
            assert!(open_field(&[1; 32], b"ann/email", &sealed[..at]).is_err());
        }
        assert_ne!(
            sealed,
            seal_field(&[1; 32], b"ann/email", b"text"),
            "each has a nonce of its own"
        );
    }
}

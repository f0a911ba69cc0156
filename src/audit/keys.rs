//! Keys in memory, and what is derived of them.

use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{KeyInit, XChaCha20Poly1305};
use hkdf::Hkdf;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::clock::{Micros, SECOND};

/// Bytes of a key.
pub const KEY: usize = 32;
/// Bytes of a nonce: random ones of this length never meet.
pub const NONCE: usize = 24;
/// Bytes of an authentication tag.
pub const TAG: usize = 16;
/// Names a data key; random, so that it tells nothing of its user.
pub type KeyId = [u8; 8];
/// What stands for a user in clear: another one in each epoch, and nobody's once the salt is gone.
pub type Pseudonym = [u8; 16];
/// Whose keys those are, for who knows the key of the keystore's index.
pub type UserTag = [u8; 16];

/// How long a user has the same data key.
pub const EPOCH: Micros = 30 * 24 * 60 * 60 * SECOND;

/// The number of the 30 days in which a moment is.
pub fn epoch_of(unix: Micros) -> u32 {
    u32::try_from(unix / EPOCH).unwrap_or(u32::MAX)
}

/// Fills from the operating system.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

/// The same, wiped when it is dropped.
pub fn random_key() -> Zeroizing<[u8; KEY]> {
    let mut key = Zeroizing::new([0; KEY]);
    getrandom::fill(key.as_mut()).expect("the operating system gives random bytes");
    key
}

/// Encrypts `buffer` in place. Returns the tag.
pub fn seal(key: &[u8; KEY], nonce: &[u8; NONCE], aad: &[u8], buffer: &mut [u8]) -> [u8; TAG] {
    XChaCha20Poly1305::new(key.into())
        .encrypt_inout_detached(nonce.into(), aad, buffer.into())
        .expect("shorter than 256 GiB")
        .into()
}

/// Decrypts `buffer` in place, and says whether it was authentic; if not, what is in the buffer means nothing.
pub fn open(key: &[u8; KEY], nonce: &[u8; NONCE], aad: &[u8], buffer: &mut [u8], tag: &[u8; TAG]) -> bool {
    XChaCha20Poly1305::new(key.into())
        .decrypt_inout_detached(nonce.into(), aad, buffer.into(), tag.into())
        .is_ok()
}

/// Sixteen bytes that only who has the key can make of the text.
fn derived(key: &[u8], purpose: &[u8], text: &[u8]) -> [u8; 16] {
    let mut out = [0; 16];
    Hkdf::<Sha256>::new(Some(key), text)
        .expand(purpose, &mut out)
        .expect("shorter than 255 hashes");
    out
}

/// What stands in the slot of an erased key: only who has the key of the index can say that a key was erased.
pub fn erased_mark(index_key: &[u8; KEY], head: &[u8]) -> [u8; TAG] {
    derived(index_key, b"isolane/audit/erased", head)
}

/// The key of keys, which the application keeps elsewhere than the log.
#[derive(Clone)]
pub struct Kek(Zeroizing<[u8; KEY]>);

impl std::fmt::Debug for Kek {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kek")
    }
}

impl Kek {
    /// Takes a key; `None` unless it has 32 bytes.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let mut key = Zeroizing::new([0; KEY]);
        (bytes.len() == KEY).then(|| key.copy_from_slice(bytes))?;
        Some(Self(key))
    }

    /// Tells one key from another without saying anything of it.
    pub fn id(&self) -> KeyId {
        let mut hasher = Sha256::new();
        hasher.update(b"isolane/audit/kek-id");
        hasher.update(self.0.as_slice());
        let mut id = KeyId::default();
        id.copy_from_slice(&hasher.finalize()[..8]);
        id
    }

    /// Encrypts keys in place.
    pub fn wrap(&self, nonce: &[u8; NONCE], aad: &[u8], keys: &mut [u8]) -> [u8; TAG] {
        seal(&self.0, nonce, aad, keys)
    }

    /// Decrypts keys in place; whether they were wrapped with this key.
    pub fn unwrap(&self, nonce: &[u8; NONCE], aad: &[u8], keys: &mut [u8], tag: &[u8; TAG]) -> bool {
        open(&self.0, nonce, aad, keys, tag)
    }
}

/// The keys of a user for one epoch, as the writer uses them.
#[derive(Clone)]
pub struct UserKey {
    /// Names the key.
    pub kid: KeyId,
    /// Its epoch.
    pub epoch: u32,
    /// What stands for the user.
    pub pseudonym: Pseudonym,
    /// Seals the records.
    pub dek: Zeroizing<[u8; KEY]>,
}

impl std::fmt::Debug for UserKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserKey")
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

/// What stands for a user, of the salt of the epoch. Nobody in particular is all zeros.
pub fn pseudonym(salt: &[u8], user: Option<&str>) -> Pseudonym {
    user.map_or_else(Pseudonym::default, |user| {
        derived(salt, b"isolane/audit/pseudonym", user.as_bytes())
    })
}

/// Whose slots of a keystore those are. The process's own have one, too.
pub fn user_tag(index_key: &[u8; KEY], user: Option<&str>) -> UserTag {
    match user {
        Some(user) => derived(index_key, b"isolane/audit/user", user.as_bytes()),
        None => derived(index_key, b"isolane/audit/process", b""),
    }
}

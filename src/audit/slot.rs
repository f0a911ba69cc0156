//! The bytes of the keystore.
//!
//! ```text
//! "ISOKEYS1" | kek_id 8 | nonce 24 | wrapped { index key 32, signing key 32 } | tag 16 | padding to 128
//! slot: state u8 | 0 0 0 | epoch u32 | kid 8 | user tag 16 | made u64 | nonce 24 | wrapped { data key 32, salt 32 } | tag 16
//! ```
//!
//! Slots have one length, so that a user's are destroyed where they are. What is left of an erased one is its `kid` and
//! epoch, by which a reader knows that a record was erased and not that its key was lost, and in the place of the tag a mark
//! that is made with the index key: whoever can write the file and has no key cannot make a lost key look like an erased one.

use ed25519_dalek::SigningKey;
use zeroize::{Zeroize, Zeroizing};

use super::error::AuditError;
use super::keys::{self, KEY, Kek, KeyId, NONCE, TAG, UserTag};

/// Bytes before the slots.
pub(super) const HEADER: usize = 128;
/// Bytes of a slot.
pub(super) const SLOT: usize = 144;
const MAGIC: &[u8; 8] = b"ISOKEYS1";
pub(super) const LIVE: u8 = 1;
pub(super) const ERASED: u8 = 2;
/// What of a slot is authenticated without being encrypted.
pub(super) const SLOT_HEAD: usize = 40;
/// What of a slot is left when it is erased, besides the mark.
const ERASED_HEAD: usize = 16;
/// The key and the salt of a user for one epoch, wrapped.
pub(super) type Slot = [u8; SLOT];

pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("of that length")
}

pub(super) fn kid(slot: &[u8]) -> KeyId {
    array(slot, 8)
}

pub(super) fn epoch(slot: &[u8]) -> u32 {
    u32::from_be_bytes(array(slot, 4))
}

pub(super) fn tag_of(slot: &[u8]) -> UserTag {
    array(slot, 16)
}

/// The two keys of a slot, unless it was damaged or belongs to another key of keys.
pub(super) fn unwrap_slot(slot: &[u8], kek: &Kek) -> Option<Zeroizing<[u8; 2 * KEY]>> {
    let mut wrapped = Zeroizing::new(array::<{ 2 * KEY }>(slot, SLOT_HEAD + NONCE));
    let (nonce, tag) = (array(slot, SLOT_HEAD), array(slot, SLOT - TAG));
    kek.unwrap(&nonce, &slot[..SLOT_HEAD], wrapped.as_mut(), &tag)
        .then_some(wrapped)
}

pub(super) fn wrap_slot(slot: &mut Slot, kek: &Kek, secrets: &[u8; 2 * KEY]) {
    let nonce = keys::random::<NONCE>();
    let mut wrapped = Zeroizing::new(*secrets);
    let tag = kek.wrap(&nonce, &slot[..SLOT_HEAD], wrapped.as_mut());
    slot[SLOT_HEAD..SLOT_HEAD + NONCE].copy_from_slice(&nonce);
    slot[SLOT_HEAD + NONCE..SLOT - TAG].copy_from_slice(wrapped.as_slice());
    slot[SLOT - TAG..].copy_from_slice(&tag);
}

/// Makes of a slot that of an erased key.
pub(super) fn mark_erased(slot: &mut Slot, index_key: &[u8; KEY]) {
    slot[0] = ERASED;
    slot[ERASED_HEAD..].zeroize();
    let mark = keys::erased_mark(index_key, &slot[..ERASED_HEAD]);
    slot[SLOT - TAG..].copy_from_slice(&mark);
}

/// Whether the log itself erased the key of a slot.
pub(super) fn is_erased(slot: &[u8], index_key: &[u8; KEY]) -> bool {
    slot[0] == ERASED
        && slot[ERASED_HEAD..SLOT - TAG].iter().all(|byte| *byte == 0)
        && slot[SLOT - TAG..] == keys::erased_mark(index_key, &slot[..ERASED_HEAD])
}

pub(super) fn halves(secrets: &[u8; 2 * KEY]) -> (Zeroizing<[u8; KEY]>, Zeroizing<[u8; KEY]>) {
    (Zeroizing::new(array(secrets, 0)), Zeroizing::new(array(secrets, KEY)))
}

pub(super) fn wrap_header(kek: &Kek, index_key: &[u8; KEY], signer: &SigningKey) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    let nonce = keys::random::<NONCE>();
    let mut secrets = Zeroizing::new([0; 2 * KEY]);
    secrets[..KEY].copy_from_slice(index_key);
    secrets[KEY..].copy_from_slice(signer.as_bytes());
    header[..8].copy_from_slice(MAGIC);
    header[8..16].copy_from_slice(&kek.id());
    let tag = kek.wrap(&nonce, &header[..16], secrets.as_mut());
    header[16..40].copy_from_slice(&nonce);
    header[40..104].copy_from_slice(secrets.as_slice());
    header[104..120].copy_from_slice(&tag);
    header
}

pub(super) fn unwrap_header(bytes: &[u8], kek: &Kek) -> Result<(Zeroizing<[u8; KEY]>, SigningKey), AuditError> {
    let damaged = |what: &str| AuditError::Keystore { what: what.to_owned() };
    if bytes.len() < HEADER || bytes[..8] != *MAGIC {
        return Err(damaged("it does not begin as one"));
    }
    if bytes[8..16] != kek.id() {
        return Err(AuditError::WrongKey);
    }
    let mut secrets = Zeroizing::new(array::<{ 2 * KEY }>(bytes, 40));
    if !kek.unwrap(&array(bytes, 16), &bytes[..16], secrets.as_mut(), &array(bytes, 104)) {
        return Err(damaged("its header was changed"));
    }
    let (index_key, seed) = halves(&secrets);
    Ok((index_key, SigningKey::from_bytes(&seed)))
}

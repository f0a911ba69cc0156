//! The file that holds the data keys of all users, each wrapped by the key of keys.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use zeroize::{Zeroize, Zeroizing};

use super::error::AuditError;
use super::files::{self, Durability, MODE, Place};
use super::keys::{self, KEY, Kek, KeyId, Pseudonym, UserKey, UserTag};
use super::slot::{
    ERASED, HEADER, LIVE, SLOT, SLOT_HEAD, Slot, array, epoch, halves, is_erased, kid, mark_erased, tag_of,
    unwrap_header, unwrap_slot, wrap_header, wrap_slot,
};
use crate::clock::Micros;
use crate::mutants::mutant;

/// Keys of one epoch. Records of users beyond it are kept without what they say.
pub const MAX_KEYS: usize = 1_000_000;

/// Slots that are read with one call.
const SLOTS_AT_ONCE: usize = 4_096;

/// What a reader knows of a key.
#[derive(Clone)]
pub enum Held {
    /// Here it is, with the salt of its pseudonyms.
    Live {
        /// Opens the records.
        dek: Zeroizing<[u8; KEY]>,
        /// Makes the pseudonym.
        salt: Zeroizing<[u8; KEY]>,
        /// Whose it is.
        tag: UserTag,
    },
    /// The log destroyed it.
    Erased,
    /// The slot does not open with the key of keys, or somebody else destroyed it.
    Damaged,
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Live { .. } => "Live",
            Self::Erased => "Erased",
            Self::Damaged => "Damaged",
        })
    }
}

/// All keys, for reading.
#[derive(Debug)]
pub struct KeyRing {
    /// By their names.
    pub held: HashMap<KeyId, Held>,
    /// Signs checkpoints.
    pub signer: SigningKey,
    index_key: Zeroizing<[u8; KEY]>,
}

impl KeyRing {
    /// Reads a keystore that nobody needs to hold open.
    pub fn read(path: &Path, kek: &Kek) -> Result<Self, AuditError> {
        let bytes = Zeroizing::new(fs::read(path).map_err(AuditError::io("reading", path))?);
        let (index_key, signer) = unwrap_header(&bytes, kek)?;
        let slots = bytes[HEADER..].chunks_exact(SLOT);
        let held = slots.map(|slot| (kid(slot), held(slot, kek, &index_key))).collect();
        Ok(Self {
            held,
            signer,
            index_key,
        })
    }

    /// What stands for the user in records under that key, when the key is theirs.
    pub fn pseudonym(&self, kid: KeyId, user: &str) -> Option<Pseudonym> {
        match self.held.get(&kid)? {
            Held::Live { salt, tag, .. } if *tag == keys::user_tag(&self.index_key, Some(user)) => {
                Some(keys::pseudonym(salt.as_slice(), Some(user)))
            }
            _ => None,
        }
    }
}

fn held(slot: &[u8], kek: &Kek, index_key: &[u8; KEY]) -> Held {
    match slot[0] {
        ERASED if is_erased(slot, index_key) => Held::Erased,
        LIVE => unwrap_slot(slot, kek).map_or(Held::Damaged, |secrets| {
            let (dek, salt) = halves(&secrets);
            Held::Live {
                dek,
                salt,
                tag: tag_of(slot),
            }
        }),
        _ => Held::Damaged,
    }
}

/// The keystore, open to write.
pub struct KeyStore {
    file: File,
    path: PathBuf,
    place: Place,
    durability: Durability,
    kek: Kek,
    index_key: Zeroizing<[u8; KEY]>,
    signer: SigningKey,
    /// How many there are, erased ones included.
    slots: u64,
    epoch: u32,
    /// The slots of the present epoch by whose they are.
    current: HashMap<UserTag, u64>,
    unsynced: bool,
}

impl std::fmt::Debug for KeyStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyStore")
            .field("slots", &self.slots)
            .finish_non_exhaustive()
    }
}

impl KeyStore {
    /// Opens the keystore, or makes it.
    pub fn open(path: &Path, kek: &Kek, unix: Micros, durability: Durability) -> Result<Self, AuditError> {
        // Of a rotation that was cut short: all keys, under another key of keys, where no erasure would find them.
        files::destroy(&files::beside(path))?;
        if !path.exists() {
            let seed = keys::random_key();
            let header = wrap_header(kek, &keys::random_key(), &SigningKey::from_bytes(&seed));
            files::create_whole(path, &header, Durability::Fsync)?;
        }
        let (file, bytes) = read_open(path).map_err(AuditError::io("opening", path))?;
        let (index_key, signer) = unwrap_header(&bytes, kek)?;
        let mut store = Self {
            place: Place::of(path, &file).map_err(AuditError::io("opening", path))?,
            file,
            path: path.to_owned(),
            durability,
            kek: kek.clone(),
            index_key,
            signer,
            slots: 0,
            epoch: keys::epoch_of(unix),
            current: HashMap::new(),
            unsynced: false,
        };
        store.take_in(&bytes);
        Ok(store)
    }

    /// Learns whose keys there are for the present epoch. A slot that was cut short by a crash is written over.
    fn take_in(&mut self, bytes: &[u8]) {
        self.slots = 0;
        self.current.clear();
        for slot in bytes[HEADER..].chunks_exact(SLOT) {
            if slot[0] == LIVE && epoch(slot) == self.epoch && unwrap_slot(slot, &self.kek).is_some() {
                self.current.insert(tag_of(slot), self.slots);
            }
            self.slots += 1;
        }
    }

    /// Signs checkpoints.
    pub fn signer(&self) -> &SigningKey {
        &self.signer
    }

    /// The user's key for the epoch of that moment, made when there is none. `None` when the epoch has [`MAX_KEYS`].
    ///
    /// A key that was made is durable after [`sync`](Self::sync) only.
    pub fn key_for(&mut self, user: Option<&str>, unix: Micros) -> Result<Option<UserKey>, AuditError> {
        let epoch = keys::epoch_of(unix).max(self.epoch);
        if epoch != self.epoch {
            self.epoch = epoch;
            self.current.clear();
        }
        let tag = keys::user_tag(&self.index_key, user);
        let slot = match self.current.get(&tag) {
            Some(number) => self.read(*number)?,
            None if self.current.len() >= MAX_KEYS && user.is_some() => return Ok(None),
            None => self.append(tag, unix)?,
        };
        let secrets = unwrap_slot(&slot, &self.kek).ok_or_else(|| AuditError::Keystore {
            what: "a key in use was changed".to_owned(),
        })?;
        let (dek, salt) = halves(&secrets);
        Ok(Some(UserKey {
            kid: kid(&slot),
            epoch,
            pseudonym: keys::pseudonym(salt.as_slice(), user),
            dek,
        }))
    }

    /// Makes the keys as durable as the records that they seal, and looks whether the keystore is still in its place: records
    /// under a key that is in a deleted file would be lost.
    pub fn sync(&mut self) -> Result<(), AuditError> {
        self.place.check()?;
        if self.unsynced && self.durability == Durability::Fsync {
            self.file.sync_data().map_err(AuditError::io("syncing", &self.path))?;
        }
        self.unsynced = false;
        Ok(())
    }

    /// Destroys all keys and salts of the user, of all epochs, where they are on the disk. Returns how many there were.
    pub fn erase(&mut self, user: &str) -> Result<u64, AuditError> {
        self.place.check()?;
        let tag = keys::user_tag(&self.index_key, Some(user));
        let mut own = Vec::new();
        // Whatever its state says: one that is erased has no tag.
        self.each_slot(|number, slot| {
            if tag_of(slot) == tag {
                own.push((number, *slot));
            }
        })?;
        self.current.remove(&tag);
        // The secrets first, and the tag when they are gone: an erasure that is cut short finds all of them again.
        for (number, slot) in &mut own {
            if !mutant!(ShredKeepsSalt) {
                slot[SLOT_HEAD..].zeroize();
            }
            self.write(*number, slot)?;
        }
        self.file.sync_data().map_err(AuditError::io("syncing", &self.path))?;
        for (number, slot) in &mut own {
            if mutant!(ShredKeepsSalt) {
                slot[0] = ERASED;
            } else {
                mark_erased(slot, &self.index_key);
            }
            self.write(*number, slot)?;
        }
        self.file.sync_data().map_err(AuditError::io("syncing", &self.path))?;
        Ok(own.len() as u64)
    }

    /// Wraps all keys anew: none of them changes. The file is replaced at once, and what it was before is overwritten.
    pub fn rotate(&mut self, kek: &Kek) -> Result<(), AuditError> {
        self.place.check()?;
        let mut bytes = wrap_header(kek, &self.index_key, &self.signer).to_vec();
        self.each_slot(|_, slot| {
            let mut slot = *slot;
            if slot[0] == LIVE
                && let Some(secrets) = unwrap_slot(&slot, &self.kek)
            {
                wrap_slot(&mut slot, kek, &secrets);
            }
            bytes.extend_from_slice(&slot);
        })?;
        let beside = files::beside(&self.path);
        let replace = || {
            let file = files::stage(&self.path, &bytes, Durability::Fsync)?;
            let place = Place::of(&self.path, &file)?;
            fs::rename(&beside, &self.path)?;
            Ok((place, file))
        };
        let (place, file) = match replace() {
            Ok(replaced) => replaced,
            Err(error) => {
                // Nothing was rotated; the next start destroys it if this cannot.
                let _ = files::destroy(&beside);
                return Err(AuditError::io("replacing", &self.path)(error));
            }
        };
        // From here on the new key counts, whatever fails.
        let former = std::mem::replace(&mut self.file, file);
        self.place = place;
        self.kek = kek.clone();
        self.unsynced = false;
        let finish = || {
            // The name first: after a loss of power it must not lead to the file that is overwritten next.
            self.path
                .parent()
                .map_or(Ok(()), |parent| File::open(parent)?.sync_all())?;
            files::overwrite(&former)
        };
        let doing = "the new key counts from now on; overwriting what was under the former one in";
        finish().map_err(AuditError::io(doing, &self.path))
    }

    /// Goes through all slots, many at a time.
    fn each_slot(&self, mut each: impl FnMut(u64, &Slot)) -> Result<(), AuditError> {
        let mut block = vec![0; SLOTS_AT_ONCE * SLOT];
        let mut number = 0;
        while number < self.slots {
            let count = usize::try_from(self.slots - number).map_or(SLOTS_AT_ONCE, |left| left.min(SLOTS_AT_ONCE));
            let bytes = &mut block[..count * SLOT];
            self.file
                .read_exact_at(bytes, position(number))
                .map_err(AuditError::io("reading", &self.path))?;
            for slot in bytes.chunks_exact(SLOT) {
                each(number, &array(slot, 0));
                number += 1;
            }
        }
        Ok(())
    }

    fn append(&mut self, tag: UserTag, unix: Micros) -> Result<Slot, AuditError> {
        let mut slot = [0; SLOT];
        slot[0] = LIVE;
        slot[4..8].copy_from_slice(&self.epoch.to_be_bytes());
        slot[8..16].copy_from_slice(&keys::random::<8>());
        slot[16..32].copy_from_slice(&tag);
        slot[32..40].copy_from_slice(&unix.to_be_bytes());
        let mut secrets = Zeroizing::new([0; 2 * KEY]);
        secrets[..KEY].copy_from_slice(keys::random_key().as_slice());
        secrets[KEY..].copy_from_slice(keys::random_key().as_slice());
        wrap_slot(&mut slot, &self.kek, &secrets);
        self.write(self.slots, &slot)?;
        self.current.insert(tag, self.slots);
        self.slots += 1;
        self.unsynced = true;
        Ok(slot)
    }

    fn read(&self, number: u64) -> Result<Slot, AuditError> {
        let mut slot = [0; SLOT];
        self.file
            .read_exact_at(&mut slot, position(number))
            .map_err(AuditError::io("reading", &self.path))?;
        Ok(slot)
    }

    fn write(&self, number: u64, slot: &Slot) -> Result<(), AuditError> {
        self.file
            .write_all_at(slot, position(number))
            .map_err(AuditError::io("writing", &self.path))
    }
}

fn position(number: u64) -> u64 {
    HEADER as u64 + number * SLOT as u64
}

fn read_open(path: &Path) -> io::Result<(File, Vec<u8>)> {
    let file = OpenOptions::new().read(true).write(true).mode(MODE).open(path)?;
    let bytes = fs::read(path)?;
    Ok((file, bytes))
}

#[cfg(test)]
mod tests {
    use super::super::slot::SLOT_HEAD;
    use super::super::testing::Folder;
    use super::*;
    use crate::audit::keys::EPOCH;

    fn kek(byte: u8) -> Kek {
        Kek::new(&[byte; KEY]).expect("32 bytes")
    }

    fn some(key: Result<Option<UserKey>, AuditError>) -> UserKey {
        key.expect("no error").expect("a key")
    }

    #[test]
    fn a_user_keeps_a_key_for_an_epoch_and_others_have_their_own() {
        let folder = Folder::new();
        let path = folder.path().join("keys");
        let mut store = KeyStore::open(&path, &kek(1), 0, Durability::Os).expect("made");
        let ann = some(store.key_for(Some("ann"), 5));
        let bob = some(store.key_for(Some("bob"), 5));
        assert_ne!(ann.dek, bob.dek);
        assert_ne!(ann.pseudonym, bob.pseudonym);
        assert_eq!(some(store.key_for(None, 5)).pseudonym, Pseudonym::default());
        drop(store);
        let mut again = KeyStore::open(&path, &kek(1), 5, Durability::Os).expect("opens");
        let same = some(again.key_for(Some("ann"), EPOCH - 1));
        assert_eq!(
            (same.kid, same.dek, same.pseudonym),
            (ann.kid, ann.dek.clone(), ann.pseudonym)
        );
        let later = some(again.key_for(Some("ann"), EPOCH));
        assert_ne!(later.dek, ann.dek);
        assert_ne!(later.pseudonym, ann.pseudonym, "the salt is another one, too");
        assert!(matches!(
            KeyStore::open(&path, &kek(2), 5, Durability::Os),
            Err(AuditError::WrongKey)
        ));
    }

    #[test]
    fn nothing_of_an_erased_user_is_left_but_the_names_of_the_keys() {
        let folder = Folder::new();
        let path = folder.path().join("keys");
        let mut store = KeyStore::open(&path, &kek(1), 0, Durability::Os).expect("made");
        let first = some(store.key_for(Some("ann"), 0));
        let bob = some(store.key_for(Some("bob"), 0));
        some(store.key_for(Some("ann"), EPOCH));
        assert_eq!(store.erase("ann").expect("erased"), 2);
        assert_eq!(store.erase("ann").expect("erased"), 0);
        let bytes = fs::read(&path).expect("there");
        for number in [0, 2] {
            let slot = &bytes[HEADER + number * SLOT..][..SLOT];
            assert_eq!(slot[0], ERASED);
            assert!(
                slot[16..SLOT - 16].iter().all(|byte| *byte == 0),
                "neither the tag, the key nor the salt is left"
            );
        }
        let ring = KeyRing::read(&path, &kek(1)).expect("reads");
        assert!(matches!(ring.held[&first.kid], Held::Erased));
        assert!(ring.pseudonym(first.kid, "ann").is_none());
        assert_eq!(ring.pseudonym(bob.kid, "bob"), Some(bob.pseudonym));
        assert_eq!(ring.pseudonym(bob.kid, "ann"), None);
        assert_ne!(
            some(store.key_for(Some("ann"), EPOCH)).kid,
            first.kid,
            "a new key, should they come back"
        );
    }

    #[test]
    fn rotating_changes_the_wrapping_and_no_key() {
        let folder = Folder::new();
        let path = folder.path().join("keys");
        let mut store = KeyStore::open(&path, &kek(1), 0, Durability::Os).expect("made");
        let ann = some(store.key_for(Some("ann"), 0));
        some(store.key_for(Some("bob"), 0));
        store.erase("bob").expect("erased");
        let before = File::open(&path).expect("there");
        store.rotate(&kek(2)).expect("rotated");
        assert_eq!(some(store.key_for(Some("ann"), 0)).dek, ann.dek);
        assert!(matches!(KeyRing::read(&path, &kek(1)), Err(AuditError::WrongKey)));
        let ring = KeyRing::read(&path, &kek(2)).expect("reads");
        assert!(matches!(&ring.held[&ann.kid], Held::Live { dek, .. } if *dek == ann.dek));
        assert!(matches!(
            ring.held.values().filter(|held| matches!(held, Held::Erased)).count(),
            1
        ));
        let mut old = vec![1; HEADER + SLOT];
        before.read_exact_at(&mut old, 0).expect("still open");
        assert!(
            old.iter().all(|byte| *byte == 0),
            "what was wrapped by the old key is overwritten"
        );
    }

    #[test]
    fn keys_that_were_swapped_or_changed_do_not_open() {
        let folder = Folder::new();
        let path = folder.path().join("keys");
        let mut store = KeyStore::open(&path, &kek(1), 0, Durability::Os).expect("made");
        let ann = some(store.key_for(Some("ann"), 0));
        let bob = some(store.key_for(Some("bob"), 0));
        drop(store);
        let mut bytes = fs::read(&path).expect("there");
        // The wrapped keys change places, their names stay.
        let (first, second) = (HEADER + SLOT_HEAD, HEADER + SLOT + SLOT_HEAD);
        for at in 0..SLOT - SLOT_HEAD {
            bytes.swap(first + at, second + at);
        }
        fs::write(&path, &bytes).expect("written");
        let ring = KeyRing::read(&path, &kek(1)).expect("reads");
        assert!(matches!(ring.held[&ann.kid], Held::Damaged));
        assert!(matches!(ring.held[&bob.kid], Held::Damaged));
    }
}

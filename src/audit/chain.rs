//! One chain of records as the writer has it: a commit, a checkpoint, the next segment.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::checkpoint::{self, Checkpoint};
use super::content;
use super::error::AuditError;
use super::files::{self, Durability, GrowingFile};
use super::frame::{self, Header, LogId};
use super::keys::{self, NONCE, UserKey};
use super::keystore::{KeyStore, Rotation};
use super::merkle::{self, Frontier, Hash};
use super::record::Entry;
use super::segment::{self, SegmentHead};
use crate::clock::{Micros, SECOND};

/// How a chain is written.
#[derive(Debug, Clone, Copy)]
pub struct ChainSettings {
    /// When a commit counts.
    pub durability: Durability,
    /// Records between checkpoints.
    pub checkpoint_records: u64,
    /// Time between checkpoints while there are records.
    pub checkpoint_every: Micros,
    /// Bytes after which a segment is followed by the next.
    pub segment_bytes: u64,
}

impl Default for ChainSettings {
    fn default() -> Self {
        Self {
            durability: Durability::Os,
            checkpoint_records: 1_024,
            checkpoint_every: 60 * SECOND,
            segment_bytes: 64 * 1024 * 1024,
        }
    }
}

/// The data keys in use: those used lately are unwrapped, at most so many of each of two generations.
#[derive(Debug)]
pub struct Keys {
    store: KeyStore,
    young: HashMap<Option<Box<str>>, UserKey>,
    old: HashMap<Option<Box<str>>, UserKey>,
    /// Records that are kept without what they say, since their user could have no key.
    unkeyed: u64,
}

/// Keys that are kept unwrapped, half of them.
const GENERATION: usize = 5_000;

impl Keys {
    /// Keys of a keystore.
    pub fn new(store: KeyStore) -> Self {
        Self {
            store,
            young: HashMap::new(),
            old: HashMap::new(),
            unkeyed: 0,
        }
    }

    /// The keystore.
    pub fn store(&self) -> &KeyStore {
        &self.store
    }

    /// Records that were kept without what they say.
    pub fn unkeyed(&self) -> u64 {
        self.unkeyed
    }

    /// The key of the user for that moment; `None` when there can be no more.
    fn of(&mut self, user: Option<&str>, unix: Micros) -> Result<Option<UserKey>, AuditError> {
        // A map of owned keys cannot be asked with a borrowed option.
        let owned = user.map(Box::from);
        let epoch = keys::epoch_of(unix);
        if let Some(key) = self.young.get(&owned).filter(|key| key.epoch >= epoch) {
            return Ok(Some(key.clone()));
        }
        let aged = self.old.remove(&owned).filter(|key| key.epoch >= epoch);
        let key = match aged {
            Some(key) => key,
            None => match self.store.key_for(user, unix)? {
                Some(key) => key,
                None => return Ok(None),
            },
        };
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(owned, key.clone());
        Ok(Some(key))
    }

    /// Destroys the keys of a user, in memory first.
    pub fn erase(&mut self, user: &str) -> Result<u64, AuditError> {
        let owned = Some(Box::from(user));
        self.young.remove(&owned);
        self.old.remove(&owned);
        self.store.erase(user)
    }

    /// Ends wrapping all keys anew, which the keystore began.
    pub fn finish_rotation(&mut self, rotation: Rotation) -> Result<(), AuditError> {
        self.store.finish_rotation(rotation)
    }
}

/// A chain that is written.
#[derive(Debug)]
pub struct Chain {
    number: u32,
    path: PathBuf,
    log_id: LogId,
    settings: ChainSettings,
    tree: Frontier,
    segment: GrowingFile,
    leaves: GrowingFile,
    notes: GrowingFile,
    /// The size of the last checkpoint, and when it was made.
    signed: u64,
    signed_at: Micros,
    /// The last checkpoint that nobody has taken yet.
    note: Option<String>,
    /// Buffers of a commit, which are used again.
    frames: Vec<u8>,
    hashes: Vec<u8>,
}

/// What [`Chain::resume`] goes on from.
#[derive(Debug)]
pub(super) struct Position {
    pub(super) number: u32,
    pub(super) log_id: LogId,
    pub(super) tree: Frontier,
    pub(super) segment: GrowingFile,
    pub(super) leaves: GrowingFile,
    pub(super) notes: GrowingFile,
    pub(super) signed: u64,
}

/// The directory of a chain by its number.
pub fn chain_path(log: &Path, number: u32) -> PathBuf {
    log.join(format!("chain-{number:06}"))
}

impl Chain {
    /// Begins a chain in a directory of its own.
    pub fn create(
        log: &Path,
        number: u32,
        keys: &Keys,
        settings: ChainSettings,
        now: Micros,
    ) -> Result<Self, AuditError> {
        let path = chain_path(log, number);
        super::log::make_directory(&path)?;
        let log_id: LogId = keys::random();
        let origin = checkpoint::origin(&log_id);
        let verifier = checkpoint::verifier_key(&origin, &keys.store().signer().verifying_key());
        files::create_whole(
            &path.join("verifier"),
            format!("{verifier}\n").as_bytes(),
            Durability::Fsync,
        )?;
        let tree = Frontier::default();
        // The directories are synced after the checkpoints' file is in them.
        let notes = GrowingFile::open(&segment::notes_path(&path))?;
        let (segment, leaves) = begin_segment(&path, log_id, &tree, Durability::Fsync)?;
        files::sync_directory(log)?;
        let position = Position {
            number,
            log_id,
            tree,
            segment,
            leaves,
            notes,
            signed: 0,
        };
        Ok(Self::resume(path, position, settings, now))
    }

    /// Goes on where a chain was left.
    pub(super) fn resume(path: PathBuf, from: Position, settings: ChainSettings, now: Micros) -> Self {
        Self {
            number: from.number,
            path,
            log_id: from.log_id,
            settings,
            tree: from.tree,
            segment: from.segment,
            leaves: from.leaves,
            notes: from.notes,
            signed: from.signed,
            signed_at: now,
            note: None,
            frames: Vec::new(),
            hashes: Vec::new(),
        }
    }

    /// Its number in the log.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// How many records it has.
    pub fn size(&self) -> u64 {
        self.tree.size()
    }

    /// How many records the last checkpoint covers.
    pub fn signed(&self) -> u64 {
        self.signed
    }

    /// The last checkpoint, unless it was taken before.
    pub fn take_note(&mut self) -> Option<String> {
        self.note.take()
    }

    /// How many records may come before the next checkpoint is due.
    pub fn room(&self) -> usize {
        let unsigned = self.tree.size() - self.signed;
        usize::try_from(self.settings.checkpoint_records.saturating_sub(unsigned)).unwrap_or(usize::MAX)
    }

    /// When the next checkpoint is due by time; never while there is nothing to sign.
    pub fn checkpoint_due(&self) -> Option<Micros> {
        (self.tree.size() > self.signed).then(|| self.signed_at + self.settings.checkpoint_every)
    }

    /// Makes the checkpoint and the new segment that are due.
    pub fn upkeep(&mut self, keys: &Keys, now: Micros) -> Result<(), AuditError> {
        let full = self.segment.length() >= self.settings.segment_bytes;
        if full || self.room() == 0 || self.checkpoint_due().is_some_and(|due| due <= now) {
            self.checkpoint(keys, now)?;
        }
        if full {
            let begun = begin_segment(&self.path, self.log_id, &self.tree, self.settings.durability)?;
            (self.segment, self.leaves) = begun;
        }
        Ok(())
    }

    /// Writes records with one write. Either all count or none does; then they may be given again.
    pub fn commit<'a>(
        &mut self,
        entries: impl ExactSizeIterator<Item = &'a Entry>,
        keys: &mut Keys,
    ) -> Result<(), AuditError> {
        if entries.len() == 0 {
            return Ok(());
        }
        self.frames.clear();
        self.hashes.clear();
        let mut nonces = vec![0; entries.len() * NONCE];
        getrandom::fill(&mut nonces).expect("the operating system gives random bytes");
        let mut tree = self.tree.clone();
        let mut unkeyed = 0;
        for (entry, nonce) in entries.zip(nonces.as_chunks::<NONCE>().0) {
            let begin = self.frames.len();
            let omitted;
            let (key, body) = if let Some(key) = keys.of(entry.user.as_deref(), entry.unix)? {
                (key, entry.body.as_str())
            } else {
                unkeyed += 1;
                omitted = content::body("unkeyed", None, "", r#"{"omitted":"no more keys"}"#);
                let own = keys.of(None, entry.unix)?.expect("the process always has one");
                (own, omitted.as_str())
            };
            let header = Header {
                log_id: self.log_id,
                seq: tree.size(),
                ts_ns: entry.unix.saturating_mul(1_000),
                class: entry.class,
                severity: entry.severity,
                pseudonym: key.pseudonym,
                kid: key.kid,
                epoch: key.epoch,
            };
            frame::seal(&mut self.frames, &header, &key, nonce, body.as_bytes());
            let leaf: Hash = merkle::leaf_hash(&self.frames[begin..]);
            self.hashes.extend_from_slice(&leaf);
            tree.push(leaf);
        }
        keys.store.sync()?;
        if let Err(error) = self.write() {
            // Frames without leaves look like ones that somebody has added, and there may be no later attempt.
            self.leaves.undo();
            self.segment.undo();
            return Err(error);
        }
        self.segment.commit(self.frames.len());
        self.leaves.commit(self.hashes.len());
        self.tree = tree;
        keys.unkeyed += unkeyed;
        Ok(())
    }

    /// Writes the frames and their leaves.
    fn write(&mut self) -> Result<(), AuditError> {
        self.segment.write(&self.frames)?;
        self.leaves.write(&self.hashes)?;
        if self.settings.durability == Durability::Fsync {
            // The leaves follow from the frames: a start makes them again.
            self.segment.sync()?;
        }
        self.segment.in_place()?;
        self.leaves.in_place()
    }

    /// Signs the tree as it is, and waits until the disk has all of it, whatever the durability.
    pub fn settle(&mut self, keys: &Keys, now: Micros) -> Result<(), AuditError> {
        self.checkpoint(keys, now)?;
        self.segment.sync()?;
        self.notes.sync()
    }

    /// Signs the tree as it is, unless that was done.
    pub fn checkpoint(&mut self, keys: &Keys, now: Micros) -> Result<(), AuditError> {
        if self.tree.size() == self.signed {
            return Ok(());
        }
        let checkpoint = Checkpoint {
            origin: checkpoint::origin(&self.log_id),
            size: self.tree.size(),
            root: self.tree.root(),
        };
        let note = checkpoint.sign(keys.store().signer());
        let line = format!("{note}\n");
        self.notes.write(line.as_bytes())?;
        if self.settings.durability == Durability::Fsync {
            self.notes.sync()?;
        }
        self.notes.in_place()?;
        self.notes.commit(line.len());
        self.signed = checkpoint.size;
        self.signed_at = now;
        self.note = Some(note);
        Ok(())
    }
}

fn begin_segment(
    chain: &Path,
    log_id: LogId,
    tree: &Frontier,
    durability: Durability,
) -> Result<(GrowingFile, GrowingFile), AuditError> {
    let path = segment::segment_path(chain, tree.size());
    let head = SegmentHead {
        log_id,
        tree: tree.clone(),
    };
    files::create_whole(&path, &head.write(), durability)?;
    let segment = GrowingFile::open(&path)?;
    let mut leaves = GrowingFile::open(&segment::leaves_path(&path))?;
    leaves.truncate(0)?;
    Ok((segment, leaves))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::keys::{KEY, Kek};
    use super::super::record::{AuditClass, Severity};
    use super::super::testing::Folder;
    use super::*;

    fn entry() -> Entry {
        Entry {
            class: AuditClass::Lifecycle,
            severity: Severity::Info,
            user: None,
            body: "{}".to_owned(),
            unix: 1,
            taken: 1,
        }
    }

    #[test]
    fn a_commit_that_fails_between_frames_and_leaves_leaves_no_frames() {
        let folder = Folder::new();
        let kek = Kek::new(&[1; KEY]).expect("32 bytes");
        let store = KeyStore::open(&folder.path().join("keys"), &kek, 0, Durability::Os).expect("made");
        let mut keys = Keys::new(store);
        let mut chain = Chain::create(folder.path(), 1, &keys, ChainSettings::default(), 0).expect("made");
        chain.commit([&entry()].into_iter(), &mut keys).expect("written");
        let committed = chain.segment.length();
        assert_eq!(fs::metadata(chain.segment.path()).expect("there").len(), committed);
        let leaves = GrowingFile::open(Path::new("/dev/full")).expect("opens");
        let kept = std::mem::replace(&mut chain.leaves, leaves);
        let failed = chain.commit([&entry()].into_iter(), &mut keys);
        assert!(failed.expect_err("there is no room").to_string().contains("No space"));
        assert_eq!(fs::metadata(chain.segment.path()).expect("there").len(), committed);
        chain.leaves = kept;
        chain
            .commit([&entry()].into_iter(), &mut keys)
            .expect("there is room again");
        assert_eq!(chain.size(), 2);
    }
}

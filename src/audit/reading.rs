//! Reading a log: its records in order, and proofs of single ones. Nothing is locked or changed.

use std::fs;
use std::path::{Path, PathBuf};

use super::chain::chain_path;
use super::checkpoint::{self, Checkpoint};
use super::error::{AuditError, Tampered};
use super::frame::{FrameFault, Header};
use super::keys::Kek;
use super::keystore::{Held, KeyRing};
use super::log;
use super::merkle::{self, Hash};
use super::segment::{self, Misplaced, SegmentHead};

/// What a record says, as far as it can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// JSON.
    Text(String),
    /// Its key was destroyed.
    Erased,
    /// There is no key for it here.
    Sealed,
}

/// A record that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The chain's number.
    pub chain: u32,
    /// The clear part.
    pub header: Header,
    /// The rest.
    pub body: Body,
}

/// Which records are wanted.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Not before that many nanoseconds since the Unix epoch.
    pub from_ns: u64,
    /// Before that moment.
    pub until_ns: Option<u64>,
    /// Of that user alone, which needs the keys.
    pub user: Option<String>,
}

/// A log and the keys that read it.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    ring: Option<KeyRing>,
}

/// Goes through the records of a log.
#[derive(Debug)]
pub struct Cursor {
    wanted: Wanted,
    /// Segments that are still to come, in order, each with its chain.
    segments: std::vec::IntoIter<(u32, PathBuf)>,
    /// The present one: its chain, its head, its bytes, the next place and record.
    open: Option<(u32, SegmentHead, Vec<u8>, usize, u64)>,
}

/// That a record is in the log, for who trusts the key of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inclusion {
    /// The chain's number.
    pub chain: u32,
    /// The record's.
    pub seq: u64,
    /// The hash of the record.
    pub leaf: Hash,
    /// The path to the root.
    pub proof: Vec<Hash>,
    /// The checkpoint, as a signed note.
    pub note: String,
    /// The key of the checkpoint.
    pub verifier: String,
}

impl Reader {
    /// Opens a log to read. Without a key of keys, records are counted and proved, not opened.
    pub fn open(path: &Path, kek: Option<&Kek>) -> Result<Self, AuditError> {
        let ring = kek
            .map(|kek| KeyRing::read(&log::keystore_path(path), kek))
            .transpose()?;
        Ok(Self {
            path: path.to_owned(),
            ring,
        })
    }

    /// Where the log is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The keys.
    pub fn ring(&self) -> Option<&KeyRing> {
        self.ring.as_ref()
    }

    /// The records that are wanted, from the first chain on.
    pub fn records(&self, wanted: Wanted) -> Result<Cursor, AuditError> {
        let mut segments = Vec::new();
        for number in log::chains(&self.path)? {
            let of_chain = segment::segments(&chain_path(&self.path, number))?;
            segments.extend(of_chain.into_iter().map(|(_, path)| (number, path)));
        }
        Ok(Cursor {
            wanted,
            segments: segments.into_iter(),
            open: None,
        })
    }

    fn is_wanted(&self, header: &Header, wanted: &Wanted) -> bool {
        let user = wanted.user.as_ref().is_none_or(|user| {
            self.ring
                .as_ref()
                .and_then(|ring| ring.pseudonym(header.kid, user))
                .is_some_and(|pseudonym| pseudonym == header.pseudonym)
        });
        user && header.ts_ns >= wanted.from_ns && wanted.until_ns.is_none_or(|until| header.ts_ns < until)
    }

    /// The next records that are wanted, at most so many; none at the end. A record that cannot be read ends it with an error.
    pub fn read(&self, cursor: &mut Cursor, count: usize) -> Result<Vec<Record>, AuditError> {
        let mut found = Vec::new();
        while found.len() < count {
            if cursor.open.is_none() && !cursor.next_segment()? {
                break;
            }
            let Some((chain, head, bytes, at, seq)) = &mut cursor.open else {
                break;
            };
            let frame = match segment::next(&bytes[*at..], &head.log_id, *seq) {
                Ok(frame) => frame,
                // The end, or a write that is under way or was cut short.
                Err(Misplaced::Fault(FrameFault::Torn)) => {
                    cursor.open = None;
                    continue;
                }
                Err(fault) => {
                    let tampered = Tampered {
                        chain: *chain,
                        seq: *seq,
                        what: fault.to_string(),
                    };
                    cursor.open = None;
                    return Err(tampered.into());
                }
            };
            *at += frame.bytes.len();
            *seq += 1;
            if !self.is_wanted(&frame.header, &cursor.wanted) {
                continue;
            }
            let body = match self.ring.as_ref().and_then(|ring| ring.held.get(&frame.header.kid)) {
                Some(Held::Live { dek, .. }) => frame.open(dek).and_then(|body| String::from_utf8(body).ok()),
                Some(Held::Erased) => {
                    found.push(Record {
                        chain: *chain,
                        header: frame.header,
                        body: Body::Erased,
                    });
                    continue;
                }
                Some(Held::Damaged) | None => None,
            };
            found.push(Record {
                chain: *chain,
                header: frame.header,
                body: body.map_or(Body::Sealed, Body::Text),
            });
        }
        Ok(found)
    }

    /// Proves that a record is in a chain, against its first checkpoint that covers it. `None` when there is none yet.
    pub fn prove(&self, chain: u32, seq: u64) -> Result<Option<Inclusion>, AuditError> {
        let path = chain_path(&self.path, chain);
        let notes = segment::notes_path(&path);
        let text = fs::read_to_string(&notes).map_err(AuditError::io("reading", &notes))?;
        let covering = checkpoint::split_file(&text).0.into_iter().find_map(|note| {
            Checkpoint::parse(note)
                .filter(|read| read.size > seq)
                .map(|read| (note.to_owned(), read))
        });
        let Some((note, checkpoint)) = covering else {
            return Ok(None);
        };
        let mut leaves = Vec::new();
        for (_, segment) in segment::segments(&path)? {
            leaves.extend(segment::read_leaves(&segment::leaves_path(&segment))?);
        }
        let size = usize::try_from(checkpoint.size).expect("it fits memory");
        let index = usize::try_from(seq).expect("less than the size");
        let tampered = || Tampered {
            chain,
            seq,
            what: "the stored tree is not the one that was signed; `verify` says where".to_owned(),
        };
        let leaves = leaves
            .get(..size)
            .filter(|leaves| merkle::root(leaves) == checkpoint.root)
            .ok_or_else(tampered)?;
        let proof = merkle::inclusion_proof(leaves, index).ok_or_else(tampered)?;
        let verifier = path.join("verifier");
        Ok(Some(Inclusion {
            chain,
            seq,
            leaf: leaves[index],
            proof,
            note,
            verifier: fs::read_to_string(&verifier)
                .map_err(AuditError::io("reading", &verifier))?
                .trim()
                .to_owned(),
        }))
    }
}

impl Cursor {
    /// Opens the next segment. Returns whether there was one.
    fn next_segment(&mut self) -> Result<bool, AuditError> {
        let Some((chain, path)) = self.segments.next() else {
            return Ok(false);
        };
        let bytes = fs::read(&path).map_err(AuditError::io("reading", &path))?;
        let (head, begin) = SegmentHead::read(&bytes).ok_or_else(|| Tampered {
            chain,
            seq: 0,
            what: "the head of a segment was changed".to_owned(),
        })?;
        let first = head.tree.size();
        self.open = Some((chain, head, bytes, begin, first));
        Ok(true)
    }
}

//! The whole proof: every record of a log against its stored tree, its checkpoints and its keys, without changing anything.
//!
//! | found | by |
//! |---|---|
//! | a bit that flipped in a record, exactly | its leaf, and its tag when the key is there |
//! | a record that is gone, doubled or out of order, exactly | its number |
//! | an end that was cut off | the stored leaves and the last checkpoint |
//! | a body or a key of another user | the tag, which covers the header; the tag of the key in the keystore |
//! | a key that was destroyed by another than the log | the mark in its slot |
//! | a chain that was written anew | the checkpoints, when one is known from elsewhere, or the signing key is not the writer's |

use std::fs;
use std::path::{Path, PathBuf};

use ed25519_dalek::VerifyingKey;

use super::chain::chain_path;
use super::checkpoint::{self, Checkpoint, NoteFault};
use super::error::{AuditError, Tampered};
use super::keystore::{Held, KeyRing};
use super::log;
use super::merkle::{self, Frontier, Hash};
use super::segment::{self, SegmentHead};

/// What a log is held against.
#[derive(Debug, Default)]
pub struct Against<'a> {
    /// The keys, if they are there: then each record is opened.
    pub ring: Option<&'a KeyRing>,
    /// The key of the checkpoints, from elsewhere. Without it, that of the keys; without those, the one beside the log.
    pub verifier: Option<VerifyingKey>,
    /// A checkpoint from elsewhere, as a signed note.
    pub checkpoint: Option<&'a str>,
}

/// What became of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// How many chains there are.
    pub chains: u32,
    /// Records that were looked at.
    pub records: u64,
    /// Checkpoints that hold, one from elsewhere included.
    pub checkpoints: u64,
    /// Records under a checkpoint.
    pub signed: u64,
    /// Records whose key was destroyed.
    pub erased: u64,
    /// Records that were opened.
    pub opened: u64,
    /// The first record that is not as it was written.
    pub tampered: Option<Tampered>,
    /// The same of each chain that has one, in order.
    pub altered: Vec<Tampered>,
}

/// One chain while it is looked at.
struct Proof<'a> {
    number: u32,
    path: PathBuf,
    against: &'a Against<'a>,
    /// Another process may be writing: what is not whole yet at the end is no fault.
    written: bool,
    found: Verified,
}

/// Verifies a log.
pub fn verify(log: &Path, against: &Against<'_>) -> Result<Verified, AuditError> {
    let written = log::is_written(log);
    let mut all = Verified::default();
    let mut expected = against.checkpoint.and_then(|note| note.lines().next());
    for (place, number) in (1..).zip(log::chains(log)?) {
        all.chains += 1;
        let mut proof = Proof {
            number,
            path: chain_path(log, number),
            against,
            written,
            found: Verified::default(),
        };
        let outcome = if number == place {
            proof.run(&mut expected)?
        } else {
            Some(proof.bad(0, format!("chain {place} is missing")))
        };
        all.records += proof.found.records;
        all.checkpoints += proof.found.checkpoints;
        all.signed += proof.found.signed;
        all.erased += proof.found.erased;
        all.opened += proof.found.opened;
        all.altered.extend(outcome);
    }
    if all.chains == 0 {
        return Err(AuditError::Keystore {
            what: format!("there is no log in {}", log.display()),
        });
    }
    if let Some(origin) = expected
        && all.altered.is_empty()
    {
        all.altered.push(Tampered {
            chain: 1,
            seq: 0,
            what: format!("the checkpoint is of {origin}, and no chain has that name"),
        });
    }
    all.tampered = all.altered.first().cloned();
    Ok(all)
}

/// The checkpoints that a chain must hold, and what is wrong with those that do not verify.
struct Signed {
    checkpoints: Vec<Checkpoint>,
    fault: Option<Tampered>,
}

impl Proof<'_> {
    fn bad(&self, seq: u64, what: impl Into<String>) -> Tampered {
        Tampered {
            chain: self.number,
            seq,
            what: what.into(),
        }
    }

    /// Runs the proof. Returns the first fault.
    fn run(&mut self, expected: &mut Option<&str>) -> Result<Option<Tampered>, AuditError> {
        // In this order: the writer writes them in the other one.
        let notes = read(&segment::notes_path(&self.path))?;
        let segments = segment::segments(&self.path)?;
        let Some((_, first)) = segments.first() else {
            return Ok(Some(self.bad(0, "its segments are missing")));
        };
        let Some((head, _)) = SegmentHead::read(&read(first)?) else {
            return Ok(Some(self.bad(0, "the head of its segment was changed")));
        };
        let origin = checkpoint::origin(&head.log_id);
        let key = match self.key(&origin)? {
            Ok(key) => key,
            Err(fault) => return Ok(Some(fault)),
        };
        let mut signed = self.signed(&notes, &origin, &key);
        let mut unsigned = signed.checkpoints.is_empty() && signed.fault.is_none();
        if *expected == Some(origin.as_str())
            && let Some(note) = self.against.checkpoint
        {
            *expected = None;
            match Checkpoint::verify(note, &origin, &key) {
                Ok(read) => {
                    signed.checkpoints.push(read);
                    signed.checkpoints.sort_by_key(|each| each.size);
                }
                Err(fault) => return Ok(Some(self.bad(0, format!("the given checkpoint: {fault}")))),
            }
        }
        let records = self.records(&segments, &head, &signed.checkpoints)?;
        if unsigned && self.written {
            // The chain may have been begun meanwhile.
            unsigned = read(&segment::notes_path(&self.path))?.is_empty();
        }
        // The first record of a chain is signed before there is another.
        let unsigned = (unsigned && self.found.records > 1).then(|| self.bad(0, "no checkpoint is left"));
        // Which of them comes first.
        let first = [unsigned, records, signed.fault];
        Ok(first.into_iter().flatten().min_by_key(|fault| fault.seq))
    }

    /// The key that the checkpoints are verified with.
    fn key(&self, origin: &str) -> Result<Result<VerifyingKey, Tampered>, AuditError> {
        let path = self.path.join("verifier");
        let stored = String::from_utf8_lossy(&read(&path)?).into_owned();
        let known = self
            .against
            .verifier
            .or(self.against.ring.map(|ring| ring.signer.verifying_key()));
        let beside = checkpoint::parse_verifier_key(&stored);
        Ok(match (known, beside) {
            (Some(known), Some((name, beside))) if known == beside && name == origin => Ok(known),
            (None, Some((name, beside))) if name == origin => Ok(beside),
            _ => Err(self.bad(0, "the verifier key beside the chain is not the one of the log")),
        })
    }

    fn signed(&self, notes: &[u8], origin: &str, key: &VerifyingKey) -> Signed {
        let (text, broken) = match str::from_utf8(notes) {
            Ok(text) => (text, false),
            Err(error) => (
                str::from_utf8(&notes[..error.valid_up_to()]).unwrap_or_default(),
                error.error_len().is_some() || !self.written,
            ),
        };
        let (notes, torn) = checkpoint::split_file(text);
        let mut signed = Signed {
            checkpoints: Vec::with_capacity(notes.len()),
            fault: None,
        };
        let last = |signed: &Signed| signed.checkpoints.last().map_or(0, |last: &Checkpoint| last.size);
        for note in notes {
            match Checkpoint::verify(note, origin, key) {
                Ok(read) if read.size > last(&signed) => signed.checkpoints.push(read),
                read => {
                    let what = read.map_or_else(
                        |fault: NoteFault| fault.to_string(),
                        |_| "it is out of order".to_owned(),
                    );
                    let fault = self.bad(last(&signed), format!("the checkpoint that covers it: {what}"));
                    signed.fault.get_or_insert(fault);
                }
            }
        }
        if broken || (torn > 0 && !self.written) {
            let fault = self.bad(last(&signed), "the checkpoint that covers it is cut off");
            signed.fault.get_or_insert(fault);
        }
        signed
    }

    fn records(
        &mut self,
        segments: &[(u64, PathBuf)],
        chain: &SegmentHead,
        checkpoints: &[Checkpoint],
    ) -> Result<Option<Tampered>, AuditError> {
        let mut tree = Frontier::default();
        let mut ahead = checkpoints.iter().peekable();
        let mut before = 0;
        for (place, (first, path)) in segments.iter().enumerate() {
            let is_last = place + 1 == segments.len();
            // Leaves first: the writer writes them last.
            let stored = segment::read_leaves(&segment::leaves_path(path))?;
            let bytes = read(path)?;
            if *first != tree.size() {
                return Ok(Some(self.bad(tree.size(), "it is missing")));
            }
            let Some((head, begin)) = SegmentHead::read(&bytes) else {
                return Ok(Some(self.bad(tree.size(), "the head of its segment was changed")));
            };
            if head.log_id != chain.log_id || head.tree != tree {
                return Ok(Some(
                    self.bad(tree.size(), "its segment does not go on from the one before"),
                ));
            }
            let mut at = begin;
            let mut leaves = stored.iter();
            while at < bytes.len() {
                let seq = tree.size();
                let frame = match segment::next(&bytes[at..], &chain.log_id, seq) {
                    Ok(frame) => frame,
                    Err(segment::Misplaced::Fault(super::frame::FrameFault::Torn)) if is_last && self.written => break,
                    Err(fault) => return Ok(Some(self.bad(seq, fault.to_string()))),
                };
                let leaf = merkle::leaf_hash(frame.bytes);
                if let Some(fault) = self.record(&frame, &leaf, leaves.next(), is_last) {
                    return Ok(Some(self.bad(seq, fault)));
                }
                tree.push(leaf);
                at += frame.bytes.len();
                self.found.records += 1;
                while let Some(checkpoint) = ahead.next_if(|each| each.size == tree.size()) {
                    if checkpoint.root != tree.root() {
                        let what = format!("it or one up to {seq} is not what was signed");
                        return Ok(Some(self.bad(before, what)));
                    }
                    before = checkpoint.size;
                    self.found.checkpoints += 1;
                    self.found.signed = checkpoint.size;
                }
            }
            if leaves.next().is_some() {
                return Ok(Some(self.bad(tree.size(), "the stored tree has it, and it is missing")));
            }
        }
        Ok(ahead.peek().map(|checkpoint| {
            self.bad(
                tree.size(),
                format!("it is missing: {} records were signed", checkpoint.size),
            )
        }))
    }

    /// What is wrong with a record at its place.
    fn record(
        &mut self,
        frame: &super::frame::Frame<'_>,
        leaf: &Hash,
        stored: Option<&Hash>,
        is_last: bool,
    ) -> Option<&'static str> {
        let held = self.against.ring.map(|ring| ring.held.get(&frame.header.kid));
        let opens = match held {
            Some(Some(Held::Live { dek, .. })) => Some(frame.open(dek).is_some()),
            _ => None,
        };
        match stored {
            Some(stored) if stored == leaf => {}
            Some(_) if opens == Some(true) => return Some("its leaf in the stored tree was changed"),
            Some(_) => return Some("it was changed"),
            None if is_last && self.written => {}
            None => return Some("the stored tree does not have it"),
        }
        match (held, opens) {
            (_, Some(false)) => return Some("it does not open with its key"),
            (_, Some(true)) => self.found.opened += 1,
            (Some(Some(Held::Erased)), _) => self.found.erased += 1,
            (Some(Some(_)), _) => return Some("its key in the keystore was changed"),
            (Some(None), _) => return Some("its key is not in the keystore"),
            (None, _) => {}
        }
        None
    }
}

fn read(path: &Path) -> Result<Vec<u8>, AuditError> {
    match fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        bytes => bytes.map_err(AuditError::io("reading", path)),
    }
}

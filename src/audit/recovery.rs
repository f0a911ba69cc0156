//! A chain after a start: the longest valid prefix, and whether it is what was signed.

use std::fs;
use std::path::Path;

use super::chain::{Chain, ChainSettings, Position};
use super::checkpoint::{self, Checkpoint};
use super::error::{AuditError, Tampered};
use super::files::{self, Durability, GrowingFile};
use super::keystore::{Held, KeyRing};
use super::merkle;
use super::segment::{self, SegmentHead};
use crate::clock::Micros;
use crate::mutants::mutant;

/// What a start found and put right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Bytes behind the last whole record, of a write that was cut short. They are kept in a file beside the segment.
    pub cut: u64,
    /// Records that no checkpoint had covered, because the process ended without one.
    pub unsigned: u64,
}

/// The checkpoints of a chain, in order and each verified, and where a torn last one begins.
fn checkpoints(text: &str, number: u32, origin: &str, ring: &KeyRing) -> Result<(Vec<Checkpoint>, usize), Tampered> {
    let (notes, torn) = checkpoint::split_file(text);
    let key = ring.signer.verifying_key();
    let mut found: Vec<Checkpoint> = Vec::with_capacity(notes.len());
    for note in notes {
        let before = found.last().map_or(0, |last| last.size);
        let tampered = |what: String| Tampered {
            chain: number,
            seq: before,
            what,
        };
        let read = Checkpoint::verify(note, origin, &key)
            .map_err(|fault| tampered(format!("the checkpoint that covers it is not valid: {fault}")))?;
        if read.size <= before {
            return Err(tampered("a checkpoint is not larger than the one before it".to_owned()));
        }
        found.push(read);
    }
    Ok((found, text.len() - torn))
}

/// Opens the last segment of a chain to go on after its last whole record.
pub fn recover(
    path: &Path,
    number: u32,
    ring: &KeyRing,
    settings: ChainSettings,
    now: Micros,
) -> Result<(Chain, Recovered), AuditError> {
    let tampered = |seq: u64, what: &str| Tampered {
        chain: number,
        seq,
        what: what.to_owned(),
    };
    let segments = segment::segments(path)?;
    let (first, last) = segments.last().ok_or_else(|| tampered(0, "its segment is missing"))?;
    let bytes = fs::read(last).map_err(AuditError::io("reading", last))?;
    let (head, begin) = SegmentHead::read(&bytes)
        .filter(|(head, _)| head.tree.size() == *first)
        .ok_or_else(|| tampered(*first, "the head of its segment was changed"))?;
    let notes_path = segment::notes_path(path);
    let mut notes = GrowingFile::open(&notes_path)?;
    let text = fs::read(&notes_path).map_err(AuditError::io("reading", &notes_path))?;
    // What is torn may be torn within a character.
    let whole = match str::from_utf8(&text) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => str::from_utf8(&text[..error.valid_up_to()]).unwrap_or_default(),
        Err(_) => return Err(tampered(0, "the checkpoints were changed").into()),
    };
    let (signed, notes_end) = checkpoints(whole, number, &checkpoint::origin(&head.log_id), ring)?;
    let last_signed = signed.last().map_or(0, |last| last.size);
    if head.tree.size() > 0
        && !signed
            .iter()
            .any(|each| each.size == head.tree.size() && each.root == head.tree.root())
    {
        return Err(tampered(*first, "its segment does not go on from a checkpoint").into());
    }

    let stored = segment::read_leaves(&segment::leaves_path(last))?;
    let mut tree = head.tree.clone();
    let mut leaves = Vec::with_capacity(stored.len() * 32);
    let mut at = begin;
    let mut before = head.tree.size();
    let mut ahead = signed.iter().filter(|each| each.size > *first).peekable();
    while let Ok(frame) = segment::next(&bytes[at..], &head.log_id, tree.size()) {
        let seq = tree.size();
        let leaf = merkle::leaf_hash(frame.bytes);
        if seq < last_signed {
            let place = usize::try_from(seq - first).expect("within a file");
            if stored.get(place).is_some_and(|stored| *stored != leaf) {
                return Err(tampered(seq, "it is not the record that the stored tree has").into());
            }
        } else if !matches!(ring.held.get(&frame.header.kid), Some(Held::Live { dek, .. }) if frame.open(dek).is_some())
        {
            // Not signed yet, and nothing that the log sealed: what a loss of power may leave, or somebody without the keys.
            // What was under a key that was erased since is signed: an erasure does that first.
            break;
        }
        leaves.extend_from_slice(&leaf);
        tree.push(leaf);
        at += frame.bytes.len();
        if mutant!(CheckpointNotExtended) {
            continue;
        }
        if let Some(checkpoint) = ahead.next_if(|each| each.size == tree.size()) {
            if checkpoint.root != tree.root() {
                return Err(tampered(before, "it is not what was signed").into());
            }
            before = checkpoint.size;
        }
    }
    if tree.size() < last_signed && !mutant!(CheckpointNotExtended) {
        return Err(tampered(tree.size(), "it was signed and is missing or changed").into());
    }

    if signed.is_empty() && tree.size() > 1 {
        // The first record of a chain is signed before there is another.
        return Err(tampered(0, "no checkpoint is left").into());
    }

    let recovered = Recovered {
        cut: (bytes.len() - at) as u64,
        unsigned: tree.size().saturating_sub(last_signed),
    };
    if recovered.cut > 0 {
        let kept = last.with_extension(format!("cut-{}", tree.size()));
        files::create_whole(&kept, &bytes[at..], Durability::Fsync)?;
    }
    let mut segment = GrowingFile::open(last)?;
    segment.truncate(at as u64)?;
    notes.truncate(notes_end as u64)?;
    let mut stored_leaves = GrowingFile::open(&segment::leaves_path(last))?;
    stored_leaves.truncate(0)?;
    stored_leaves.write(&leaves)?;
    stored_leaves.commit(leaves.len());
    let position = Position {
        number,
        log_id: head.log_id,
        tree,
        segment,
        leaves: stored_leaves,
        notes,
        signed: last_signed,
    };
    Ok((Chain::resume(path.to_owned(), position, settings, now), recovered))
}

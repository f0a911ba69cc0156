//! Segments: the files that hold the frames of a chain, and beside each the leaves of the tree.
//!
//! ```text
//! "ISOAUDT1" | log_id 16 | first seq u64 | number of peaks u8 | peaks, 32 each | SHA-256 of all that
//! ```
//!
//! then frames. The peaks are the edge of the tree before the first frame, so that a start reads the last segment alone.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::error::AuditError;
use super::frame::{Frame, FrameFault, LogId};
use super::merkle::{Frontier, Hash};

const MAGIC: &[u8; 8] = b"ISOAUDT1";
/// Bytes before the peaks.
const FIXED: usize = 8 + 16 + 8 + 1;

/// What a segment begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentHead {
    /// Its chain.
    pub log_id: LogId,
    /// The edge of the tree before it; its size is the number of the first record.
    pub tree: Frontier,
}

impl SegmentHead {
    /// As bytes.
    pub fn write(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&self.log_id);
        out.extend_from_slice(&self.tree.size().to_be_bytes());
        out.push(u8::try_from(self.tree.peaks().len()).expect("at most one for each bit of a u64"));
        for peak in self.tree.peaks() {
            out.extend_from_slice(peak);
        }
        let digest = Sha256::digest(&out);
        out.extend_from_slice(&digest);
        out
    }

    /// Reads the head of a segment, and where the frames begin.
    pub fn read(bytes: &[u8]) -> Option<(Self, usize)> {
        let fixed = bytes.get(..FIXED).filter(|fixed| fixed.starts_with(MAGIC))?;
        let end = FIXED + usize::from(fixed[FIXED - 1]) * 32;
        let digest = bytes.get(end..end + 32)?;
        if digest != Sha256::digest(&bytes[..end]).as_slice() {
            return None;
        }
        let size = u64::from_be_bytes(fixed[24..32].try_into().ok()?);
        let peaks = bytes[FIXED..end].as_chunks::<32>().0.to_vec();
        let head = Self {
            log_id: fixed[8..24].try_into().ok()?,
            tree: Frontier::from_parts(size, peaks)?,
        };
        Some((head, end + 32))
    }
}

/// The file of frames that begins with that record.
pub fn segment_path(chain: &Path, first: u64) -> PathBuf {
    chain.join(format!("{first:020}.seg"))
}

/// The leaves of a segment.
pub fn leaves_path(segment: &Path) -> PathBuf {
    segment.with_extension("leaves")
}

/// The checkpoints of a chain.
pub fn notes_path(chain: &Path) -> PathBuf {
    chain.join("checkpoints")
}

/// The segments of a chain by the number of their first record, in order.
pub fn segments(chain: &Path) -> Result<Vec<(u64, PathBuf)>, AuditError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(chain).map_err(AuditError::io("reading", chain))? {
        let path = entry.map_err(AuditError::io("reading", chain))?.path();
        if path.extension().is_some_and(|extension| extension == "seg")
            && let Some(first) = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok())
        {
            found.push((first, path));
        }
    }
    found.sort();
    Ok(found)
}

/// The leaves of a file; a torn last one is left out.
pub fn read_leaves(path: &Path) -> Result<Vec<Hash>, AuditError> {
    match fs::read(path) {
        Ok(bytes) => Ok(bytes.as_chunks::<32>().0.to_vec()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(AuditError::io("reading", path)(error)),
    }
}

/// Why the bytes at a place are not the record that is expected there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Misplaced {
    /// No frame.
    #[error(transparent)]
    Fault(#[from] FrameFault),
    /// A frame of another log.
    #[error("another log's record is in its place")]
    Log,
    /// A frame of this chain from elsewhere.
    #[error("record {0} is in its place")]
    Number(u64),
}

/// Reads the record that is expected next.
pub fn next<'a>(bytes: &'a [u8], log_id: &LogId, seq: u64) -> Result<Frame<'a>, Misplaced> {
    let frame = Frame::parse(bytes)?;
    if frame.header.log_id != *log_id {
        return Err(Misplaced::Log);
    }
    if frame.header.seq != seq {
        return Err(Misplaced::Number(frame.header.seq));
    }
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_back_and_no_changed_one_is() {
        let mut tree = Frontier::default();
        (0..11_u8).for_each(|leaf| tree.push([leaf; 32]));
        let head = SegmentHead { log_id: [4; 16], tree };
        let mut bytes = head.write();
        let length = bytes.len();
        bytes.extend_from_slice(b"frames");
        assert_eq!(SegmentHead::read(&bytes), Some((head, length)));
        for bit in 0..length * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHead::read(&changed), None, "{bit}");
        }
    }
}

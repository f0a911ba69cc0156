//! A record on the disk.
//!
//! ```text
//! len u32 | v u8 | log_id 16 | seq u64 | ts_ns u64 | class u8 | severity u8 | pseudonym 16 | kid 8 | epoch u32
//!         | nonce 24 | ciphertext | tag 16
//! ```
//!
//! Numbers are big-endian; `len` counts what follows it. What is before the nonce is authenticated with the body, so a body
//! opens at its own place and under its own user only.

use super::content::MAX_BODY;
use super::keys::{self, KeyId, NONCE, Pseudonym, TAG, UserKey};
use super::record::{AuditClass, Severity};
use crate::mutants::mutant;

/// The version of the layout.
pub const VERSION: u8 = 1;
/// Bytes of the length itself.
pub const PREFIX: usize = 4;
/// Bytes of a header.
pub const HEADER: usize = 1 + 16 + 8 + 8 + 1 + 1 + 16 + 8 + 4;
/// What is authenticated without being encrypted.
const AAD: usize = PREFIX + HEADER;
/// Bytes of a frame around its body.
pub const OVERHEAD: usize = AAD + NONCE + TAG;
/// Bytes of the largest frame.
pub const MAX_FRAME: usize = OVERHEAD + MAX_BODY;

/// Which chain of which log a frame belongs to; random.
pub type LogId = [u8; 16];

/// The clear part of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The chain.
    pub log_id: LogId,
    /// The record's number in the chain, from 0.
    pub seq: u64,
    /// When it was taken, in nanoseconds since the Unix epoch.
    pub ts_ns: u64,
    /// Its class.
    pub class: AuditClass,
    /// Its severity.
    pub severity: Severity,
    /// What stands for the user.
    pub pseudonym: Pseudonym,
    /// The data key.
    pub kid: KeyId,
    /// The epoch of the data key.
    pub epoch: u32,
}

/// Why bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameFault {
    /// They end too early: a write that was cut short.
    #[error("it is cut off")]
    Torn,
    /// No frame is that short or that long.
    #[error("its length is impossible")]
    Length,
    /// Another layout.
    #[error("its version, class or severity is unknown")]
    Unknown,
}

/// A frame as it is on the disk.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// All its bytes: the content of its leaf.
    pub bytes: &'a [u8],
    /// The clear part.
    pub header: Header,
}

/// Appends a sealed record.
pub fn seal(out: &mut Vec<u8>, header: &Header, key: &UserKey, nonce: &[u8; NONCE], body: &[u8]) {
    debug_assert!(body.len() <= MAX_BODY, "content::body cuts");
    let begin = out.len();
    let length = u32::try_from(OVERHEAD - PREFIX + body.len()).expect("bodies are cut");
    out.extend_from_slice(&length.to_be_bytes());
    out.push(VERSION);
    out.extend_from_slice(&header.log_id);
    out.extend_from_slice(&header.seq.to_be_bytes());
    out.extend_from_slice(&header.ts_ns.to_be_bytes());
    out.push(header.class as u8);
    out.push(header.severity as u8);
    out.extend_from_slice(&header.pseudonym);
    out.extend_from_slice(&header.kid);
    out.extend_from_slice(&header.epoch.to_be_bytes());
    out.extend_from_slice(nonce);
    out.extend_from_slice(body);
    let (head, ciphertext) = out[begin..].split_at_mut(AAD + NONCE);
    let tag = keys::seal(&key.dek, nonce, authenticated(head), ciphertext);
    out.extend_from_slice(&tag);
}

/// The header, unless the fault is on that leaves it out.
fn authenticated(head: &[u8]) -> &[u8] {
    if mutant!(HeaderNotAuthenticated) {
        &[]
    } else {
        &head[..AAD]
    }
}

/// Splits the next bytes off.
fn take<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
    let (first, rest) = bytes.split_first_chunk::<N>().expect("the length was checked");
    *bytes = rest;
    *first
}

impl<'a> Frame<'a> {
    /// Reads the frame that `bytes` begin with.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FrameFault> {
        let prefix = bytes.first_chunk::<PREFIX>().ok_or(FrameFault::Torn)?;
        let length = PREFIX + u32::from_be_bytes(*prefix) as usize;
        if !(OVERHEAD..=MAX_FRAME).contains(&length) {
            return Err(FrameFault::Length);
        }
        let bytes = bytes.get(..length).ok_or(FrameFault::Torn)?;
        let mut rest = &bytes[PREFIX..];
        let [version] = take::<1>(&mut rest);
        let (log_id, seq, ts_ns) = (take(&mut rest), take(&mut rest), take(&mut rest));
        let ([class], [severity]) = (take::<1>(&mut rest), take::<1>(&mut rest));
        let (pseudonym, kid, epoch) = (take(&mut rest), take(&mut rest), take(&mut rest));
        let class = AuditClass::coded(class).filter(|_| version == VERSION);
        let (Some(class), Some(severity)) = (class, Severity::coded(severity)) else {
            return Err(FrameFault::Unknown);
        };
        let header = Header {
            log_id,
            seq: u64::from_be_bytes(seq),
            ts_ns: u64::from_be_bytes(ts_ns),
            class,
            severity,
            pseudonym,
            kid,
            epoch: u32::from_be_bytes(epoch),
        };
        Ok(Self { bytes, header })
    }

    /// The body, when the key is that of the record and nothing of the frame was changed.
    pub fn open(&self, key: &[u8; keys::KEY]) -> Option<Vec<u8>> {
        let (head, rest) = self.bytes.split_at(AAD + NONCE);
        let nonce = head.last_chunk::<NONCE>()?;
        let (ciphertext, tag) = rest.split_last_chunk::<TAG>()?;
        let mut body = ciphertext.to_vec();
        keys::open(key, nonce, authenticated(head), &mut body, tag).then_some(body)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> UserKey {
        UserKey {
            kid: keys::random(),
            epoch: 7,
            pseudonym: keys::random(),
            dek: keys::random_key(),
        }
    }

    fn header(key: &UserKey, seq: u64) -> Header {
        Header {
            log_id: [9; 16],
            seq,
            ts_ns: 1_700_000_000_000_000_000,
            class: AuditClass::Isolation,
            severity: Severity::High,
            pseudonym: key.pseudonym,
            kid: key.kid,
            epoch: key.epoch,
        }
    }

    proptest! {
        #[test]
        fn a_frame_opens_as_it_was_sealed_and_with_no_bit_changed(body in proptest::collection::vec(any::<u8>(), 0..600), bit in any::<usize>()) {
            let key = key();
            let mut bytes = vec![1, 2, 3];
            seal(&mut bytes, &header(&key, 5), &key, &keys::random(), &body);
            let bytes = &bytes[3..];
            let frame = Frame::parse(bytes).expect("it is one");
            prop_assert_eq!(frame.header, header(&key, 5));
            prop_assert_eq!(frame.bytes.len(), OVERHEAD + body.len());
            prop_assert_eq!(frame.open(&key.dek), Some(body));
            prop_assert_eq!(frame.open(&keys::random_key()), None);
            let mut changed = bytes.to_vec();
            let bit = bit % (bytes.len() * 8);
            changed[bit / 8] ^= 1 << (bit % 8);
            let opened = Frame::parse(&changed).ok().and_then(|frame| frame.open(&key.dek));
            prop_assert_eq!(opened, None);
            for shorter in 0..bytes.len() {
                prop_assert_eq!(Frame::parse(&bytes[..shorter]).err(), Some(FrameFault::Torn));
            }
        }

        #[test]
        fn any_bytes_are_a_frame_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Frame::parse(&bytes);
        }
    }

    #[test]
    fn a_body_does_not_open_in_the_place_of_another() {
        let key = key();
        let (mut first, mut second) = (Vec::new(), Vec::new());
        seal(&mut first, &header(&key, 0), &key, &keys::random(), b"the first");
        seal(&mut second, &header(&key, 1), &key, &keys::random(), b"the other");
        // The sealed part of the second under the header of the first.
        first[AAD..].copy_from_slice(&second[AAD..]);
        assert_eq!(Frame::parse(&first).expect("it looks like one").open(&key.dek), None);
    }
}

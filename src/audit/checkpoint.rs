//! Checkpoints: C2SP signed notes over the size and root of a chain's tree (c2sp.org/tlog-checkpoint, c2sp.org/signed-note).
//!
//! ```text
//! isolane.audit/<log id>
//! 1024
//! <root, base64>
//!
//! — isolane.audit/<log id> <base64 of key hash and Ed25519 signature>
//! ```
//!
//! A file of them has an empty line after each.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};

use super::frame::LogId;
use super::merkle::Hash;

/// The signature type of Ed25519 in signed notes.
const ED25519: u8 = 1;
/// What begins a signature line.
const DASH: &str = "\u{2014} ";

/// What was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which chain.
    pub origin: String,
    /// How many records it has.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
}

/// Why a text is no checkpoint of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoteFault {
    /// It has not the form of one.
    #[error("it is no signed note")]
    Form,
    /// It is of another chain.
    #[error("it is of another chain")]
    Origin,
    /// No signature of the log's key is on it.
    #[error("its signature is not that of the log")]
    Signature,
}

/// The name of a chain, in checkpoints and verifier keys.
pub fn origin(log_id: &LogId) -> String {
    let mut name = String::from("isolane.audit/");
    hex(&mut name, log_id);
    name
}

/// Appends bytes as hexadecimal digits.
pub fn hex(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
}

fn key_hash(name: &str, key: &VerifyingKey) -> [u8; 4] {
    let mut hasher = Sha256::new();
    hasher.update(name.as_bytes());
    hasher.update([b'\n', ED25519]);
    hasher.update(key.as_bytes());
    let digest: Hash = hasher.finalize().into();
    [digest[0], digest[1], digest[2], digest[3]]
}

/// The key that verifies a chain's checkpoints, as tools for signed notes take it: `<name>+<hash>+<base64>`.
pub fn verifier_key(origin: &str, key: &VerifyingKey) -> String {
    let mut out = format!("{origin}+");
    hex(&mut out, &key_hash(origin, key));
    out.push('+');
    let mut typed = vec![ED25519];
    typed.extend_from_slice(key.as_bytes());
    BASE64.encode_string(typed, &mut out);
    out
}

/// Reads a verifier key: the name, and the key.
pub fn parse_verifier_key(text: &str) -> Option<(String, VerifyingKey)> {
    let (name, rest) = text.trim().split_once('+')?;
    let (hash, key) = rest.split_once('+')?;
    let typed = BASE64.decode(key).ok()?;
    let (kind, key) = typed.split_first()?;
    let key = VerifyingKey::from_bytes(key.try_into().ok()?).ok()?;
    let mut expected = String::new();
    hex(&mut expected, &key_hash(name, &key));
    (*kind == ED25519 && expected == hash).then(|| (name.to_owned(), key))
}

impl Checkpoint {
    fn text(&self) -> String {
        let mut text = format!("{}\n{}\n", self.origin, self.size);
        BASE64.encode_string(self.root, &mut text);
        text.push('\n');
        text
    }

    /// Signs it.
    pub fn sign(&self, key: &SigningKey) -> String {
        let text = self.text();
        let mut signature = key_hash(&self.origin, &key.verifying_key()).to_vec();
        signature.extend_from_slice(&key.sign(text.as_bytes()).to_bytes());
        let mut note = text;
        let _ = write!(note, "\n{DASH}{} ", self.origin);
        BASE64.encode_string(signature, &mut note);
        note.push('\n');
        note
    }

    /// Reads a signed note of the chain of that name. Signatures of others may be on it, too.
    pub fn verify(note: &str, origin: &str, key: &VerifyingKey) -> Result<Self, NoteFault> {
        let (text, signatures) = note.split_once("\n\n").ok_or(NoteFault::Form)?;
        let checkpoint = Self::parse(text).ok_or(NoteFault::Form)?;
        if checkpoint.origin != origin {
            return Err(NoteFault::Origin);
        }
        // Signed is the text as it stands, so there is one form of it: what is read must be written the same way again.
        let signed = format!("{text}\n");
        if checkpoint.text() != signed {
            return Err(NoteFault::Form);
        }
        let hash = key_hash(origin, key);
        let ours = signatures.lines().any(|line| {
            let found = line
                .strip_prefix(DASH)
                .and_then(|line| line.split_once(' '))
                .filter(|(name, _)| *name == origin)
                .and_then(|(_, signature)| BASE64.decode(signature).ok());
            let Some((of, signature)) = found.as_deref().and_then(|bytes| bytes.split_first_chunk::<4>()) else {
                return false;
            };
            *of == hash
                && Signature::from_slice(signature)
                    .is_ok_and(|signature| key.verify_strict(signed.as_bytes(), &signature).is_ok())
        });
        if ours {
            Ok(checkpoint)
        } else {
            Err(NoteFault::Signature)
        }
    }

    /// Reads the text of a note, signed or not.
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let (origin, size, root) = (lines.next()?, lines.next()?, lines.next()?);
        let size: u64 = size.parse().ok()?;
        let root = BASE64.decode(root).ok()?.try_into().ok()?;
        Some(Self {
            origin: origin.to_owned(),
            size,
            root,
        })
    }
}

/// The notes of a file, and how many bytes of a write that was cut short come after them.
pub fn split_file(text: &str) -> (Vec<&str>, usize) {
    let mut notes = Vec::new();
    let mut rest = text;
    // A note has an empty line within, and one after it.
    while let Some(inner) = rest.find("\n\n") {
        let Some(end) = rest[inner + 2..].find("\n\n") else {
            break;
        };
        let (note, after) = rest.split_at(inner + 2 + end + 2);
        notes.push(&note[..note.len() - 1]);
        rest = after;
    }
    (notes, rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of c2sp.org/signed-note: a note, and the key that verifies it.
    const EXAMPLE_KEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";

    #[test]
    fn the_published_verifier_key_is_read_and_written() {
        let (name, key) = parse_verifier_key(EXAMPLE_KEY).expect("it is one");
        assert_eq!(name, "PeterNeumann");
        assert_eq!(verifier_key(&name, &key), EXAMPLE_KEY);
        assert!(parse_verifier_key(&EXAMPLE_KEY.replace("c74f", "c74e")).is_none());
    }

    #[test]
    fn the_published_note_is_signed_by_the_published_key() {
        // golang.org/x/mod/sumdb/note, example_test.go.
        let text =
            "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
        let line = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=";
        let (name, key) = parse_verifier_key(EXAMPLE_KEY).expect("it is one");
        let bytes = BASE64.decode(line).expect("base64");
        let (hash, signature) = bytes.split_first_chunk::<4>().expect("long enough");
        assert_eq!(*hash, key_hash(&name, &key));
        let signature = Signature::from_slice(signature).expect("64 bytes");
        assert!(key.verify_strict(text.as_bytes(), &signature).is_ok());
    }

    #[test]
    fn a_note_is_read_back_and_no_changed_one_is() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let name = origin(&[1; 16]);
        let checkpoint = Checkpoint {
            origin: name.clone(),
            size: 1024,
            root: [3; 32],
        };
        let note = checkpoint.sign(&key);
        let verify = |note: &str| Checkpoint::verify(note, &name, &key.verifying_key());
        assert_eq!(verify(&note), Ok(checkpoint));
        for at in 0..note.len() {
            let mut bytes = note.clone().into_bytes();
            bytes[at] ^= 1;
            if let Ok(changed) = String::from_utf8(bytes) {
                assert!(verify(&changed).is_err(), "{at}: {changed}");
            }
        }
        assert_eq!(
            Checkpoint::verify(&note, &origin(&[2; 16]), &key.verifying_key()),
            Err(NoteFault::Origin)
        );
        let other = SigningKey::from_bytes(&[8; 32]);
        assert_eq!(
            Checkpoint::verify(&note, &name, &other.verifying_key()),
            Err(NoteFault::Signature)
        );
        // A cosignature beside it changes nothing.
        assert!(verify(&format!("{note}{DASH}witness.example/w AAAAAAAA\n")).is_ok());
    }

    #[test]
    fn a_file_is_split_into_notes_and_the_torn_end() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let note = |size| {
            Checkpoint {
                origin: origin(&[1; 16]),
                size,
                root: [3; 32],
            }
            .sign(&key)
        };
        let file = format!("{}\n{}\n", note(1), note(2));
        assert_eq!(split_file(&file), (vec![note(1).as_str(), note(2).as_str()], 0));
        let (first, end) = (note(1).len() + 1, file.len());
        for cut in first..end {
            if file.is_char_boundary(cut) {
                assert_eq!(split_file(&file[..cut]), (vec![note(1).as_str()], cut - first), "{cut}");
            }
        }
        assert_eq!(split_file(""), (vec![], 0));
    }
}

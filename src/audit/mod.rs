//! The audit log: records sealed under the keys of their users, chained by a Merkle tree over what is on the disk.
//!
//! A record becomes a [`frame`]: a header in clear, and a body under the key of its user. The frames of a chain are the
//! leaves of one RFC 6962 tree, whose root is signed in [`checkpoint`]s. Because the tree is over ciphertext, destroying the
//! key of a user ([`keystore`]) erases what was recorded of that user and leaves every proof as it was.
//!
//! | file | what is in it |
//! |---|---|
//! | `record` | classes, severities, a record on its way to the disk |
//! | `content` | the body of a record: what is escaped, what is cut |
//! | `frame` | the bytes of a record: layout, sealing, opening |
//! | `merkle` | leaf and node hashes, the growing tree, proofs |
//! | `checkpoint` | C2SP signed notes |
//! | `keys`, `keystore`, `slot` | keys in memory and what is derived of them; the file that holds them wrapped, and its bytes |
//! | `files` | a file that only grows, and is noticed to be another one |
//! | `chain` | segments, stored leaves and checkpoints of one chain; a commit |
//! | `recovery` | what is left of a chain after a crash, and whether it is what was signed |
//! | `intake`, `health` | the queue, what happens when the log takes nothing; its bounds and figures |
//! | `writer` | the one thread that writes |
//! | `log` | a directory with its chains, opened to write |
//! | `reading`, `verify` | reading a directory without changing it; the whole proof |

pub mod chain;
pub mod checkpoint;
pub mod content;
mod error;
pub mod files;
pub mod frame;
mod health;
pub mod intake;
pub mod keys;
pub mod keystore;
pub mod log;
pub mod merkle;
pub mod reading;
pub mod record;
pub mod recovery;
pub mod segment;
mod slot;
#[cfg(test)]
mod testing;
pub mod verify;
mod writer;

pub use error::{AuditError, Tampered};
pub use log::AuditLog;
pub use record::{AuditClass, Entry, OnFailure, Severity};

//! Identifiers: newtypes that cannot be mixed up, structural checks, and generation.
//!
//! Generated ids are UUIDs of version 7: 48 bits of Unix time in milliseconds, a 12-bit counter that keeps the ids of one
//! process in order, and 62 random bits from the operating system, so that ids of different processes do not collide.

use std::borrow::Borrow;
use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Ids longer than this (in characters) are refused: they would only serve to fill logs and maps.
pub const MAX_ID_CHARS: usize = 256;

/// A structural fault of an identifier, before any policy is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdFault {
    /// Nothing but white space.
    #[error("must be a non-empty string")]
    Blank,
    /// Over [`MAX_ID_CHARS`].
    #[error("must be at most {MAX_ID_CHARS} characters long")]
    TooLong,
    /// A control character, which would forge log lines.
    #[error("must not contain control characters")]
    Control,
}

/// Whether all bytes are printable ASCII other than the space, and there is one: so it is with nearly all ids. Eight at a time.
pub fn is_graphic(bytes: &[u8]) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x80 * ONES;
    // The classic tests of a word for a byte below n and for a byte that is zero, which may only be wrong in which byte it was.
    let odd = |word: u64| {
        let below = word.wrapping_sub(0x21 * ONES) & !word;
        let delete = word ^ (0x7f * ONES);
        (word | below | (delete.wrapping_sub(ONES) & !delete)) & HIGH
    };
    let word = |chunk: &[u8; 8]| u64::from_le_bytes(*chunk);
    let Some(last) = bytes.last_chunk::<8>() else {
        return !bytes.is_empty() && bytes.iter().all(u8::is_ascii_graphic);
    };
    // The last eight bytes may overlap those before.
    let (chunks, _) = bytes.as_chunks::<8>();
    chunks
        .iter()
        .fold(odd(word(last)), |found, chunk| found | odd(word(chunk)))
        == 0
}

/// Checks what holds for every identifier of any kind.
pub fn check(value: &str) -> Result<(), IdFault> {
    if is_graphic(value.as_bytes()) {
        return if value.len() > MAX_ID_CHARS {
            Err(IdFault::TooLong)
        } else {
            Ok(())
        };
    }
    if value.trim().is_empty() {
        return Err(IdFault::Blank);
    }
    if value.chars().count() > MAX_ID_CHARS {
        return Err(IdFault::TooLong);
    }
    if value.chars().any(char::is_control) {
        return Err(IdFault::Control);
    }
    Ok(())
}

/// Text that passed [`check`], from which an id is made without checking again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checked<'a>(&'a str);

impl<'a> Checked<'a> {
    /// Checks `value`.
    pub fn new(value: &'a str) -> Result<Self, IdFault> {
        check(value).map(|()| Self(value))
    }

    /// The text.
    pub fn as_str(self) -> &'a str {
        self.0
    }
}

macro_rules! id_types {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes a value that passes [`check`].
            pub fn new(value: &str) -> Result<Self, IdFault> {
                Checked::new(value).map(Self::from)
            }

            /// The text of the id.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        /// A map is asked with the text alone.
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl From<Checked<'_>> for $name {
            fn from(checked: Checked<'_>) -> Self {
                Self(Arc::from(checked.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), shorten(&self.0))
            }
        }
    )+};
}

id_types! {
    /// Whose data it is. Opaque: an e-mail address, a number and a UUID are all fine.
    UserId,
    /// A conversation of one user. Only unique together with the user.
    ThreadId,
    /// One run of an agent or a pipeline; the name of its event stream.
    RunId,
    /// One agent execution inside a run: a span.
    RequestId,
}

impl RequestId {
    /// A new one: `req_{32 hexadecimal digits}`. `millis` is the time since the Unix epoch.
    pub fn fresh(millis: u64) -> Self {
        let mut id = *b"req_00000000000000000000000000000000";
        write_fresh(&mut id[4..], millis);
        Self(Arc::from(str::from_utf8(&id).unwrap_or_default()))
    }

    /// The text, shared.
    pub fn shared(&self) -> &Arc<str> {
        &self.0
    }
}

impl UserId {
    /// The text, shared.
    pub fn shared(&self) -> &Arc<str> {
        &self.0
    }

    /// Whether both name the same user. Compares the pointers first: ids of one lane share their text.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

/// The first eight characters, for places where people read ids: representations, correlation ids.
pub fn shorten(value: &str) -> &str {
    match value.char_indices().nth(8) {
        Some((end, _)) => &value[..end],
        None => value,
    }
}

/// The first `chars` characters of `value`.
pub fn cut(value: &str, chars: usize) -> &str {
    match value.char_indices().nth(chars) {
        Some((end, _)) => &value[..end],
        None => value,
    }
}

/// Grows with each fork, so that a child process throws away the random bytes that it shares with its parent.
static FORKS: AtomicU64 = AtomicU64::new(0);
/// The last time and counter given out: `milliseconds << 12 | counter`.
static LAST_TICK: AtomicU64 = AtomicU64::new(0);

const POOL_BYTES: usize = 1024;

struct RandomPool {
    bytes: [u8; POOL_BYTES],
    used: usize,
    forks: u64,
}

thread_local! {
    static RANDOM: RefCell<RandomPool> = const { RefCell::new(RandomPool { bytes: [0; POOL_BYTES], used: POOL_BYTES, forks: 0 }) };
}

/// To be called in the child after a fork: random bytes drawn before it are never used again.
pub fn after_fork_in_child() {
    if crate::mutants::mutant!(RandomnessSharedAfterFork) {
        return;
    }
    FORKS.fetch_add(1, Ordering::Relaxed);
}

pub(crate) fn random_u64() -> u64 {
    RANDOM.with_borrow_mut(|pool| {
        let forks = FORKS.load(Ordering::Relaxed);
        if pool.used + 8 > POOL_BYTES || pool.forks != forks {
            getrandom::fill(&mut pool.bytes).expect("the operating system gives random bytes");
            pool.used = 0;
            pool.forks = forks;
        }
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&pool.bytes[pool.used..pool.used + 8]);
        pool.bytes[pool.used..pool.used + 8].fill(0);
        pool.used += 8;
        u64::from_le_bytes(bytes)
    })
}

/// Writes a new time-ordered id as 32 hexadecimal digits. `millis` is the time since the Unix epoch.
fn write_fresh(into: &mut [u8], millis: u64) {
    let now = millis << 12;
    let next = |last: u64| now.max(last + 1);
    // `fetch_update` with a function that always answers cannot fail.
    let last = LAST_TICK
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last)))
        .unwrap_or(now);
    let tick = next(last);
    let mut random = [0; 10];
    random[2..].copy_from_slice(&random_u64().to_be_bytes());
    let [high, low] = u16::try_from(tick & 0xfff).unwrap_or_default().to_be_bytes();
    (random[0], random[1]) = (high, low);
    uuid::Builder::from_unix_timestamp_millis(tick >> 12, &random)
        .into_uuid()
        .simple()
        .encode_lower(into);
}

/// A new time-ordered id of 32 hexadecimal digits.
pub fn fresh() -> String {
    let mut id = [0; 32];
    write_fresh(&mut id, crate::clock::unix_millis_of_system());
    str::from_utf8(&id).unwrap_or_default().to_owned()
}

/// A new id with a readable prefix: `{prefix}_{32 hexadecimal digits}`.
pub fn fresh_with(prefix: &str) -> String {
    let mut id = String::with_capacity(prefix.len() + 33);
    id.push_str(prefix);
    id.push('_');
    id.push_str(&fresh());
    id
}

/// A new run id `run_{thread}_{32 hexadecimal digits}`, from which [`thread_of_run`] reads the thread again.
/// A thread id that would make it longer than [`MAX_ID_CHARS`] is left out.
pub fn fresh_run(thread: &str) -> String {
    if thread.chars().count() + "run__".len() + 32 > MAX_ID_CHARS {
        return fresh_with("run");
    }
    fresh_with(&format!("run_{thread}"))
}

/// The thread id inside a structured run id, of this module's form or of the existing service's
/// (`run_{thread}_{digits}_{8 hexadecimal digits}`).
pub fn thread_of_run(run: &str) -> Option<&str> {
    let rest = run.strip_prefix("run_")?;
    let (head, tail) = rest.rsplit_once('_')?;
    let hex = |s: &str, len: usize| s.len() == len && s.bytes().all(|b| b.is_ascii_hexdigit());
    if hex(tail, 32) {
        return Some(head);
    }
    let (thread, millis) = head.rsplit_once('_')?;
    (hex(tail, 8) && !millis.is_empty() && millis.bytes().all(|b| b.is_ascii_digit())).then_some(thread)
}

/// Whether the value is a UUID in one of the common spellings or a structured id (`word_…_{8 or 32 hexadecimal digits}`).
pub fn is_known_format(value: &str) -> bool {
    if uuid::Uuid::try_parse(value).is_ok() {
        return true;
    }
    let Some((head, tail)) = value.rsplit_once('_') else {
        return false;
    };
    !head.is_empty() && matches!(tail.len(), 8 | 32) && tail.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn ids_are_unique_and_ordered_across_threads() {
        let handles: Vec<_> = (0..4)
            .map(|_| std::thread::spawn(|| (0..5_000).map(|_| fresh()).collect::<Vec<_>>()))
            .collect();
        let mut all = HashSet::new();
        for handle in handles {
            let ids = handle.join().expect("the thread ends");
            assert!(
                ids.windows(2).all(|pair| pair[0] < pair[1]),
                "ids of one thread are in order"
            );
            all.extend(ids);
        }
        assert_eq!(all.len(), 20_000);
    }

    #[test]
    fn the_thread_is_read_from_both_forms_of_run_id() {
        let run = fresh_run("thread_with_underscores");
        assert_eq!(thread_of_run(&run), Some("thread_with_underscores"));
        assert_eq!(thread_of_run("run_thread-1_12345_deadbeef"), Some("thread-1"));
        assert_eq!(thread_of_run("something"), None);
        assert_eq!(thread_of_run("run_x"), None);
        assert!(fresh_run(&"t".repeat(256)).chars().count() <= MAX_ID_CHARS);
    }

    #[test]
    fn graphic_ids_are_told_from_others_at_every_place() {
        for length in 1..40 {
            for at in 0..length {
                for byte in 0..=u8::MAX {
                    let mut id = vec![b'a'; length];
                    id[at] = byte;
                    assert_eq!(
                        is_graphic(&id),
                        byte.is_ascii_graphic(),
                        "{byte:#x} at {at} of {length}"
                    );
                }
            }
        }
        assert!(!is_graphic(b""));
    }

    #[test]
    fn structural_faults_are_found() {
        assert_eq!(check(" \t"), Err(IdFault::Blank));
        assert_eq!(check(""), Err(IdFault::Blank));
        assert_eq!(check("with a space"), Ok(()));
        assert_eq!(check("\u{2003}"), Err(IdFault::Blank));
        assert_eq!(check("a\nb"), Err(IdFault::Control));
        assert_eq!(check("é\u{85}"), Err(IdFault::Control));
        assert_eq!(check(&"x".repeat(257)), Err(IdFault::TooLong));
        assert_eq!(check(&"é".repeat(256)), Ok(()));
        assert_eq!(check("auth0|5f7c@example.com"), Ok(()));
    }
}

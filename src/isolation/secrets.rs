//! Secrets that the application names as a user's: found again by the keyed hash of their tokens, never kept themselves.

use std::collections::HashMap;
use std::num::NonZeroUsize;

use siphasher::sip128::SipHasher24;

use super::tokens::tokens;
use crate::ids::{UserId, random_u64};
use crate::mutants::mutant;

/// What is guessed more easily than this belongs to nobody: two users may well have it.
const MIN_BITS: f64 = 64.0;
/// No text of fewer characters has 64 bits.
const SHORTEST: usize = 10;
/// Longer ones are refused: a stream keeps as much of what it has seen.
pub(super) const LONGEST: usize = 256;
const MAX_SECRETS: usize = 100_000;
const MAX_OF_USER: usize = 1_000;
/// Users of a shared secret who are remembered. One that more have had stays until the process ends.
const MAX_HOLDERS: usize = 8;

/// Why a secret was not registered. Nothing of it is in the text.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SecretRefused {
    /// Two users may well have the same.
    #[error(
        "the value has about {bits:.0} bits, or is cut by signs that identifiers do not have; a secret needs 64 in one piece of \
         letters, digits and - . _ @ +. Register the long identifier, not a name or a number"
    )]
    Weak {
        /// Of the piece that has most.
        bits: f64,
    },
    /// Over 256 bytes.
    #[error("the value has {bytes} bytes, a secret at most {LONGEST}; register the identifier in it")]
    Long {
        /// Its size.
        bytes: usize,
    },
    /// The user or the process has registered as many as are kept.
    #[error("{scope} has {limit} secrets registered, which is the limit; forget users that are gone")]
    Full {
        /// `user` or `process`.
        scope: &'static str,
        /// How many are kept.
        limit: usize,
    },
}

/// How many bits it takes to guess a text, estimated from its characters: the smaller of what its alphabet allows and what
/// the frequencies of its characters say. Those of a short text repeat less than its alphabet lets them, so a third is added.
pub fn estimated_bits(text: &[u8]) -> f64 {
    let has = |class: fn(&u8) -> bool| text.iter().any(class);
    let hex = text.iter().all(|c| c.is_ascii_hexdigit() || *c == b'-');
    let mut alphabet = 0_u32;
    alphabet += if has(u8::is_ascii_digit) { 10 } else { 0 };
    if hex {
        alphabet = 16;
    } else {
        alphabet += if has(u8::is_ascii_lowercase) { 26 } else { 0 };
        alphabet += if has(u8::is_ascii_uppercase) { 26 } else { 0 };
        alphabet += if has(u8::is_ascii_punctuation) { 6 } else { 0 };
    }
    let length = text.iter().filter(|c| !hex || **c != b'-').count() as f64;
    let mut counts = [0_u32; 256];
    for byte in text {
        counts[usize::from(*byte)] += 1;
    }
    let all = text.len() as f64;
    let by_frequency: f64 = counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| -f64::from(*count) * (f64::from(*count) / all).log2())
        .sum();
    (length * f64::from(alphabet.max(1)).log2()).min(by_frequency * 4.0 / 3.0)
}

#[derive(Debug, Clone)]
enum Owner {
    One(UserId),
    /// Several users have it, and it says nothing: those that are still here, or nothing when there were too many.
    Shared(Option<Vec<UserId>>),
}

#[derive(Debug)]
struct Secret {
    owner: Owner,
    /// Its place in the filter.
    place: u16,
}

/// Bits of the filter that most tokens do not pass.
const PLACES: usize = 1 << 16;

/// The secrets of all users.
pub(super) struct Secrets {
    key: [u8; 16],
    odd: u64,
    by_hash: HashMap<u128, Secret>,
    filter: Box<[u64; PLACES / 64]>,
    shortest: usize,
    of_user: HashMap<UserId, usize>,
}

impl Default for Secrets {
    fn default() -> Self {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&random_u64().to_le_bytes());
        key[8..].copy_from_slice(&random_u64().to_le_bytes());
        Self {
            key,
            odd: random_u64() | 1,
            by_hash: HashMap::new(),
            filter: Box::new([0; PLACES / 64]),
            shortest: usize::MAX,
            of_user: HashMap::new(),
        }
    }
}

fn word(bytes: &[u8]) -> u64 {
    // Letters of both cases are alike, as they are in the hash.
    bytes
        .first_chunk()
        .map_or(0, |chunk| u64::from_le_bytes(*chunk) | 0x2020_2020_2020_2020)
}

impl Secrets {
    fn place(&self, token: &[u8]) -> u16 {
        let last = &token[token.len().saturating_sub(8)..];
        let mixed = (word(token) ^ word(last).rotate_left(29) ^ token.len() as u64).wrapping_mul(self.odd);
        mixed.to_be_bytes()[0..2]
            .iter()
            .fold(0, |place, byte| place << 8 | u16::from(*byte))
    }

    /// The keyed hash of a token, whatever the case of its letters.
    fn hash(&self, token: &[u8]) -> u128 {
        let mut folded = [0; LONGEST];
        let folded = &mut folded[..token.len()];
        folded.copy_from_slice(token);
        folded.make_ascii_lowercase();
        SipHasher24::new_with_key(&self.key).hash(folded).as_u128()
    }

    fn may_have(&self, place: u16) -> bool {
        self.filter[usize::from(place) / 64] & 1 << (place % 64) != 0
    }

    /// Takes the pieces of a value that are hard to guess. Answers how many there are.
    pub(super) fn register(&mut self, user: &UserId, value: &[u8]) -> Result<NonZeroUsize, SecretRefused> {
        if value.len() > LONGEST {
            return Err(SecretRefused::Long { bytes: value.len() });
        }
        let (mut pieces, mut best) = (Vec::new(), 0.0_f64);
        tokens(value, SHORTEST, |from, to| {
            let bits = estimated_bits(&value[from..to]);
            best = best.max(bits);
            // What is part of a piece that is taken adds nothing.
            if bits >= MIN_BITS && pieces.last().is_none_or(|(_, end)| from >= *end) {
                pieces.push((from, to));
            }
        });
        let Some(count) = NonZeroUsize::new(pieces.len()) else {
            return Err(SecretRefused::Weak { bits: best });
        };
        let held = self.of_user.get(user).copied().unwrap_or_default();
        for (scope, limit, held) in [
            ("user", MAX_OF_USER, held),
            ("process", MAX_SECRETS, self.by_hash.len()),
        ] {
            if held + count.get() > limit {
                return Err(SecretRefused::Full { scope, limit });
            }
        }
        for (from, to) in pieces {
            self.take(user, &value[from..to]);
        }
        Ok(count)
    }

    fn take(&mut self, user: &UserId, token: &[u8]) {
        let (hash, place) = (self.hash(token), self.place(token));
        if let Some(secret) = self.by_hash.get_mut(&hash) {
            let former = match &mut secret.owner {
                Owner::One(owner) if !owner.is(user) && !mutant!(SharedSecretAlarms) => owner.clone(),
                Owner::One(_) => return,
                Owner::Shared(held) => {
                    if let Some(holders) = held
                        && !holders.iter().any(|holder| holder.is(user))
                    {
                        holders.push(user.clone());
                        if holders.len() > MAX_HOLDERS {
                            *held = None;
                        }
                    }
                    return;
                }
            };
            secret.owner = Owner::Shared(Some(vec![former.clone(), user.clone()]));
            self.count_less(&former);
        } else {
            let owner = Owner::One(user.clone());
            self.by_hash.insert(hash, Secret { owner, place });
            *self.of_user.entry(user.clone()).or_default() += 1;
            self.filter[usize::from(place) / 64] |= 1 << (place % 64);
            self.shortest = self.shortest.min(token.len());
        }
    }

    fn count_less(&mut self, user: &UserId) {
        if let Some(count) = self.of_user.get_mut(user) {
            *count -= 1;
            if *count == 0 {
                self.of_user.remove(user);
            }
        }
    }

    /// Forgets what a user has. What two users had stays shared until all of them are forgotten: it is not known whose it is.
    pub(super) fn forget(&mut self, user: &UserId) -> usize {
        let before = self.by_hash.len();
        self.by_hash.retain(|_, secret| match &mut secret.owner {
            Owner::One(owner) => !owner.is(user),
            // It is not known when the last of them is gone.
            Owner::Shared(None) => true,
            Owner::Shared(Some(holders)) => {
                holders.retain(|holder| !holder.is(user));
                !holders.is_empty()
            }
        });
        self.of_user.remove(user);
        self.filter.fill(0);
        for secret in self.by_hash.values() {
            self.filter[usize::from(secret.place) / 64] |= 1 << (secret.place % 64);
        }
        if self.by_hash.is_empty() {
            self.shortest = usize::MAX;
        }
        before - self.by_hash.len()
    }

    /// Whether any is kept of a user.
    pub(super) fn has(&self, user: &UserId) -> bool {
        self.of_user.contains_key(user)
    }

    /// How many are kept.
    pub(super) fn len(&self) -> usize {
        self.by_hash.len()
    }

    /// Calls `visit` with the place, the hash and the owner of each secret of one user in a text.
    pub(super) fn find(&self, text: &[u8], mut visit: impl FnMut(usize, usize, u128, &UserId)) {
        if self.by_hash.is_empty() {
            return;
        }
        tokens(text, self.shortest, |from, to| {
            let token = &text[from..to];
            if token.len() > LONGEST || !self.may_have(self.place(token)) {
                return;
            }
            let hash = self.hash(token);
            if let Some(Secret {
                owner: Owner::One(owner),
                ..
            }) = self.by_hash.get(&hash)
            {
                visit(from, to, hash, owner);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        UserId::new(name).expect("valid")
    }

    fn owners(secrets: &Secrets, text: &str) -> Vec<String> {
        let mut owners = Vec::new();
        secrets.find(text.as_bytes(), |from, to, _, owner| {
            owners.push(format!("{} {}", owner.as_str(), &text[from..to]));
        });
        owners
    }

    const UUID: &str = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff";

    #[test]
    fn what_is_hard_to_guess_is_found_again() {
        let mut secrets = Secrets::default();
        let (ann, bob) = (user("ann"), user("bob"));
        assert_eq!(secrets.register(&ann, UUID.as_bytes()).map(NonZeroUsize::get), Ok(1));
        assert!(secrets.register(&ann, b"ann.smith@example.com").is_ok());
        assert!(secrets.register(&bob, b"sk-proj-9fJ2kQ7xLmZ4vB8n").is_ok());
        assert_eq!(
            owners(&secrets, &format!("{{\"id\":\"{UUID}\"}}")),
            [format!("ann {UUID}")]
        );
        let upper = UUID.to_uppercase();
        assert_eq!(owners(&secrets, &format!("user_{upper}/x")), [format!("ann {upper}")]);
        assert_eq!(
            owners(&secrets, "to ann.smith@example.com."),
            ["ann ann.smith@example.com"]
        );
        assert_eq!(
            owners(&secrets, "key=sk-proj-9fJ2kQ7xLmZ4vB8n&x"),
            ["bob sk-proj-9fJ2kQ7xLmZ4vB8n"]
        );
        assert!(owners(&secrets, &UUID[1..]).is_empty(), "a part of it is none");
        assert!(owners(&secrets, &format!("0{UUID}")).is_empty(), "nor is what goes on");
    }

    #[test]
    fn what_two_users_have_says_nothing() {
        let mut secrets = Secrets::default();
        for name in ["ann", "ann"] {
            secrets.register(&user(name), UUID.as_bytes()).expect("taken");
        }
        assert_eq!(owners(&secrets, UUID).len(), 1);
        secrets.register(&user("bob"), UUID.as_bytes()).expect("taken");
        assert!(owners(&secrets, UUID).is_empty());
        secrets.forget(&user("bob"));
        assert!(owners(&secrets, UUID).is_empty(), "it stays shared");
        assert_eq!(secrets.len(), 1);
        secrets.forget(&user("ann"));
        assert_eq!(secrets.len(), 0, "with the last who had it it goes");
    }

    #[test]
    fn what_many_users_have_stays_shared_within_bounds() {
        let mut secrets = Secrets::default();
        let users: Vec<_> = (0..2 * MAX_HOLDERS)
            .map(|number| user(&format!("user-{number}")))
            .collect();
        for one in &users {
            secrets.register(one, UUID.as_bytes()).expect("taken");
        }
        for one in &users[..users.len() - 1] {
            secrets.forget(one);
        }
        secrets.register(&user("eve"), UUID.as_bytes()).expect("taken");
        assert!(owners(&secrets, UUID).is_empty(), "the last user has it still");
    }

    #[test]
    fn what_is_easy_to_guess_is_refused() {
        let mut secrets = Secrets::default();
        for weak in [
            "ann",
            "0123456789",
            "aaaaaaaaaaaaaaaaaaaaaaaa",
            "two words of a name",
            "",
        ] {
            let refused = secrets.register(&user("ann"), weak.as_bytes()).expect_err("refused");
            assert!(matches!(refused, SecretRefused::Weak { .. }), "{weak}");
            assert!(weak.is_empty() || !refused.to_string().contains(weak));
        }
        for strong in [UUID, "bob@example.com", "9f86d081884c7d65", "Zk3-Qw8_Lp0.Tn5x"] {
            assert!(
                secrets.register(&user("ann"), strong.as_bytes()).is_ok(),
                "{strong}: {}",
                estimated_bits(strong.as_bytes())
            );
        }
        let refused = secrets.register(&user("ann"), &[b'x'; 257]).expect_err("refused");
        assert!(matches!(refused, SecretRefused::Long { bytes: 257 }));
    }

    #[test]
    fn a_user_has_a_bound_and_is_forgotten() {
        let mut secrets = Secrets::default();
        let ann = user("ann");
        for number in 0..MAX_OF_USER {
            secrets
                .register(&ann, format!("6f9619ff-8b86-4d01-b42d-{number:012x}").as_bytes())
                .expect("room");
        }
        let full = secrets.register(&ann, b"one-more-0123456789-secret").expect_err("full");
        assert_eq!(
            full,
            SecretRefused::Full {
                scope: "user",
                limit: MAX_OF_USER
            }
        );
        assert!(secrets.register(&user("bob"), b"one-more-0123456789-secret").is_ok());
        assert_eq!(secrets.forget(&ann), MAX_OF_USER);
        assert_eq!(secrets.len(), 1);
        assert!(secrets.register(&ann, UUID.as_bytes()).is_ok());
    }
}

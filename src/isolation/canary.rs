//! A canary: 37 characters that say whose they are and prove that they were made with the key.
//!
//! `iso1_`, 13 digits of a keyed hash of the user, 7 of a nonce, 12 of a MAC over all before it. Whoever does not have the
//! key cannot make one, and text that was not made with it passes for one with a probability of 2⁻⁶⁰ a candidate.

use std::fmt;

use siphasher::sip128::SipHasher24;
use zeroize::Zeroize;

use super::base32;
use crate::ids::random_u64;
use crate::mutants::mutant;

/// What each begins with: rare in any text, which makes the search for it as fast as memory.
pub const CANARY_PREFIX: &[u8; 5] = b"iso1_";
/// Bytes of a canary, all of them ASCII.
pub const CANARY_LENGTH: usize = 37;

const OWNER: std::ops::Range<usize> = 5..18;
const NONCE: std::ops::Range<usize> = 18..25;
const MAC: std::ops::Range<usize> = 25..37;
const MAC_BITS: u32 = 60;

/// A key of one epoch. It is never shown, and overwritten when it is dropped.
#[derive(Clone)]
pub struct Key {
    owner: [u8; 16],
    mac: [u8; 16],
}

impl Drop for Key {
    fn drop(&mut self) {
        self.owner.zeroize();
        self.mac.zeroize();
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Key {
    /// A key of the operating system's random bytes.
    pub fn fresh() -> Self {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
        let key = Self::from_bytes(&bytes);
        bytes.zeroize();
        key
    }

    /// A key that several processes share.
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        let (mut owner, mut mac) = ([0; 16], [0; 16]);
        owner.copy_from_slice(&bytes[..16]);
        mac.copy_from_slice(&bytes[16..]);
        Self { owner, mac }
    }

    /// What stands for a user in canaries and reports.
    pub fn owner(&self, user: &str) -> u64 {
        SipHasher24::new_with_key(&self.owner).hash(user.as_bytes()).h1
    }

    fn mac(&self, text: &[u8]) -> u128 {
        u128::from(SipHasher24::new_with_key(&self.mac).hash(text).h1 >> (64 - MAC_BITS))
    }

    /// A new canary of the user.
    pub fn mint(&self, user: &str) -> [u8; CANARY_LENGTH] {
        let mut canary = [0; CANARY_LENGTH];
        canary[..CANARY_PREFIX.len()].copy_from_slice(CANARY_PREFIX);
        base32::write(self.owner(user).into(), &mut canary[OWNER]);
        base32::write(random_u64().into(), &mut canary[NONCE]);
        let mac = self.mac(&canary[..MAC.start]);
        base32::write(mac, &mut canary[MAC]);
        canary
    }

    /// Whose canary this is; nothing for what was not made with this key.
    pub fn verify(&self, canary: &[u8; CANARY_LENGTH]) -> Option<u64> {
        let said = base32::read(&canary[MAC])?;
        if said != self.mac(&canary[..MAC.start]) && !mutant!(CanaryNotVerified) {
            return None;
        }
        u64::try_from(base32::read(&canary[OWNER])?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_canary_names_its_owner_to_whoever_has_the_key() {
        let (key, other) = (Key::fresh(), Key::fresh());
        let canary = key.mint("ann");
        assert_eq!(&canary[..5], CANARY_PREFIX);
        assert!(canary[5..].iter().all(|c| c.is_ascii_digit() || c.is_ascii_lowercase()));
        assert_eq!(key.verify(&canary), Some(key.owner("ann")));
        assert_ne!(key.owner("ann"), key.owner("bob"));
        assert_eq!(other.verify(&canary), None, "another key knows nothing of it");
        assert_ne!(key.mint("ann"), canary, "no two are alike");
    }

    #[test]
    fn no_changed_character_passes() {
        let key = Key::fresh();
        let canary = key.mint("ann");
        for at in CANARY_PREFIX.len()..CANARY_LENGTH {
            for digit in *b"0z7k!" {
                let mut changed = canary;
                changed[at] = digit;
                assert!(changed == canary || key.verify(&changed).is_none(), "{digit} at {at}");
            }
        }
    }

    #[test]
    fn a_key_is_shared_by_its_bytes_and_never_shown() {
        let bytes: [u8; 32] = std::array::from_fn(|at| u8::try_from(at).expect("small"));
        let (one, two) = (Key::from_bytes(&bytes), Key::from_bytes(&bytes));
        assert_eq!(two.verify(&one.mint("ann")), Some(two.owner("ann")));
        assert_eq!(format!("{one:?}"), "Key(..)");
    }
}

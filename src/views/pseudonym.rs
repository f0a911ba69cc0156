//! What a user is called where nobody is named.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::Hasher;
use std::sync::{PoisonError, RwLock};

use sha2::{Digest, Sha256};
use siphasher::sip::SipHasher24;

use crate::ids::UserId;
use crate::mutants::mutant;

/// Shorter ids are looked for in other ids only where they stand alone: else they would be found everywhere.
const LEAST: usize = 3;

/// The same in the children of a fork, so that the workers of one service that was loaded before them call a user the same.
static KEY: RwLock<Option<[u8; 16]>> = RwLock::new(None);

fn random() -> [u8; 16] {
    let mut key = [0; 16];
    getrandom::fill(&mut key).expect("the operating system gives random bytes");
    key
}

fn key() -> [u8; 16] {
    let held = *KEY.read().unwrap_or_else(PoisonError::into_inner);
    held.unwrap_or_else(|| {
        *KEY.write()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert_with(random)
    })
}

/// From now on users are called by a hash under a key that is made of these bytes, or under a random one.
pub fn set_pseudonym_key(bytes: Option<&[u8]>) {
    let made = bytes.map_or_else(random, |bytes| {
        let mut key = [0; 16];
        key.copy_from_slice(&Sha256::digest(bytes)[..16]);
        key
    });
    *KEY.write().unwrap_or_else(PoisonError::into_inner) = Some(made);
}

/// What a user is called by this process: 12 hexadecimal digits of a keyed hash.
pub fn user_pseudonym(user: &str) -> String {
    let mut hasher = SipHasher24::new_with_key(&key());
    hasher.write(user.as_bytes());
    let name = format!("{:012x}", hasher.finish() >> 16);
    if mutant!(PseudonymIsTheName) {
        user.to_owned()
    } else {
        name
    }
}

/// The pseudonyms of one view, each made once.
#[derive(Debug, Default)]
pub struct Pseudonyms(HashMap<UserId, Box<str>>);

impl Pseudonyms {
    /// What a user is called.
    pub fn of(&mut self, user: &UserId) -> &str {
        // Not `entry`, which would clone the id of each that is known.
        if !self.0.contains_key(user) {
            self.0.insert(user.clone(), user_pseudonym(user.as_str()).into());
        }
        &self.0[user]
    }
}

/// An id of the application's, in which the user may be named.
pub(super) fn masked<'a>(id: &'a str, user: &UserId, pseudonym: &str) -> Cow<'a, str> {
    let name = user.as_str();
    if !id.contains(name) || mutant!(PseudonymIsTheName) {
        return Cow::Borrowed(id);
    }
    if name.len() >= LEAST {
        return Cow::Owned(id.replace(name, pseudonym));
    }
    let (mut out, mut from) = (String::new(), 0);
    for (at, _) in id.match_indices(name) {
        let (before, after) = (&id[..at], &id[at + name.len()..]);
        if !before.ends_with(char::is_alphanumeric) && !after.starts_with(char::is_alphanumeric) {
            out.push_str(&id[from..at]);
            out.push_str(pseudonym);
            from = at + name.len();
        }
    }
    out.push_str(&id[from..]);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pseudonym_is_the_same_each_time_and_another_for_another_user() {
        let ann = user_pseudonym("ann");
        assert_eq!(ann, user_pseudonym("ann"));
        assert_ne!(ann, user_pseudonym("bob"));
        assert!(
            ann.len() == 12 && ann.bytes().all(|sign| sign.is_ascii_hexdigit()),
            "{ann}"
        );
    }

    #[test]
    fn a_user_who_is_named_in_an_id_is_hidden_there() {
        let user = UserId::new("ann-01").expect("an id");
        assert_eq!(masked("run-of-ann-01-7", &user, "0a1b"), "run-of-0a1b-7");
        assert_eq!(masked("run-7", &user, "0a1b"), "run-7");
    }

    #[test]
    fn a_short_id_is_hidden_where_it_stands_alone() {
        let user = UserId::new("7").expect("an id");
        assert_eq!(masked("run-7-17-71", &user, "0a1b"), "run-0a1b-17-71");
        assert_eq!(masked("7", &user, "0a1b"), "0a1b");
        assert_eq!(masked("é7_7", &user, "0a1b"), "é7_0a1b");
        assert_eq!(masked("run-17", &user, "0a1b"), "run-17");
    }
}

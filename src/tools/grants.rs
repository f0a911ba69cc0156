//! What owners let others reach. Only a grant opens the wall, for one reader, and no role can stand in for one.

use std::collections::HashMap;
use std::sync::PoisonError;

use super::pattern::Pattern;
use crate::clock::Micros;
use crate::ids::UserId;
use crate::sync::{AtomicUsize, Mutex, MutexGuard};
use std::sync::atomic::Ordering;

/// Most grants of a process.
pub const MAX_GRANTS: usize = 100_000;
/// Most grants that one user has given.
pub const MAX_GRANTS_OF_A_USER: usize = 1_000;

/// Who gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrantKind {
    /// The owner shares.
    Shared,
    /// An operator looks into a user's data, for a reason that is on record.
    Support,
}

/// A grant to be made.
#[derive(Debug, Clone)]
pub struct NewGrant {
    /// Who gave it.
    pub kind: GrantKind,
    /// Which resources, by their names; everything of the owner's without one.
    pub resource: Option<Pattern>,
    /// Which actions; all that the reader's roles allow when empty.
    pub actions: Vec<Pattern>,
    /// When it ends; never without one.
    pub until: Option<Micros>,
}

/// Why a grant was not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GrantFault {
    /// Owner and reader are the same.
    #[error("a user needs no grant for what is the user's own")]
    Own,
    /// The bound of a user or of the process.
    #[error("there are {limit} grants already; revoke some, or give them a time at which they end")]
    Full {
        /// The bound.
        limit: usize,
    },
}

type Given = HashMap<UserId, Vec<NewGrant>>;

#[derive(Debug, Default)]
struct Book {
    /// By owner, then by reader.
    given: HashMap<UserId, Given>,
    count: usize,
}

impl Book {
    fn sweep(&mut self, now: Micros) {
        let mut count = 0;
        self.given.retain(|_, readers| {
            readers.retain(|_, grants| {
                grants.retain(|grant| grant.until.is_none_or(|until| now < until));
                count += grants.len();
                !grants.is_empty()
            });
            !readers.is_empty()
        });
        self.count = count;
    }
}

/// All grants of a process, or of a part of it.
#[derive(Debug, Default)]
pub struct Grants {
    book: Mutex<Book>,
    /// How many there are: nearly always none, and then nothing is locked.
    count: AtomicUsize,
}

impl Grants {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `reader` reach what is `owner`'s.
    pub fn give(&self, owner: &UserId, reader: &UserId, grant: NewGrant, now: Micros) -> Result<(), GrantFault> {
        if owner == reader {
            return Err(GrantFault::Own);
        }
        let mut book = self.book();
        let of_owner = |book: &Book| {
            book.given
                .get(owner)
                .map_or(0, |given| given.values().map(Vec::len).sum())
        };
        if book.count >= MAX_GRANTS || of_owner(&book) >= MAX_GRANTS_OF_A_USER {
            book.sweep(now);
        }
        for (count, limit) in [(of_owner(&book), MAX_GRANTS_OF_A_USER), (book.count, MAX_GRANTS)] {
            if count >= limit {
                return Err(GrantFault::Full { limit });
            }
        }
        let grants = book
            .given
            .entry(owner.clone())
            .or_default()
            .entry(reader.clone())
            .or_default();
        grants.push(grant);
        book.count += 1;
        self.count.store(book.count, Ordering::Release);
        Ok(())
    }

    /// Takes back what `owner` gave `reader`: the grants of that resource, or all of them. Answers how many there were.
    pub fn revoke(&self, owner: &str, reader: &str, resource: Option<&Pattern>) -> usize {
        let mut book = self.book();
        let Some(readers) = book.given.get_mut(owner) else {
            return 0;
        };
        let Some(grants) = readers.get_mut(reader) else {
            return 0;
        };
        let before = grants.len();
        grants.retain(|grant| resource.is_some_and(|resource| grant.resource.as_ref() != Some(resource)));
        let gone = before - grants.len();
        if grants.is_empty() {
            readers.remove(reader);
        }
        if readers.is_empty() {
            book.given.remove(owner);
        }
        book.count -= gone;
        self.count.store(book.count, Ordering::Release);
        gone
    }

    /// Takes back all that a user gave and was given. Answers how many grants there were.
    pub fn forget(&self, user: &str) -> usize {
        let mut book = self.book();
        let before = book.count;
        book.given.remove(user);
        book.given.retain(|_, readers| {
            readers.remove(user);
            !readers.is_empty()
        });
        book.count = book.given.values().flat_map(HashMap::values).map(Vec::len).sum();
        self.count.store(book.count, Ordering::Release);
        before - book.count
    }

    /// Whether `reader` may reach a resource of `owner`'s: by a grant for it, or for everything. Without a resource only by a
    /// grant for everything.
    pub fn allows(
        &self,
        owner: &str,
        reader: &str,
        resource: Option<&str>,
        action: Option<&str>,
        now: Micros,
    ) -> Option<GrantKind> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let book = self.book();
        let grants = book.given.get(owner)?.get(reader)?;
        let found = grants.iter().find(|grant| {
            let in_time = grant.until.is_none_or(|until| now < until);
            let reaches = match (&grant.resource, resource) {
                (None, _) => true,
                (Some(pattern), Some(resource)) => pattern.matches(resource),
                (Some(_), None) => false,
            };
            let may = grant.actions.is_empty()
                || action.is_some_and(|action| grant.actions.iter().any(|pattern| pattern.matches(action)));
            in_time && reaches && may
        });
        found.map(|grant| grant.kind)
    }

    /// How many there are, ended ones included until they are swept.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(id: &str) -> UserId {
        UserId::new(id).expect("valid")
    }

    fn grant(resource: Option<&str>, actions: &[&str], until: Option<Micros>) -> NewGrant {
        let pattern = |text: &str| Pattern::new(text).expect("valid");
        NewGrant {
            kind: GrantKind::Shared,
            resource: resource.map(pattern),
            actions: actions.iter().map(|action| pattern(action)).collect(),
            until,
        }
    }

    #[test]
    fn a_grant_goes_one_way_and_no_further_than_it_says() {
        let grants = Grants::default();
        let allows =
            |owner, reader, resource, action, now| grants.allows(owner, reader, resource, action, now).is_some();
        let (ann, bob) = (user("ann"), user("bob"));
        grants
            .give(&ann, &bob, grant(Some("document:ann/7"), &["read"], Some(100)), 0)
            .expect("given");
        assert!(allows("ann", "bob", Some("document:ann/7"), Some("read"), 99));
        assert!(!allows("ann", "bob", Some("document:ann/8"), Some("read"), 99));
        assert!(!allows("ann", "bob", Some("document:ann/7"), Some("write"), 99));
        assert!(!allows("ann", "bob", Some("document:ann/7"), None, 99));
        assert!(
            !allows("ann", "bob", None, Some("read"), 99),
            "one document is not everything"
        );
        assert!(!allows("bob", "ann", Some("document:ann/7"), Some("read"), 99));
        assert!(!allows("ann", "eve", Some("document:ann/7"), Some("read"), 99));
        assert!(
            !allows("ann", "bob", Some("document:ann/7"), Some("read"), 100),
            "it is over"
        );
        grants.give(&ann, &bob, grant(None, &[], None), 0).expect("given");
        assert!(allows("ann", "bob", None, None, 99) && allows("ann", "bob", Some("anything"), Some("write"), 99));
        assert_eq!(grants.give(&ann, &ann, grant(None, &[], None), 0), Err(GrantFault::Own));
        assert_eq!(grants.revoke("ann", "bob", None), 2);
        assert!(grants.is_empty() && !allows("ann", "bob", None, None, 0));
    }

    #[test]
    fn grants_are_bounded_and_those_that_ended_make_room() {
        let grants = Grants::default();
        let ann = user("ann");
        for number in 0..MAX_GRANTS_OF_A_USER {
            let reader = user(&format!("reader-{number}"));
            grants.give(&ann, &reader, grant(None, &[], Some(10)), 0).expect("room");
        }
        let full = Err(GrantFault::Full {
            limit: MAX_GRANTS_OF_A_USER,
        });
        assert_eq!(grants.give(&ann, &user("late"), grant(None, &[], None), 9), full);
        grants
            .give(&ann, &user("late"), grant(None, &[], None), 10)
            .expect("swept");
        assert_eq!(grants.len(), 1);
        grants
            .give(&user("bob"), &ann, grant(None, &[], None), 10)
            .expect("room");
        assert_eq!((grants.forget("ann"), grants.len()), (2, 0));
    }
}

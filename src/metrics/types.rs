//! How many events of which type there were, with a bounded number of names.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Counter;
use crate::mutants::mutant;

/// Types of an application's own that are counted by name, those used latest.
pub const MAX_OWN_TYPES: usize = 50;

#[derive(Debug, Default)]
struct Own {
    /// The latest first: an application that publishes one type over and over finds it at once.
    latest: Vec<(Box<str>, u64)>,
    /// Of those that lost their place.
    others: u64,
}

/// Counts of a fixed set of types, and of the latest others by name.
#[derive(Debug)]
pub struct TypeCounts<const FIXED: usize> {
    fixed: [Counter; FIXED],
    own: Mutex<Own>,
}

impl<const FIXED: usize> Default for TypeCounts<FIXED> {
    fn default() -> Self {
        Self {
            fixed: [const { Counter::new() }; FIXED],
            own: Mutex::default(),
        }
    }
}

impl<const FIXED: usize> TypeCounts<FIXED> {
    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an event of a fixed type, by its place, or else of an own one, by its name.
    pub fn count(&self, fixed: Option<usize>, name: &str) {
        if let Some(counter) = fixed.and_then(|at| self.fixed.get(at)) {
            counter.increment();
            return;
        }
        let mut own = self.own();
        let known = own.latest.iter().position(|(known, _)| &**known == name);
        let entry = match known {
            Some(0) => {
                own.latest[0].1 += 1;
                return;
            }
            Some(at) => own.latest.remove(at),
            None => (Box::from(name), 0),
        };
        own.latest.insert(0, (entry.0, entry.1 + 1));
        if own.latest.len() > MAX_OWN_TYPES
            && !mutant!(EventTypesUnbounded)
            && let Some((_, many)) = own.latest.pop()
        {
            own.others += many;
        }
    }

    /// Counts of the fixed types, in their order.
    pub fn fixed(&self) -> [u64; FIXED] {
        std::array::from_fn(|at| self.fixed[at].get())
    }

    /// Counts of the latest own types by name, the latest first, and of all the others together. One that lost its place and
    /// comes again begins at one.
    pub fn own_types(&self) -> (Vec<(Box<str>, u64)>, u64) {
        let own = self.own();
        (own.latest.clone(), own.others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_types_are_counted_by_their_place_and_others_by_name() {
        let counts = TypeCounts::<2>::default();
        counts.count(Some(1), "b");
        for name in ["x", "y", "x"] {
            counts.count(None, name);
        }
        assert_eq!(counts.fixed(), [0, 1]);
        assert_eq!(counts.own_types(), (vec![(Box::from("x"), 2), (Box::from("y"), 1)], 0));
    }

    #[test]
    fn names_are_bounded_and_nothing_is_lost() {
        let counts = TypeCounts::<0>::default();
        for round in 0..3 {
            for at in 0..MAX_OWN_TYPES + 30 {
                counts.count(None, &format!("type-{at}"));
            }
            counts.count(None, &format!("round-{round}"));
        }
        let (latest, others) = counts.own_types();
        assert_eq!((latest.len(), &*latest[0].0), (MAX_OWN_TYPES, "round-2"));
        let all: u64 = latest.iter().map(|(_, many)| many).sum();
        assert_eq!(all + others, 3 * (MAX_OWN_TYPES as u64 + 31));
    }
}

//! Names that a label may have, of which there are only so many.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

use crate::mutants::mutant;

/// Names that one label tells apart in a process.
pub const MAX_NAMES: usize = 100;
/// What stands for all names beyond them.
pub const OTHER: &str = "_other";
/// Bytes of a name; what is longer counts as [`OTHER`].
pub(super) const MAX_NAME: usize = 256;

/// Places by hash: a power of two, more than twice the names.
const PLACES: usize = 256;

#[derive(Debug)]
struct Name {
    text: Box<str>,
    /// As it stands in the text of a scrape.
    escaped: Box<str>,
}

/// The first names that a label was given, each with its number. Names are only ever added, so a look takes no lock, and a
/// number means the same name for as long as the process lives.
#[derive(Debug)]
pub struct Vocabulary {
    cap: usize,
    names: [OnceLock<Name>; MAX_NAMES],
    /// Numbers of names, plus one, by the hash of the name; zero is a free place.
    places: [AtomicU16; PLACES],
    /// Names that can be found by their hash.
    known: AtomicUsize,
}

/// FNV-1a. The cap bounds what a caller who chooses names can do with collisions.
fn hash(name: &str) -> usize {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in name.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    #[allow(clippy::cast_possible_truncation)] // eight bits of it count
    let place = (hash ^ (hash >> 32)) as usize;
    place
}

impl Vocabulary {
    /// Without names, for at most `cap` of them.
    pub const fn new(cap: usize) -> Self {
        assert!(cap <= MAX_NAMES);
        Self {
            cap,
            names: [const { OnceLock::new() }; MAX_NAMES],
            places: [const { AtomicU16::new(0) }; PLACES],
            known: AtomicUsize::new(0),
        }
    }

    /// How many names are told apart.
    pub const fn cap(&self) -> usize {
        self.cap
    }

    /// The number of a name, which is remembered if there is room; `cap` for all others.
    pub fn index(&self, name: &str) -> usize {
        let mut place = hash(name) % PLACES;
        // There are more places than names, so this meets a free one.
        loop {
            let number = usize::from(self.places[place].load(Ordering::Acquire));
            if number == 0 {
                return self.learn(name, place);
            }
            if self.text(number - 1) == name {
                return number - 1;
            }
            place = (place + 1) % PLACES;
        }
    }

    #[cold]
    fn learn(&self, name: &str, mut place: usize) -> usize {
        let full = self.known.load(Ordering::Acquire) >= self.cap;
        if full && mutant!(MetricNamesMixed) {
            return 0;
        }
        if full || name.is_empty() || name.len() > MAX_NAME || name == OTHER {
            return self.cap;
        }
        let Some(number) = (0..self.cap).find(|at| {
            let entry = self.names[*at].get_or_init(|| Name {
                text: name.into(),
                escaped: super::text::escaped(name).into(),
            });
            &*entry.text == name
        }) else {
            return self.cap;
        };
        #[allow(clippy::cast_possible_truncation)] // at most MAX_NAMES
        let mark = number as u16 + 1;
        loop {
            match self.places[place].compare_exchange(0, mark, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    self.known.fetch_add(1, Ordering::AcqRel);
                    return number;
                }
                // Another thread has just learnt the same name.
                Err(taken) if taken == mark => return number,
                Err(_) => place = (place + 1) % PLACES,
            }
        }
    }

    /// The name of a number.
    pub fn text(&self, number: usize) -> &str {
        self.name(number).map_or(OTHER, |name| &name.text)
    }

    /// The name of a number as it stands in the text of a scrape.
    pub(super) fn escaped(&self, number: usize) -> &str {
        self.name(number).map_or(OTHER, |name| &name.escaped)
    }

    fn name(&self, number: usize) -> Option<&Name> {
        self.names.get(number).and_then(OnceLock::get)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_names_are_told_apart_and_the_rest_is_other() {
        let names = Vocabulary::new(3);
        let numbers: Vec<_> = ["a", "b", "a", "c", "d", "b", "d"].map(|name| names.index(name)).into();
        assert_eq!(numbers, [0, 1, 0, 2, 3, 1, 3]);
        assert_eq!([0, 1, 2, 3].map(|number| names.text(number)), ["a", "b", "c", OTHER]);
    }

    #[test]
    fn what_is_no_name_takes_no_room() {
        let names = Vocabulary::new(1);
        for no_name in ["", OTHER, &"x".repeat(MAX_NAME + 1)] {
            assert_eq!(names.index(no_name), 1, "{no_name}");
        }
        assert_eq!(names.index(&"x".repeat(MAX_NAME)), 0);
    }

    #[test]
    fn threads_that_learn_the_same_names_agree_on_their_numbers() {
        for round in 0..50 {
            let names = Vocabulary::new(MAX_NAMES);
            let seen: Vec<Vec<usize>> = std::thread::scope(|scope| {
                let learners: Vec<_> = (0..4)
                    .map(|thread| {
                        let names = &names;
                        scope.spawn(move || {
                            let of = |at: usize| format!("name-{}-{round}", (at * (thread + 1)) % 101);
                            (0..101).for_each(|at| {
                                names.index(&of(at));
                            });
                            (0..101).map(|at| names.index(&format!("name-{at}-{round}"))).collect()
                        })
                    })
                    .collect();
                learners
                    .into_iter()
                    .map(|learner| learner.join().expect("no panic"))
                    .collect()
            });
            assert!(seen.windows(2).all(|pair| pair[0] == pair[1]));
            let mut numbers = seen[0].clone();
            numbers.sort_unstable();
            assert_eq!(numbers, (0..=100).collect::<Vec<_>>());
        }
    }
}

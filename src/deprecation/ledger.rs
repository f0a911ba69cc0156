//! The counts of one process: bounded, keyed by code and never by user.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};

use foldhash::fast::RandomState;

use super::book::{Book, SiteHits, count_symbol};
use crate::clock::Micros;
use crate::mutants::mutant;
use crate::sync::{Mutex, MutexGuard};

/// Sites that a ledger keeps.
pub const MAX_SITES: usize = 4_096;
/// Bytes of a symbol, a code or a file's name that are kept, the last ones.
pub const MAX_TEXT: usize = 512;
/// Sites that make room at a time.
const BATCH: usize = 64;

/// The end of a text, at a character's boundary.
pub(super) fn cut(text: &str) -> &str {
    let mut from = text.len().saturating_sub(MAX_TEXT);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    &text[from..]
}

/// What tells two sites apart, whoever owns the texts.
trait Place {
    fn place(&self) -> (&str, &str, u32);
}

impl Place for (&str, &str, u32) {
    fn place(&self) -> (&str, &str, u32) {
        *self
    }
}

#[derive(Debug)]
struct Key {
    symbol: Box<str>,
    file: Box<str>,
    line: u32,
}

impl Place for Key {
    fn place(&self) -> (&str, &str, u32) {
        (&self.symbol, &self.file, self.line)
    }
}

impl Hash for dyn Place + '_ {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.place().hash(state);
    }
}

impl PartialEq for dyn Place + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}

impl Eq for dyn Place + '_ {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.place().hash(state);
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}

impl Eq for Key {}

impl<'a> Borrow<dyn Place + 'a> for Key {
    fn borrow(&self) -> &(dyn Place + 'a) {
        self
    }
}

#[derive(Debug)]
struct Hits {
    code: Box<str>,
    count: u64,
    first: Micros,
    last: Micros,
    /// Grows with each call of any site: who was called longest ago has the smallest.
    turn: u64,
    /// Under which filters the caller was told.
    told: u64,
}

#[derive(Debug, Default)]
struct State {
    sites: HashMap<Key, Hits, RandomState>,
    symbols: BTreeMap<String, u64>,
    evicted: u64,
    evicted_last: Option<Micros>,
    since: Micros,
    turn: u64,
    calls: u64,
}

/// How often each line made which legacy call. Holds [`MAX_SITES`] sites; of more, those that were called longest ago make room
/// and stay counted by symbol.
#[derive(Debug)]
pub struct Ledger(Mutex<State>);

impl Ledger {
    /// An empty ledger, which counts from `since` on, in microseconds since the Unix epoch.
    pub fn new(since: Micros) -> Self {
        Self(Mutex::new(State {
            since,
            ..State::default()
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Counts a call. Answers whether the caller is to be told: it is, once for each `told`, which is some number of whatever
    /// decides how it is told.
    pub fn record(&self, symbol: &str, code: &str, file: &str, line: u32, told: u64, now: Micros) -> bool {
        let (symbol, file) = (cut(symbol), cut(file));
        let mut state = self.state();
        let state = &mut *state;
        state.turn += 1;
        state.calls += 1;
        match state.symbols.get_mut(symbol) {
            Some(calls) => *calls += 1,
            None => count_symbol(&mut state.symbols, symbol, 1),
        }
        let place = (symbol, file, line);
        if let Some(hits) = state.sites.get_mut(&place as &dyn Place) {
            hits.count += 1;
            hits.first = hits.first.min(now);
            hits.last = hits.last.max(now);
            hits.turn = state.turn;
            return std::mem::replace(&mut hits.told, told) != told;
        }
        if state.sites.len() >= MAX_SITES && !mutant!(LedgerUnbounded) {
            evict(state);
        }
        let key = Key {
            symbol: symbol.into(),
            file: file.into(),
            line,
        };
        let hits = Hits {
            code: cut(code).into(),
            count: 1,
            first: now,
            last: now,
            turn: state.turn,
            told,
        };
        state.sites.insert(key, hits);
        true
    }

    /// What was counted so far, of which it is `now`.
    pub fn book(&self, now: Micros) -> Book {
        let state = self.state();
        let mut book = Book::new(state.since, now);
        book.evicted = state.evicted;
        book.evicted_last = state.evicted_last;
        book.symbols.clone_from(&state.symbols);
        book.sites = state
            .sites
            .iter()
            .map(|(key, hits)| SiteHits {
                symbol: key.symbol.to_string(),
                code: hits.code.to_string(),
                file: key.file.to_string(),
                line: key.line,
                count: hits.count,
                first: hits.first,
                last: hits.last,
            })
            .collect();
        drop(state);
        book.settle();
        book
    }

    /// Calls by symbol.
    pub fn symbols(&self) -> BTreeMap<String, u64> {
        self.state().symbols.clone()
    }

    /// All calls.
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// Sites that are kept.
    pub fn len(&self) -> usize {
        self.state().sites.len()
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.calls() == 0
    }

    /// Forgets everything and counts from `since` on.
    pub fn clear(&self, since: Micros) {
        *self.state() = State {
            since,
            ..State::default()
        };
    }
}

/// Makes room for some sites at once, so that a program whose sites never repeat does not look at all of them each time.
fn evict(state: &mut State) {
    let mut turns: Vec<u64> = state.sites.values().map(|hits| hits.turn).collect();
    let (_, limit, _) = turns.select_nth_unstable(BATCH - 1);
    let limit = *limit;
    let (evicted, last) = (&mut state.evicted, &mut state.evicted_last);
    state.sites.retain(|_, hits| {
        let stays = if mutant!(LedgerEvictsLatest) {
            hits.turn <= limit
        } else {
            hits.turn > limit
        };
        if !stays {
            *evicted += 1;
            *last = (*last).max(Some(hits.last));
        }
        stays
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(ledger: &Ledger, symbol: &str, line: u32, now: Micros) -> bool {
        ledger.record(symbol, "ISO-D003", "/srv/app.py", line, 1, now)
    }

    #[test]
    fn a_site_is_told_once_and_counted_each_time() {
        let ledger = Ledger::new(5);
        assert!(record(&ledger, "a", 1, 10));
        assert!(!record(&ledger, "a", 1, 30));
        assert!(!record(&ledger, "a", 1, 20), "a clock that was read earlier");
        assert!(record(&ledger, "b", 1, 40), "another symbol on the line");
        assert!(record(&ledger, "a", 2, 50), "another line");
        assert!(ledger.record("a", "ISO-D003", "/srv/app.py", 1, 2, 60), "other filters");
        assert!(!ledger.record("a", "ISO-D003", "/srv/app.py", 1, 2, 60));
        let book = ledger.book(70);
        let site = book
            .sites
            .iter()
            .find(|site| site.symbol == "a" && site.line == 1)
            .expect("it was counted");
        assert_eq!((site.count, site.first, site.last), (5, 10, 60));
        assert_eq!((book.since, book.until, book.calls(), ledger.calls()), (5, 70, 7, 7));
        assert_eq!(ledger.symbols()["a"], 6);
    }

    #[test]
    fn sites_are_bounded_and_those_called_longest_ago_make_room() {
        let ledger = Ledger::new(0);
        for line in 0..u32::try_from(MAX_SITES).expect("it is small") {
            record(&ledger, "a", line, u64::from(line));
        }
        // The first is used again: it is not the one that goes.
        record(&ledger, "a", 0, 10_000);
        record(&ledger, "a", 9_999, 10_001);
        let book = ledger.book(10_002);
        assert_eq!((book.sites.len(), book.evicted), (MAX_SITES + 1 - BATCH, BATCH as u64));
        assert_eq!(book.evicted_last, Some(BATCH as u64));
        assert!(book.sites.iter().any(|site| site.line == 0 && site.count == 2));
        assert_eq!(
            book.calls(),
            MAX_SITES as u64 + 2,
            "calls of those that are gone still count"
        );
        for line in 10_000..30_000 {
            record(&ledger, "a", line, u64::from(line));
            assert!(ledger.len() <= MAX_SITES);
        }
    }

    #[test]
    fn long_texts_are_cut_at_their_beginning() {
        let ledger = Ledger::new(0);
        let file = format!("/{}/app.py", "ü".repeat(MAX_TEXT));
        assert!(ledger.record("a", "ISO-D003", &file, 1, 1, 1));
        assert!(!ledger.record("a", "ISO-D003", &file, 1, 1, 2));
        let book = ledger.book(3);
        assert!(book.sites[0].file.len() <= MAX_TEXT && book.sites[0].file.ends_with("/app.py"));
    }

    #[test]
    fn what_is_forgotten_is_counted_anew() {
        let ledger = Ledger::new(0);
        record(&ledger, "a", 1, 1);
        ledger.clear(7);
        assert!(ledger.is_empty() && ledger.book(9).sites.is_empty());
        assert_eq!(ledger.book(9).since, 7);
        assert!(record(&ledger, "a", 1, 8));
    }
}

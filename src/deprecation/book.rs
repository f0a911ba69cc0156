//! What a ledger has counted, as it is written to disk and put together from several processes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::ledger::{MAX_SITES, MAX_TEXT, cut};
use crate::clock::Micros;
use crate::mutants::mutant;

/// The form that is written.
const SCHEMA: u32 = 1;
/// Symbols that are counted by name.
pub const MAX_SYMBOLS: usize = 256;
/// What the symbols beyond are counted as.
pub const OTHER_SYMBOLS: &str = "_other";

/// How often one line made one legacy call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteHits {
    /// What was called.
    pub symbol: String,
    /// The code of what was called, such as `ISO-D003`.
    pub code: String,
    /// The file, as the interpreter names it.
    pub file: String,
    /// The line, from 1 on; 0 where nobody knows it.
    pub line: u32,
    /// Calls.
    pub count: u64,
    /// The first one, in microseconds since the Unix epoch.
    pub first: Micros,
    /// The latest one.
    pub last: Micros,
}

/// The counts of one process, or of several together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Book {
    schema: u32,
    /// When the counting began, in microseconds since the Unix epoch.
    pub since: Micros,
    /// Until when it is known to have gone on.
    pub until: Micros,
    /// Sites that had to make room. Their calls still count by symbol.
    pub evicted: u64,
    /// The latest call of those that had to make room.
    #[serde(default)]
    pub evicted_last: Option<Micros>,
    /// All calls by symbol.
    pub symbols: BTreeMap<String, u64>,
    /// The sites, the latest first.
    pub sites: Vec<SiteHits>,
}

/// Why a text is not a book.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BookError {
    /// It is not JSON of this form.
    #[error("not a ledger: {0}")]
    Malformed(String),
    /// It is of a later version.
    #[error("a ledger of schema {0}; this version reads {SCHEMA}. Read it with the version that wrote it")]
    Schema(u32),
}

/// Counts calls of a symbol, with a bounded number of names.
pub(super) fn count_symbol(symbols: &mut BTreeMap<String, u64>, symbol: &str, calls: u64) {
    if let Some(count) = symbols.get_mut(symbol) {
        *count = count.saturating_add(calls);
        return;
    }
    // The place of the others is not taken from the names.
    let names = symbols.len() - usize::from(symbols.contains_key(OTHER_SYMBOLS));
    let name = if names < MAX_SYMBOLS || mutant!(LegacySymbolsUnbounded) {
        symbol
    } else {
        OTHER_SYMBOLS
    };
    let count = symbols.entry(name.to_owned()).or_default();
    *count = count.saturating_add(calls);
}

impl Book {
    /// A book of a counting that began at `since` and went on until `until`.
    pub fn new(since: Micros, until: Micros) -> Self {
        Self {
            schema: SCHEMA,
            since,
            until,
            evicted: 0,
            evicted_last: None,
            symbols: BTreeMap::new(),
            sites: Vec::new(),
        }
    }

    /// Reads what [`Book::to_json`] wrote. Texts and sites beyond the bounds are cut.
    pub fn from_json(text: &str) -> Result<Self, BookError> {
        let mut book: Self = serde_json::from_str(text).map_err(|error| BookError::Malformed(error.to_string()))?;
        if book.schema != SCHEMA {
            return Err(BookError::Schema(book.schema));
        }
        for site in &mut book.sites {
            for text in [&mut site.symbol, &mut site.code, &mut site.file] {
                if text.len() > MAX_TEXT {
                    *text = cut(text).to_owned();
                }
            }
        }
        for (symbol, calls) in std::mem::take(&mut book.symbols) {
            count_symbol(&mut book.symbols, cut(&symbol), calls);
        }
        book.settle();
        Ok(book)
    }

    /// The book as one line of JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// All calls.
    pub fn calls(&self) -> u64 {
        self.symbols.values().fold(0, |all, calls| all.saturating_add(*calls))
    }

    /// Puts what others counted to it: calls add up, times widen.
    pub fn merge(&mut self, others: impl IntoIterator<Item = Self>) {
        let mut at: HashMap<(String, String, u32), usize> = self
            .sites
            .iter()
            .enumerate()
            .map(|(at, site)| ((site.symbol.clone(), site.file.clone(), site.line), at))
            .collect();
        for other in others {
            self.since = self.since.min(other.since);
            self.until = self.until.max(other.until);
            self.evicted = self.evicted.saturating_add(other.evicted);
            self.evicted_last = self.evicted_last.max(other.evicted_last);
            for (symbol, calls) in other.symbols {
                count_symbol(&mut self.symbols, &symbol, calls);
            }
            for site in other.sites {
                let key = (site.symbol.clone(), site.file.clone(), site.line);
                if let Some(known) = at.get(&key).map(|at| &mut self.sites[*at]) {
                    known.count = known.count.saturating_add(site.count);
                    known.first = known.first.min(site.first);
                    if !mutant!(LedgerMergeKeepsFirstTime) {
                        known.last = known.last.max(site.last);
                    }
                } else {
                    at.insert(key, self.sites.len());
                    self.sites.push(site);
                }
            }
        }
        self.settle();
    }

    /// The latest first, and no more than there is room for.
    pub(super) fn settle(&mut self) {
        self.sites.sort_by(|a, b| {
            (Reverse(a.last), &a.file, a.line, &a.symbol).cmp(&(Reverse(b.last), &b.file, b.line, &b.symbol))
        });
        if let Some(gone) = self.sites.get(MAX_SITES..).filter(|gone| !gone.is_empty()) {
            self.evicted = self.evicted.saturating_add(gone.len() as u64);
            self.evicted_last = self.evicted_last.max(gone.first().map(|site| site.last));
            self.sites.truncate(MAX_SITES);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn site(symbol: &str, line: u32, count: u64, first: Micros, last: Micros) -> SiteHits {
        SiteHits {
            symbol: symbol.to_owned(),
            code: "ISO-D003".to_owned(),
            file: "/srv/app.py".to_owned(),
            line,
            count,
            first,
            last,
        }
    }

    fn book(sites: Vec<SiteHits>) -> Book {
        let mut book = Book::new(1, 100);
        for site in &sites {
            count_symbol(&mut book.symbols, &site.symbol, site.count);
        }
        book.sites = sites;
        book.settle();
        book
    }

    #[test]
    fn calls_add_up_and_times_widen() {
        let mut one = book(vec![site("a", 1, 2, 10, 20)]);
        let mut two = book(vec![site("a", 1, 3, 5, 25), site("a", 2, 1, 30, 30)]);
        two.since = 0;
        two.until = 200;
        one.merge([two]);
        assert_eq!(one.sites, [site("a", 2, 1, 30, 30), site("a", 1, 5, 5, 25)]);
        assert_eq!((one.since, one.until, one.calls()), (0, 200, 6));
    }

    #[test]
    fn sites_beyond_the_bound_count_as_evicted_and_leave_their_time() {
        let sites = |from: u32, many: u32| {
            (from..from + many)
                .map(|line| site("a", line, 1, 1, u64::from(line)))
                .collect::<Vec<_>>()
        };
        let mut one = book(sites(0, 4_000));
        one.merge([book(sites(4_000, 200))]);
        assert_eq!(
            (one.sites.len(), one.evicted, one.evicted_last),
            (MAX_SITES, 104, Some(103))
        );
        assert_eq!((one.sites[0].line, one.calls()), (4_199, 4_200));
    }

    #[test]
    fn names_of_symbols_are_bounded() {
        let mut one = Book::new(0, 0);
        for at in 0..MAX_SYMBOLS + 40 {
            count_symbol(&mut one.symbols, &format!("symbol-{at}"), 2);
        }
        count_symbol(&mut one.symbols, "symbol-0", 1);
        assert_eq!((one.symbols.len(), one.symbols["symbol-0"]), (MAX_SYMBOLS + 1, 3));
        assert_eq!(
            (one.symbols[OTHER_SYMBOLS], one.calls()),
            (80, 2 * (MAX_SYMBOLS as u64 + 40) + 1)
        );
    }

    #[test]
    fn what_is_no_book_is_said() {
        assert!(matches!(Book::from_json("{"), Err(BookError::Malformed(_))));
        let later = Book::new(0, 0).to_json().replace("\"schema\":1", "\"schema\":9");
        assert_eq!(Book::from_json(&later), Err(BookError::Schema(9)));
        let mut long = book(vec![site("a", 1, 1, 1, 1)]);
        long.sites[0].file = "é".repeat(MAX_TEXT);
        let read = Book::from_json(&long.to_json()).expect("it is a book");
        assert!(read.sites[0].file.len() <= MAX_TEXT && read.sites[0].file.ends_with('é'));
    }

    fn books() -> impl Strategy<Value = Book> {
        let hits = (0..3usize, 0..4u32, 1..9u64, 1..50u64, 0..50u64);
        proptest::collection::vec(hits, 0..8).prop_map(|hits| {
            let mut all = Book::new(5, 100);
            for (symbol, line, count, first, after) in hits {
                all.merge([book(vec![site(
                    ["a", "b", "c"][symbol],
                    line,
                    count,
                    first,
                    first + after,
                )])]);
            }
            all
        })
    }

    proptest! {
        #[test]
        fn the_order_of_merging_does_not_matter(one in books(), two in books(), three in books()) {
            let mut forwards = one.clone();
            forwards.merge([two.clone(), three.clone()]);
            let mut backwards = three;
            backwards.merge([two]);
            backwards.merge([one]);
            prop_assert_eq!(&forwards, &backwards);
            prop_assert_eq!(Book::from_json(&forwards.to_json()), Ok(forwards));
        }
    }
}

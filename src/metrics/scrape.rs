//! What somebody who asks is told: the cells, and what the rooms keep themselves.

use super::cell::MAX_BUCKETS;
use super::families::{FAMILIES, Family, Id, Kind};

/// The value of a series at one moment.
#[derive(Debug, Clone, Copy)]
pub enum Value<'a> {
    /// Of a counter.
    Count(u64),
    /// Of a gauge.
    Level(f64),
    /// Of a histogram: how many are in each bucket alone, and the sum of all.
    Spread(&'a [u64], f64),
}

#[derive(Debug, Clone)]
enum Owned {
    Count(u64),
    Level(f64),
    Spread(Vec<u64>, f64),
}

impl Owned {
    fn merge(&mut self, other: &Self) {
        match (self, other) {
            (Self::Count(mine), Self::Count(theirs)) => *mine += theirs,
            (Self::Level(mine), Self::Level(theirs)) => *mine += theirs,
            (Self::Spread(mine, sum), Self::Spread(theirs, more)) => {
                mine.iter_mut().zip(theirs).for_each(|(mine, theirs)| *mine += theirs);
                *sum += more;
            }
            _ => {}
        }
    }

    fn view(&self) -> Value<'_> {
        match self {
            Self::Count(many) => Value::Count(*many),
            Self::Level(level) => Value::Level(*level),
            Self::Spread(buckets, sum) => Value::Spread(buckets, *sum),
        }
    }
}

/// What the rooms say when they are asked. Values of the same series add up.
#[derive(Debug)]
pub struct Scrape {
    told: Vec<Vec<(usize, Owned)>>,
}

impl Default for Scrape {
    fn default() -> Self {
        Self {
            told: FAMILIES.iter().map(|_| Vec::new()).collect(),
        }
    }
}

/// A room's answer.
pub type Collect = fn(&mut Scrape);

impl Scrape {
    /// Asks the rooms.
    pub fn of(rooms: &[Collect]) -> Self {
        let mut scrape = Self::default();
        for room in rooms {
            room(&mut scrape);
        }
        for told in &mut scrape.told {
            told.sort_by_key(|(key, _)| *key);
            told.dedup_by(|later, first| {
                let is_same = later.0 == first.0;
                if is_same {
                    first.1.merge(&later.1);
                }
                is_same
            });
        }
        scrape
    }

    fn tell(&mut self, id: Id, labels: &[&str], value: Owned) {
        let family = id.family();
        debug_assert_eq!(family.labels.len(), labels.len(), "{}", family.name);
        let numbers = family
            .labels
            .iter()
            .zip(labels)
            .map(|(label, value)| label.index(value));
        let numbers: Option<Vec<usize>> = numbers.collect();
        debug_assert!(numbers.is_some(), "{} has no series {labels:?}", family.name);
        if let Some(numbers) = numbers {
            self.told[id as usize].push((family.key(&numbers), value));
        }
    }

    /// A counter that is kept elsewhere.
    pub fn count(&mut self, id: Id, labels: &[&str], many: u64) {
        self.tell(id, labels, Owned::Count(many));
    }

    /// A gauge that is kept elsewhere.
    pub fn level(&mut self, id: Id, labels: &[&str], level: f64) {
        self.tell(id, labels, Owned::Level(level));
    }

    /// A histogram that is kept elsewhere: a count for each bucket of the family and one for what is larger, and the sum.
    pub fn spread(&mut self, id: Id, labels: &[&str], buckets: Vec<u64>, sum: f64) {
        debug_assert_eq!(buckets.len(), id.family().buckets.len() + 1);
        self.tell(id, labels, Owned::Spread(buckets, sum));
    }

    /// Shows each series of a family with its value, in the order of their numbers.
    pub fn each(&self, family: &'static Family, mut show: impl FnMut(usize, Value<'_>)) {
        let at = FAMILIES.iter().position(|each| std::ptr::eq(each, family));
        let told = at.map_or(&[][..], |at| &self.told[at]);
        if family.is_told_whole() {
            let mut told = told.iter().peekable();
            for key in 0..family.size() {
                let more = told.next_if(|(of, _)| *of == key).map(|(_, value)| value);
                show_cell(family, key, more, &mut show);
            }
            return;
        }
        let mut told = told.iter().peekable();
        for (key, _) in family.cells() {
            while let Some((key, value)) = told.next_if(|(of, _)| *of < key) {
                show(*key, value.view());
            }
            let more = told.next_if(|(of, _)| *of == key).map(|(_, value)| value);
            show_cell(family, key, more, &mut show);
        }
        for (key, value) in told {
            show(*key, value.view());
        }
    }
}

fn show_cell(family: &'static Family, key: usize, more: Option<&Owned>, show: &mut impl FnMut(usize, Value<'_>)) {
    let cell = family.cell(key);
    let mut buckets = [0; MAX_BUCKETS];
    let value = match family.kind {
        Kind::Counter => Value::Count(cell.count()),
        Kind::Gauge => Value::Level(cell.level()),
        Kind::Histogram => {
            let sum = cell.count() as f64 / family.scale();
            Value::Spread(cell.read_buckets(&mut buckets), sum)
        }
    };
    let Some(more) = more else {
        return show(key, value);
    };
    let mut whole = match value {
        Value::Count(many) => Owned::Count(many),
        Value::Level(level) => Owned::Level(level),
        Value::Spread(buckets, sum) => Owned::Spread(buckets.to_vec(), sum),
    };
    whole.merge(more);
    show(key, whole.view());
}

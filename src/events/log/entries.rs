//! The events of a log after its fold, in the order of their numbers.
//!
//! The numbers have gaps where events were dropped. A dropped event keeps its place, without its text, until there are enough
//! of them to be removed at once, so that dropping one costs the same however many there are.

use std::collections::{HashMap, VecDeque, vec_deque};

use foldhash::fast::RandomState;

use super::entry::Entry;
use crate::clock::Micros;
use crate::events::event::{Class, DEBUG_DELAY, PROGRESS_DELAY};
use crate::events::fold::FoldKey;
use crate::mutants::mutant;

/// Fewer empty places than this are left where they are.
const EMPTY_PLACES: usize = 32;

/// Numbers of events that may be left out. Those that are gone are forgotten when the places are.
#[derive(Debug, Default)]
struct Lossy {
    debug: VecDeque<u64>,
    /// Progress of which there is a later one, in the order in which that came.
    superseded: VecDeque<u64>,
    progress: VecDeque<u64>,
    /// The latest of each key.
    latest: HashMap<FoldKey, u64, RandomState>,
}

/// The events of a log after its fold.
#[derive(Debug, Default)]
pub(super) struct Entries {
    list: VecDeque<Entry>,
    /// Places in the list whose event was dropped.
    empty: usize,
    bytes: usize,
    /// The latest number that is to be written at once.
    urgent: u64,
    /// The latest number of a part of a text.
    part: u64,
    lossy: Option<Box<Lossy>>,
}

impl Entries {
    /// How many events there are.
    pub(super) fn len(&self) -> usize {
        self.list.len() - self.empty
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Events that are not where they belong: after the fold, up to the latest, each number once and in order. Those that were
    /// dropped and have a place yet count by their numbers alone.
    pub(super) fn misplaced(&self, folded: u64, head: u64) -> u64 {
        let mut before = folded;
        let mut misplaced = 0;
        let mut empty = 0;
        for entry in &self.list {
            misplaced += u64::from(entry.number <= before || entry.number > head);
            before = before.max(entry.number);
            empty += usize::from(entry.is_dropped());
        }
        misplaced + u64::from(empty != self.empty)
    }

    /// The place of the first event after a number.
    fn place_after(&self, number: u64) -> usize {
        let (Some(first), Some(last)) = (self.list.front(), self.list.back()) else {
            return 0;
        };
        let (first, last) = (first.number, last.number);
        if last.saturating_sub(first) + 1 == self.list.len() as u64 {
            // No gaps: as it is for most logs.
            let place = usize::try_from((number + 1).saturating_sub(first)).unwrap_or(usize::MAX);
            return place.min(self.list.len());
        }
        self.list.partition_point(|entry| entry.number <= number)
    }

    /// The events after a number, with those that were dropped and have a place yet.
    pub(super) fn after(&self, number: u64) -> vec_deque::Iter<'_, Entry> {
        self.list.range(self.place_after(number)..)
    }

    fn place_of(&self, number: u64) -> Option<usize> {
        let place = self.place_after(number.saturating_sub(1));
        let entry = self.list.get(place)?;
        (entry.number == number && !entry.is_dropped()).then_some(place)
    }

    /// The text that the latest event is a part of.
    pub(super) fn latest_text(&self) -> Option<&super::entry::Part> {
        self.list.back()?.part()
    }

    pub(super) fn push(&mut self, entry: Entry) {
        let number = entry.number;
        match entry.class {
            Class::Content if entry.part().is_some() => self.part = number,
            Class::Critical | Class::Content => self.urgent = number,
            Class::Progress => {
                let lossy = self.lossy.get_or_insert_default();
                lossy.progress.push_back(number);
                let earlier = entry.progress_key().and_then(|key| lossy.latest.insert(key, number));
                self.bytes += entry.weight();
                self.list.push_back(entry);
                if let Some(earlier) = earlier {
                    self.supersede(if mutant!(ConflationKeepsFirst) { number } else { earlier });
                }
                return;
            }
            Class::Debug => self.lossy.get_or_insert_default().debug.push_back(number),
        }
        self.bytes += entry.weight();
        self.list.push_back(entry);
    }

    fn supersede(&mut self, number: u64) {
        let Some(place) = self.place_of(number) else { return };
        self.list[place].superseded = true;
        if let Some(lossy) = &mut self.lossy {
            lossy.superseded.push_back(number);
        }
    }

    /// Drops one event that may be left out: debug first, then progress that is superseded, then what has expired. Answers its
    /// class.
    pub(super) fn shed(&mut self, now: Micros, ttl: Micros) -> Option<(Class, usize)> {
        if mutant!(CriticalShed)
            && let Some(place) = self
                .list
                .iter()
                .position(|entry| entry.class == Class::Critical && !entry.is_dropped())
        {
            let kind = self.drop_at(place);
            return Some((Class::Critical, kind));
        }
        loop {
            let lossy = self.lossy.as_mut()?;
            if let Some(number) = lossy.debug.pop_front() {
                if let Some(place) = self.place_of(number) {
                    let kind = self.drop_at(place);
                    return Some((Class::Debug, kind));
                }
            } else if let Some(number) = lossy.superseded.pop_front() {
                if let Some(place) = self.place_of(number) {
                    let kind = self.drop_at(place);
                    return Some((Class::Progress, kind));
                }
            } else {
                let oldest = *lossy.progress.front()?;
                let place = self.place_of(oldest);
                if place.is_some_and(|place| !self.list[place].has_expired(now, ttl)) {
                    return None;
                }
                self.lossy.as_mut()?.progress.pop_front();
                if let Some(place) = place {
                    let kind = self.drop_at(place);
                    return Some((Class::Progress, kind));
                }
            }
        }
    }

    /// Answers the kind of what was there.
    fn drop_at(&mut self, place: usize) -> usize {
        let entry = &mut self.list[place];
        let before = entry.weight();
        entry.text = Box::default();
        entry.extras = None;
        self.bytes -= before - entry.weight();
        self.empty += 1;
        let (key, number, kind) = (entry.progress_key(), entry.number, usize::from(entry.kind));
        self.forget_latest(key, number);
        if self.empty >= EMPTY_PLACES && self.empty * 2 > self.list.len() {
            self.remove_empty_places();
        }
        kind
    }

    fn forget_latest(&mut self, key: Option<FoldKey>, number: u64) {
        if let (Some(key), Some(lossy)) = (key, &mut self.lossy)
            && lossy.latest.get(&key) == Some(&number)
        {
            lossy.latest.remove(&key);
        }
    }

    fn remove_empty_places(&mut self) {
        let mut freed = 0;
        self.list.retain(|entry| {
            if entry.is_dropped() {
                freed += entry.weight();
            }
            !entry.is_dropped()
        });
        self.bytes -= freed;
        self.empty = 0;
        if let Some(mut lossy) = self.lossy.take() {
            lossy.progress.retain(|number| self.place_of(*number).is_some());
            self.lossy = Some(lossy);
        }
    }

    /// Takes the oldest event out, for the fold.
    pub(super) fn pop_oldest(&mut self) -> Option<Entry> {
        loop {
            let entry = self.list.pop_front()?;
            self.bytes -= entry.weight();
            if entry.is_dropped() {
                self.empty -= 1;
                continue;
            }
            self.forget_latest(entry.progress_key(), entry.number);
            if let Some(lossy) = &mut self.lossy {
                while lossy.progress.front().is_some_and(|number| *number <= entry.number) {
                    lossy.progress.pop_front();
                }
            }
            return Some(entry);
        }
    }

    /// Whether something after `position` is to be written at once.
    pub(super) fn has_urgent(&self, position: u64) -> bool {
        self.urgent > position
    }

    /// Whether there is a part of a text after `position`.
    pub(super) fn has_part(&self, position: u64) -> bool {
        self.part > position
    }

    /// Until when what follows `position` and can wait must be told: progress and debug, dropped or not.
    pub(super) fn lossy_deadline(&self, position: u64) -> Option<Micros> {
        let mut deadline = None;
        for entry in self.after(position) {
            let delay = match entry.class {
                Class::Progress => PROGRESS_DELAY,
                Class::Debug => DEBUG_DELAY,
                Class::Critical | Class::Content => continue,
            };
            let own = entry.monotonic.saturating_add(delay);
            deadline = Some(deadline.map_or(own, |before: Micros| before.min(own)));
            if entry.class == Class::Progress {
                // Later progress is due later, and later debug later still.
                break;
            }
        }
        deadline
    }
}

impl Entry {
    pub(super) fn has_expired(&self, now: Micros, ttl: Micros) -> bool {
        self.monotonic.saturating_add(ttl) < now
    }
}

//! The entries of one cache: a map, the order of use and the order of deadlines over the same slots.

use std::collections::HashMap;
use std::sync::Arc;

use super::figures::{Bounds, CacheStats, EntryView, TooLarge};
use super::order::Order;
use crate::clock::Micros;
use crate::lanes::{Account, Charge};
use crate::mutants::mutant;

#[derive(Debug)]
struct Entry<V> {
    key: Arc<str>,
    value: V,
    /// Of key and value.
    bytes: usize,
    deadline: Micros,
    serial: u64,
}

/// Entries by key. What leaves it is pushed to `gone`, to be dropped by the caller, who may hold no lock then.
#[derive(Debug)]
pub struct Cache<V> {
    bounds: Bounds,
    slots: Vec<Option<Entry<V>>>,
    free: Vec<u32>,
    by_key: HashMap<Arc<str>, u32, foldhash::quality::RandomState>,
    /// The one used longest ago first.
    uses: Order,
    /// The one that expires next first: all live equally long, so this is the order in which they were set.
    deadlines: Order,
    /// Bytes of keys and values.
    held: usize,
    charge: Charge,
    last_serial: u64,
    stats: CacheStats,
}

impl<V> Cache<V> {
    /// An empty cache, charged to the account.
    pub fn new(account: Arc<Account>, bounds: Bounds) -> Self {
        Self {
            bounds,
            slots: Vec::new(),
            free: Vec::new(),
            by_key: HashMap::default(),
            uses: Order::default(),
            deadlines: Order::default(),
            held: 0,
            charge: Charge::new(account, size_of::<Self>()),
            last_serial: 0,
            stats: CacheStats::default(),
        }
    }

    /// What it may hold.
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// The value of the key, which counts as used.
    pub fn get(&mut self, key: &str, now: Micros, gone: &mut Vec<V>) -> Option<(&V, u64)> {
        self.expire(now, gone);
        let Some(&slot) = self.by_key.get(key) else {
            self.stats.misses += 1;
            return None;
        };
        self.stats.hits += 1;
        if !mutant!(CacheForgetsUse) {
            self.uses.remove(slot);
            self.uses.push_last(slot);
        }
        self.entry(slot).map(|entry| (&entry.value, entry.serial))
    }

    /// Whether there is a value that has not expired. Counts neither as use nor as look-up.
    pub fn contains(&self, key: &str, now: Micros) -> bool {
        let entry = self.by_key.get(key).and_then(|slot| self.entry(*slot));
        entry.is_some_and(|entry| !Self::is_over(entry, now))
    }

    /// Sets the value of the key, which takes `bytes`. Others make room: those whose time is over, then those used longest ago.
    /// A value that is larger than the cache is refused, and what was there stays. Answers the number of the entry.
    pub fn insert(
        &mut self,
        key: &str,
        value: V,
        bytes: usize,
        now: Micros,
        gone: &mut Vec<V>,
    ) -> Result<u64, TooLarge> {
        let bytes = bytes.saturating_add(key.len());
        self.expire(now, gone);
        if bytes > self.bounds.bytes {
            gone.push(value);
            return Err(TooLarge {
                bytes,
                limit: self.bounds.bytes,
            });
        }
        if let Some(&slot) = self.by_key.get(key) {
            gone.extend(self.take(slot));
        }
        while self.by_key.len() >= self.bounds.entries.get()
            || (self.held + bytes > self.bounds.bytes && !mutant!(CacheBytesUnbounded))
        {
            let oldest = if mutant!(CacheEvictsLatest) {
                self.uses.last()
            } else {
                self.uses.first()
            };
            let Some(slot) = oldest else { break };
            self.stats.evictions += 1;
            gone.extend(self.take(slot));
        }
        self.last_serial += 1;
        // A clock that another thread read earlier must not break the order.
        let last = self.deadlines.last().and_then(|slot| self.entry(slot));
        let earliest = last.map_or(0, |last| last.deadline);
        let key: Arc<str> = key.into();
        let entry = Entry {
            key: key.clone(),
            value,
            bytes,
            deadline: now.saturating_add(self.bounds.ttl).max(earliest),
            serial: self.last_serial,
        };
        let slot = if let Some(slot) = self.free.pop() {
            self.slots[slot as usize] = Some(entry);
            slot
        } else {
            self.slots.push(Some(entry));
            u32::try_from(self.slots.len() - 1).expect("entries are bounded")
        };
        self.by_key.insert(key, slot);
        self.uses.push_last(slot);
        self.deadlines.push_last(slot);
        self.held += bytes;
        self.recharge();
        Ok(self.last_serial)
    }

    /// Puts another form of the value in its place, unless the entry has changed. Answers bytes saved.
    pub fn replace(&mut self, key: &str, serial: u64, value: V, bytes: usize, gone: &mut Vec<V>) -> usize {
        let entry = self
            .by_key
            .get(key)
            .copied()
            .and_then(|slot| self.slots[slot as usize].as_mut());
        let Some(entry) = entry.filter(|entry| entry.serial == serial) else {
            gone.push(value);
            return 0;
        };
        gone.push(std::mem::replace(&mut entry.value, value));
        let bytes = bytes.saturating_add(entry.key.len());
        let before = std::mem::replace(&mut entry.bytes, bytes);
        self.held = self.held - before + bytes;
        self.recharge();
        before.saturating_sub(bytes)
    }

    /// Takes the value of the key out.
    pub fn remove(&mut self, key: &str, now: Micros, gone: &mut Vec<V>) -> Option<V> {
        self.expire(now, gone);
        let slot = *self.by_key.get(key)?;
        let value = self.take(slot);
        self.recharge();
        value
    }

    /// Takes an entry out if it is still the one of that number.
    pub fn remove_entry(&mut self, key: &str, serial: u64) -> Option<V> {
        let slot = *self.by_key.get(key)?;
        self.entry(slot)
            .filter(|entry| entry.serial == serial || mutant!(WeakEntryTakesLater))?;
        let value = self.take(slot);
        self.recharge();
        value
    }

    /// Takes out what was used longest ago.
    pub fn pop_oldest(&mut self, now: Micros, gone: &mut Vec<V>) -> Option<(Arc<str>, V)> {
        self.expire(now, gone);
        let slot = self.uses.first()?;
        let key = self.entry(slot)?.key.clone();
        let value = self.take(slot)?;
        self.recharge();
        Some((key, value))
    }

    /// Takes out what has expired. Answers how many. Constant time for each that goes, and when none does.
    pub fn expire(&mut self, now: Micros, gone: &mut Vec<V>) -> usize {
        let mut count = 0;
        while let Some(slot) = self.deadlines.first() {
            if self.entry(slot).is_some_and(|entry| !Self::is_over(entry, now)) {
                break;
            }
            gone.extend(self.take(slot));
            count += 1;
        }
        if count > 0 {
            self.stats.expirations += count as u64;
            self.recharge();
        }
        count
    }

    /// Takes out what is larger than `bytes`. Answers how many. Looks at every entry.
    pub fn shed(&mut self, bytes: usize, gone: &mut Vec<V>) -> usize {
        let large: Vec<u32> = (self.uses.iter())
            .filter(|slot| self.entry(*slot).is_some_and(|entry| entry.bytes > bytes))
            .collect();
        for slot in &large {
            gone.extend(self.take(*slot));
        }
        self.stats.evictions += large.len() as u64;
        self.recharge();
        large.len()
    }

    /// Takes everything out, tables included. Answers how many.
    pub fn clear(&mut self, gone: &mut Vec<V>) -> usize {
        let count = self.by_key.len();
        gone.extend(
            std::mem::take(&mut self.slots)
                .into_iter()
                .flatten()
                .map(|entry| entry.value),
        );
        self.by_key = HashMap::default();
        self.free = Vec::new();
        self.uses = Order::default();
        self.deadlines = Order::default();
        self.held = 0;
        self.recharge();
        count
    }

    /// The entries, in the order in which they were set.
    pub fn iter(&self) -> impl Iterator<Item = EntryView<'_, V>> {
        (self.deadlines.iter())
            .filter_map(|slot| self.entry(slot))
            .map(|entry| EntryView {
                key: &entry.key,
                value: &entry.value,
                bytes: entry.bytes,
                serial: entry.serial,
            })
    }

    /// How many entries there are, expired ones included.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// Counts.
    pub fn stats(&self) -> CacheStats {
        CacheStats {
            entries: self.len(),
            bytes: self.charge.bytes(),
            ..self.stats
        }
    }

    fn entry(&self, slot: u32) -> Option<&Entry<V>> {
        self.slots.get(slot as usize).and_then(Option::as_ref)
    }

    fn is_over(entry: &Entry<V>, now: Micros) -> bool {
        entry.deadline <= now && !mutant!(CacheNeverExpires)
    }

    /// Takes an entry out of all tables. The caller settles the charge.
    fn take(&mut self, slot: u32) -> Option<V> {
        let entry = self.slots.get_mut(slot as usize).and_then(Option::take)?;
        self.by_key.remove(&entry.key);
        self.uses.remove(slot);
        self.deadlines.remove(slot);
        self.free.push(slot);
        self.held -= entry.bytes;
        Some(entry.value)
    }

    /// Charges what is held now. The tables are counted as allocated; the map of the standard library fills seven of eight
    /// places and keeps a byte beside each, and a key has two counters beside its text.
    fn recharge(&mut self) {
        let places = (self.by_key.capacity() * 8).div_ceil(7);
        let tables = self.slots.capacity() * size_of::<Option<Entry<V>>>()
            + self.free.capacity() * size_of::<u32>()
            + self.uses.bytes()
            + self.deadlines.bytes()
            + places * (size_of::<(Arc<str>, u32)>() + 1)
            + self.by_key.len() * 2 * size_of::<usize>();
        if !mutant!(CacheBytesKept) || self.charge.bytes() < size_of::<Self>() + tables + self.held {
            self.charge.set(size_of::<Self>() + tables + self.held);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::clock::SECOND;

    fn cache(entries: usize, bytes: usize) -> (Arc<Account>, Cache<&'static str>) {
        let account = Arc::<Account>::default();
        let bounds = Bounds {
            entries: NonZeroUsize::new(entries).expect("not zero"),
            bytes,
            ttl: 10 * SECOND,
        };
        (account.clone(), Cache::new(account, bounds))
    }

    fn keys(cache: &Cache<&'static str>) -> Vec<String> {
        cache.iter().map(|entry| entry.key.to_string()).collect()
    }

    #[test]
    fn entries_expire_when_their_time_is_over() {
        let (_, mut cache) = cache(10, 1_000);
        let mut gone = Vec::new();
        cache.insert("a", "1", 1, 0, &mut gone).expect("fits");
        cache.insert("b", "2", 1, 5 * SECOND, &mut gone).expect("fits");
        assert!(cache.get("a", 10 * SECOND - 1, &mut gone).is_some());
        assert!(!cache.contains("a", 10 * SECOND));
        assert!(cache.get("a", 10 * SECOND, &mut gone).is_none());
        assert_eq!((keys(&cache), gone), (vec!["b".to_owned()], vec!["1"]));
        let stats = cache.stats();
        assert_eq!((stats.hits, stats.misses, stats.expirations), (1, 1, 1));
    }

    #[test]
    fn what_was_used_longest_ago_makes_room() {
        let (_, mut cache) = cache(3, 1_000);
        let mut gone = Vec::new();
        for key in ["a", "b", "c"] {
            cache.insert(key, key, 1, 0, &mut gone).expect("fits");
        }
        cache.get("a", 1, &mut gone);
        cache.insert("d", "d", 1, 2, &mut gone).expect("fits");
        assert_eq!(gone, ["b"]);
        assert_eq!(
            cache.pop_oldest(3, &mut gone).map(|(key, _)| key.to_string()),
            Some("c".into())
        );
    }

    #[test]
    fn bytes_are_bounded_and_a_giant_is_refused() {
        let (_, mut cache) = cache(100, 100);
        let mut gone = Vec::new();
        for key in ["a", "b", "c", "d"] {
            cache.insert(key, key, 32, 0, &mut gone).expect("fits");
        }
        assert_eq!(gone, ["a"], "three of 33 bytes fit into 100");
        assert!(cache.insert("b", "giant", 100, 0, &mut gone).is_err());
        assert_eq!((gone.as_slice(), keys(&cache).len()), (["a", "giant"].as_slice(), 3));
        assert_eq!(cache.shed(10, &mut gone), 3);
        assert!(cache.is_empty());
    }

    #[test]
    fn every_byte_returns() {
        let (account, mut cache) = cache(64, 10_000);
        let empty = account.bytes();
        let mut gone = Vec::new();
        for round in 0..200_u64 {
            let key = format!("key-{}", round % 90);
            cache
                .insert(&key, "v", 50, round * SECOND / 8, &mut gone)
                .expect("fits");
            if round % 3 == 0 {
                cache.remove(&key, round * SECOND / 8, &mut gone);
            }
        }
        let full = account.bytes();
        assert!(full > empty + 50 * cache.len());
        cache.expire(1_000 * SECOND, &mut gone);
        assert!(account.bytes() < full);
        cache.clear(&mut gone);
        assert_eq!(account.bytes(), empty, "the tables go with the entries");
        drop(cache);
        assert_eq!(account.bytes(), 0);
    }

    #[test]
    fn a_value_takes_another_form_only_while_it_is_the_same_entry() {
        let (account, mut cache) = cache(10, 1_000);
        let mut gone = Vec::new();
        let first = cache.insert("a", "long", 400, 0, &mut gone).expect("fits");
        let full = account.bytes();
        assert_eq!(cache.replace("a", first, "short", 40, &mut gone), 360);
        assert_eq!(account.bytes(), full - 360);
        cache.insert("a", "new", 10, 0, &mut gone).expect("fits");
        assert_eq!(cache.replace("a", first, "stale", 1, &mut gone), 0);
        assert!(cache.remove_entry("a", first).is_none());
        assert_eq!(cache.get("a", 1, &mut gone).map(|(value, _)| *value), Some("new"));
    }
}

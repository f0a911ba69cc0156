//! What is asked at a scrape, for as long as it lives.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// How many of a kind are asked. One more is counted by what it does, and its state is not told.
pub const MAX_LIVE: usize = 1_000;

/// Things of one kind, none of which is kept alive by being here.
#[derive(Debug)]
pub struct Live<T>(Mutex<Vec<Weak<T>>>);

impl<T> Live<T> {
    /// Nothing.
    pub const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    fn all(&self) -> MutexGuard<'_, Vec<Weak<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks this one as well.
    pub fn add(&self, thing: &Arc<T>) {
        let mut all = self.all();
        if all.len() == all.capacity() || all.len() >= MAX_LIVE {
            all.retain(|thing| thing.strong_count() > 0);
        }
        if all.len() < MAX_LIVE {
            all.push(Arc::downgrade(thing));
        }
    }

    /// No longer asks this one.
    pub fn remove(&self, thing: &Arc<T>) {
        self.all()
            .retain(|held| !std::ptr::eq(held.as_ptr(), Arc::as_ptr(thing)));
    }

    /// Those that live. They are dropped after the lock was let go.
    pub fn living(&self) -> Vec<Arc<T>> {
        self.all().iter().filter_map(Weak::upgrade).collect()
    }

    /// Forgets all, in the child of a fork: they are the parent's.
    pub fn clear(&self) {
        self.all().clear();
    }
}

impl<T> Default for Live<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_is_not_asked_and_takes_no_room() {
        let live = Live::new();
        let kept: Vec<_> = (0..10).map(Arc::new).collect();
        for thing in &kept {
            live.add(thing);
        }
        for at in 0..5 * MAX_LIVE {
            live.add(&Arc::new(at));
        }
        assert!(live.all().len() <= MAX_LIVE);
        let living: Vec<_> = live.living().iter().map(|thing| **thing).collect();
        assert_eq!(living, (0..10).collect::<Vec<_>>());
        live.remove(&kept[3]);
        assert_eq!(live.living().len(), 9);
        drop(kept);
        assert!(live.living().is_empty());
    }

    #[test]
    fn no_more_are_asked_than_the_bound() {
        let live = Live::new();
        let kept: Vec<_> = (0..MAX_LIVE + 5).map(Arc::new).collect();
        for thing in &kept {
            live.add(thing);
        }
        assert_eq!(live.living().len(), MAX_LIVE);
    }
}

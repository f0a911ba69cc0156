//! Bytes that the core holds, counted exactly.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::mutants::mutant;
use crate::sync::AtomicUsize;

/// A running total of bytes, which may be part of a larger one.
#[derive(Debug, Default)]
pub struct Account {
    bytes: AtomicUsize,
    /// The most that it held at once.
    peak: AtomicUsize,
    total: Option<Arc<Account>>,
}

/// Bytes that would go over a limit. Nothing was charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverLimit {
    /// Bytes held under the limit.
    pub held: usize,
    /// Bytes that may be held.
    pub limit: usize,
    /// Whether it is the limit of all and not the account's own.
    pub is_total: bool,
}

impl Account {
    /// An account whose bytes also count in `total`.
    pub fn under(total: Arc<Self>) -> Self {
        Self {
            total: Some(total),
            ..Self::default()
        }
    }

    /// Bytes held now.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The most bytes that were held at once.
    pub fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }

    fn rose_to(&self, bytes: usize) {
        // Most often it is no new peak, and a look costs less than a write.
        if bytes > self.peak() {
            self.peak.fetch_max(bytes, Ordering::Relaxed);
        }
    }

    fn add(&self, bytes: usize) {
        self.rose_to(self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes);
        if let Some(total) = &self.total {
            total.add(bytes);
        }
    }

    /// Adds unless that would be more than `limit`. Two that add at once cannot both take the last bytes. Answers what is held
    /// then, or now; the caller notes the peak.
    fn add_within(&self, bytes: usize, limit: usize) -> Result<usize, usize> {
        let mut held = self.bytes();
        loop {
            let after = held.saturating_add(bytes);
            if after > limit && !mutant!(MemoryLimitIgnored) {
                return Err(held);
            }
            match self
                .bytes
                .compare_exchange_weak(held, after, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return Ok(after),
                Err(now) => held = now,
            }
        }
    }

    fn remove(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(total) = &self.total {
            total.remove(bytes);
        }
    }
}

/// Bytes charged to an account for as long as this value lives.
#[derive(Debug)]
pub struct Charge {
    account: Arc<Account>,
    bytes: usize,
}

impl Charge {
    /// Charges `bytes`.
    pub fn new(account: Arc<Account>, bytes: usize) -> Self {
        account.add(bytes);
        Self { account, bytes }
    }

    /// Charges `bytes`, unless the account would hold more than `limit` or the account of all more than `total_limit`.
    pub fn within(account: Arc<Account>, bytes: usize, limit: usize, total_limit: usize) -> Result<Self, OverLimit> {
        let over = |held, limit, is_total| OverLimit { held, limit, is_total };
        let held = account
            .add_within(bytes, limit)
            .map_err(|held| over(held, limit, false))?;
        if let Some(total) = &account.total {
            match total.add_within(bytes, total_limit) {
                Ok(held) => total.rose_to(held),
                Err(held) => {
                    account.bytes.fetch_sub(bytes, Ordering::Relaxed);
                    return Err(over(held, total_limit, true));
                }
            }
        }
        account.rose_to(held);
        Ok(Self { account, bytes })
    }

    /// Bytes charged now.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Changes what is charged.
    pub fn set(&mut self, bytes: usize) {
        if bytes > self.bytes {
            self.account.add(bytes - self.bytes);
        } else {
            self.account.remove(self.bytes - bytes);
        }
        self.bytes = bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if !mutant!(BytesNotReturned) {
            self.account.remove(self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charges_return_when_dropped() {
        let process = Arc::new(Account::default());
        let lane = Arc::new(Account::under(process.clone()));
        let mut charge = Charge::new(lane.clone(), 100);
        charge.set(30);
        charge.set(70);
        let other = Charge::new(lane.clone(), 5);
        assert_eq!((lane.bytes(), process.bytes()), (75, 75));
        drop((charge, other));
        assert_eq!((lane.bytes(), process.bytes()), (0, 0));
    }

    #[test]
    fn a_charge_over_a_limit_changes_nothing() {
        let process = Arc::new(Account::default());
        let (ann, bob) = (
            Arc::new(Account::under(process.clone())),
            Arc::new(Account::under(process.clone())),
        );
        let first = Charge::within(ann.clone(), 60, 100, 150).expect("fits");
        let refused = Charge::within(ann.clone(), 41, 100, 150).expect_err("over the user's");
        assert_eq!((refused.held, refused.limit, refused.is_total), (60, 100, false));
        let _second = Charge::within(bob.clone(), 90, 100, 150).expect("just fits");
        let refused = Charge::within(ann.clone(), 1, 100, 150).expect_err("over the process's");
        assert_eq!((refused.held, refused.is_total), (150, true));
        assert_eq!((ann.bytes(), bob.bytes(), process.bytes()), (60, 90, 150));
        drop(first);
        assert_eq!((ann.bytes(), ann.peak(), process.bytes()), (0, 60, 90));
    }

    #[test]
    fn threads_never_take_more_than_the_limit() {
        let account = Arc::new(Account::default());
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let account = account.clone();
                std::thread::spawn(move || {
                    for _ in 0..5_000 {
                        let charge = Charge::within(account.clone(), 3, 10, usize::MAX);
                        assert!(account.bytes() <= 10);
                        drop(charge);
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("the thread ends");
        }
        assert_eq!(account.bytes(), 0);
        assert!(account.peak() <= 9);
    }
}

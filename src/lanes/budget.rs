//! Bytes that the core holds, counted exactly.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::mutants::mutant;
use crate::sync::AtomicUsize;

/// A running total of bytes, which may be part of a larger one.
#[derive(Debug, Default)]
pub struct Account {
    bytes: AtomicUsize,
    total: Option<Arc<Account>>,
}

impl Account {
    /// An account whose bytes also count in `total`.
    pub fn under(total: Arc<Self>) -> Self {
        Self {
            bytes: AtomicUsize::new(0),
            total: Some(total),
        }
    }

    /// Bytes held now.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Some(total) = &self.total {
            total.add(bytes);
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
}

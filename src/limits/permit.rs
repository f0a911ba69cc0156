//! A permit as its holder has it.

use std::sync::{Arc, PoisonError};

use super::fair::{FairLimiter, Grant};
use super::governors::CallResult;
use crate::clock::Micros;
use crate::mutants::mutant;
use crate::sync::Mutex;

/// A permit that returns itself when dropped, which counts as a leak.
#[derive(Debug)]
pub struct Permit {
    limiter: Arc<FairLimiter>,
    grant: Mutex<Option<Grant>>,
}

impl Permit {
    /// Takes charge of a grant.
    pub fn new(limiter: Arc<FairLimiter>, grant: Grant) -> Self {
        Self {
            limiter,
            grant: Mutex::new(Some(grant)),
        }
    }

    /// Returns the permit. Answers whether it had not been returned before.
    pub fn release(&self, now: Micros) -> bool {
        let grant = self.grant.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(grant) = grant else {
            self.limiter.note_returned_twice();
            return false;
        };
        if mutant!(SlotFreedTwice) {
            *self.grant.lock().unwrap_or_else(PoisonError::into_inner) = Some(grant.again());
        }
        self.limiter.release(grant, now);
        true
    }

    /// Gives the grant away: this permit has nothing to return any more, as if it had been returned.
    pub fn take(&self) -> Option<Grant> {
        self.grant.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Says what the call came to, for adaptive limits. Answers `false` when the permit was returned.
    pub fn record(&self, result: CallResult) -> bool {
        let mut grant = self.grant.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(grant) = grant.as_mut() else { return false };
        grant.result = Some(result);
        true
    }

    /// Says what the call came to unless its holder has.
    pub fn record_if_silent(&self, result: CallResult) {
        let mut grant = self.grant.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(grant) = grant.as_mut() {
            grant.result.get_or_insert(result);
        }
    }

    /// Takes charge of a grant in place of one that was given away.
    pub fn replace(&self, grant: Grant) {
        let old = self.grant.lock().unwrap_or_else(PoisonError::into_inner).replace(grant);
        debug_assert!(old.is_none(), "only an empty permit is filled");
    }

    /// The limiter that it is of.
    pub fn limiter(&self) -> &Arc<FairLimiter> {
        &self.limiter
    }

    /// Whether the permit has not been returned.
    pub fn is_held(&self) -> bool {
        self.grant.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// The fence of the lease under which it runs, which grows over all processes, and whether that lease was lost.
    pub fn lease(&self) -> (Option<u64>, bool) {
        let grant = self.grant.lock().unwrap_or_else(PoisonError::into_inner);
        let tie = grant.as_ref().map(Grant::tie);
        let limiter = &self.limiter;
        tie.and_then(|tie| limiter.with_leases(|leases| leases.fence_of(tie)))
            .unwrap_or((None, false))
    }

    /// Grows with each grant of the limiter; 0 when the permit was returned.
    pub fn fence(&self) -> u64 {
        self.grant
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .map_or(0, Grant::fence)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let grant = self.grant.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(grant) = grant {
            let now = grant.lane().shared().clock.monotonic();
            self.limiter.release_leaked(grant, now);
        }
    }
}

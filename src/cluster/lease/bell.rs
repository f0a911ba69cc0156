//! How a limiter tells the desk that there is something to ask for.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::clock::Micros;
use crate::mutants::mutant;

/// Makes the desk look.
pub trait Ring: Send + Sync {
    /// Called without any lock held.
    fn ring(&self);
}

struct Parked {
    ringer: Arc<dyn Ring>,
    looks_at: Micros,
}

/// Who waits for something to do, if anybody does, and when it will look by itself.
#[derive(Default)]
pub struct Bell(Mutex<Option<Parked>>);

impl fmt::Debug for Bell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bell").finish_non_exhaustive()
    }
}

impl Bell {
    fn parked(&self) -> MutexGuard<'_, Option<Parked>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that there is something to do at `at`. Whoever looks by itself no later is left to sleep.
    pub fn ring(&self, at: Micros) {
        let parked = {
            let mut parked = self.parked();
            if parked.as_ref().is_none_or(|parked| parked.looks_at <= at) || mutant!(DeskSleepsOn) {
                return;
            }
            parked.take()
        };
        if let Some(parked) = parked {
            parked.ringer.ring();
        }
    }

    /// Parks, to be told of whatever happens from now on. Whoever was parked before is told to look elsewhere.
    pub(super) fn park(&self, ringer: Arc<dyn Ring>) {
        let looks_at = Micros::MAX;
        let earlier = self.parked().replace(Parked { ringer, looks_at });
        if let Some(earlier) = earlier {
            earlier.ringer.ring();
        }
    }

    /// Who is parked will look by itself at `at`.
    pub(super) fn looks_at(&self, ringer: &Arc<dyn Ring>, at: Micros) {
        if let Some(parked) = self.parked().as_mut().filter(|parked| is_it(parked, ringer)) {
            parked.looks_at = at;
        }
    }

    /// Takes a ringer back, if it is the one that is parked.
    pub fn unpark(&self, ringer: &Arc<dyn Ring>) {
        let taken = {
            let mut parked = self.parked();
            if parked.as_ref().is_some_and(|parked| is_it(parked, ringer)) {
                parked.take()
            } else {
                None
            }
        };
        drop(taken);
    }
}

fn is_it(parked: &Parked, ringer: &Arc<dyn Ring>) -> bool {
    std::ptr::addr_eq(Arc::as_ptr(&parked.ringer), Arc::as_ptr(ringer))
}

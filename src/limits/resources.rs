//! Named resources that all users share, such as the connections of a pool. A request names those it needs and gets all of
//! them, or none.

use std::ops::{BitAnd, BitOr, Not};

use crate::mutants::mutant;

/// Most resources of one limiter.
pub const MAX_RESOURCES: usize = 64;

/// A set of a limiter's resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ResourceSet(u64);

impl ResourceSet {
    /// No resource.
    pub const NONE: Self = Self(0);

    pub(super) fn one(index: usize) -> Self {
        Self(1 << index)
    }

    /// Whether there is none in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) const fn contains(self, index: usize) -> bool {
        self.0 >> index & 1 == 1
    }

    /// Its members.
    pub(super) fn indices(self) -> impl Iterator<Item = usize> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            (left != 0).then(|| {
                let index = left.trailing_zeros() as usize;
                left &= left - 1;
                index
            })
        })
    }
}

impl BitOr for ResourceSet {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitAnd for ResourceSet {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl Not for ResourceSet {
    type Output = Self;

    fn not(self) -> Self {
        Self(!self.0)
    }
}

#[derive(Debug)]
pub(super) struct Resource {
    pub(super) name: Box<str>,
    set: u32,
    /// What an adaptive controller allows.
    cap: u32,
    pub(super) running: u32,
    pub(super) peak: u32,
    pub(super) granted: u64,
}

impl Resource {
    pub(super) fn limit(&self) -> u32 {
        self.set.min(self.cap)
    }
}

/// The resources of a limiter, and how many of each are in use.
#[derive(Debug, Default)]
pub(super) struct Resources {
    all: Vec<Resource>,
    /// Those of which none is left.
    exhausted: ResourceSet,
}

impl Resources {
    pub(super) fn new(limits: impl IntoIterator<Item = (Box<str>, u32)>) -> Self {
        let all: Vec<Resource> = limits
            .into_iter()
            .take(MAX_RESOURCES)
            .map(|(name, limit)| Resource {
                name,
                set: limit,
                cap: u32::MAX,
                running: 0,
                peak: 0,
                granted: 0,
            })
            .collect();
        let mut resources = Self {
            all,
            exhausted: ResourceSet::NONE,
        };
        (0..resources.all.len()).for_each(|index| resources.judge(index));
        resources
    }

    pub(super) fn all(&self) -> &[Resource] {
        &self.all
    }

    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.all.iter().position(|resource| &*resource.name == name)
    }

    fn judge(&mut self, index: usize) {
        let resource = &self.all[index];
        let one = ResourceSet::one(index);
        if resource.running >= resource.limit() {
            self.exhausted = self.exhausted | one;
        } else {
            self.exhausted = self.exhausted & !one;
        }
    }

    pub(super) fn set_limit(&mut self, index: usize, limit: u32) {
        self.all[index].set = limit;
        self.judge(index);
    }

    pub(super) fn set_cap(&mut self, index: usize, cap: u32) {
        self.all[index].cap = cap;
        self.judge(index);
    }

    /// Those of a set of which none is left.
    pub(super) fn lacking(&self, wanted: ResourceSet) -> ResourceSet {
        if mutant!(ResourceLimitIgnored) {
            return ResourceSet::NONE;
        }
        self.exhausted & wanted
    }

    pub(super) fn are_free(&self, wanted: ResourceSet) -> bool {
        self.lacking(wanted).is_empty()
    }

    pub(super) fn take(&mut self, wanted: ResourceSet) {
        for index in wanted.indices() {
            let resource = &mut self.all[index];
            resource.running += 1;
            resource.granted += 1;
            resource.peak = resource.peak.max(resource.running);
            self.judge(index);
        }
    }

    pub(super) fn give_back(&mut self, returned: ResourceSet) {
        if mutant!(ResourceNotReturned) {
            return;
        }
        for index in returned.indices() {
            self.all[index].running -= 1;
            self.judge(index);
        }
    }
}

//! What the boundaries of this process found: what crossed one, and what one refused.
//!
//! A *violation* is data of one user where another's is: a look found it. A *refused attempt* is what a check did not let
//! through: nothing crossed. While the defence works there are refused attempts and no violations.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Micros;
use crate::isolation::Boundary;
use crate::mutants::mutant;
use crate::owner::Crossing;

/// Where a check is asked: the crossing points, the scan points of the detector, and the borders that the package has of its
/// own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// An event is published into a run's log.
    Publish,
    /// A connection subscribes to a stream.
    Subscribe,
    /// A frame is handed to a socket.
    Write,
    /// An engine, emitter or run is bound to a context.
    Bind,
    /// A context's own containers, session and tags are verified.
    Verify,
    /// A request for a resource comes to the wall.
    Access,
    /// A query comes to the border of a user's rows.
    DataAccess,
    /// A call under one of the older names.
    Legacy,
    /// Contents are looked at.
    Scan(Boundary),
}

/// Places that are no scan points.
const OWN: [(Place, &str); 8] = [
    (Place::Publish, "publish"),
    (Place::Subscribe, "subscribe"),
    (Place::Write, "write"),
    (Place::Bind, "bind"),
    (Place::Verify, "verify"),
    (Place::Access, "access"),
    (Place::DataAccess, "data_access"),
    (Place::Legacy, "legacy"),
];
/// How many places there are.
pub const PLACES: usize = OWN.len() + Boundary::ALL.len();

impl Place {
    /// The names of all places, in the order of the counters.
    pub const NAMES: [&'static str; PLACES] = {
        let mut names = [""; PLACES];
        let mut at = 0;
        while at < PLACES {
            names[at] = if at < OWN.len() {
                OWN[at].1
            } else {
                Boundary::ALL[at - OWN.len()].name()
            };
            at += 1;
        }
        names
    };

    /// The place of that name.
    pub fn named(name: &str) -> Option<Self> {
        let own = OWN.iter().find(|(_, own)| *own == name).map(|(place, _)| *place);
        own.or_else(|| Boundary::named(name).map(Self::Scan))
    }

    /// The place of a crossing point. What contents show is counted by its scan point.
    pub const fn of(crossing: Crossing) -> Option<Self> {
        match crossing {
            Crossing::Publish => Some(Self::Publish),
            Crossing::Subscribe => Some(Self::Subscribe),
            Crossing::Write => Some(Self::Write),
            Crossing::Bind => Some(Self::Bind),
            Crossing::Verify => Some(Self::Verify),
            Crossing::Access => Some(Self::Access),
            Crossing::Content => None,
        }
    }

    /// The crossing point at which it is; none for the package's own borders.
    pub const fn crossing(self) -> Option<Crossing> {
        match self {
            Self::Publish => Some(Crossing::Publish),
            Self::Subscribe => Some(Crossing::Subscribe),
            Self::Write => Some(Crossing::Write),
            Self::Bind => Some(Crossing::Bind),
            Self::Verify => Some(Crossing::Verify),
            Self::Access => Some(Crossing::Access),
            Self::Scan(_) => Some(Crossing::Content),
            Self::DataAccess | Self::Legacy => None,
        }
    }

    const fn index(self) -> usize {
        match self {
            Self::Publish => 0,
            Self::Subscribe => 1,
            Self::Write => 2,
            Self::Bind => 3,
            Self::Verify => 4,
            Self::Access => 5,
            Self::DataAccess => 6,
            Self::Legacy => 7,
            Self::Scan(boundary) => OWN.len() + boundary as usize,
        }
    }
}

/// By what a violation was recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// An object of isolane's said whose it is.
    OwnerTag,
    /// A signed canary.
    Canary,
    /// A value that was registered as a user's.
    Secret,
    /// A container that two live contexts hold.
    SharedContainer,
    /// A database session that contexts of two users hold.
    SharedSession,
    /// A key by which data would speak for a context.
    ReservedKey,
    /// An object in a context that says it is another user's.
    ForeignObject,
    /// An event of somebody else's run.
    ForeignRun,
}

impl Tier {
    /// All of them, in the order of the counters.
    pub const ALL: [Self; 8] = [
        Self::OwnerTag,
        Self::Canary,
        Self::Secret,
        Self::SharedContainer,
        Self::SharedSession,
        Self::ReservedKey,
        Self::ForeignObject,
        Self::ForeignRun,
    ];
    /// Their names, in the same order.
    pub const NAMES: [&'static str; Self::ALL.len()] = [
        "owner_tag",
        "canary",
        "secret",
        "shared_container",
        "shared_session",
        "reserved_key",
        "foreign_object",
        "foreign_run",
    ];

    /// The tier of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tier| tier.name() == name)
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

static CHECKS: [AtomicU64; PLACES] = [const { AtomicU64::new(0) }; PLACES];
static REFUSED: [AtomicU64; PLACES] = [const { AtomicU64::new(0) }; PLACES];
static VIOLATIONS: [[AtomicU64; Tier::ALL.len()]; PLACES] =
    [const { [const { AtomicU64::new(0) }; Tier::ALL.len()] }; PLACES];
/// When the latest violation was found, in microseconds since the Unix epoch; 0 before the first.
static LATEST: AtomicU64 = AtomicU64::new(0);

static CONTROLS: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// The names of what a positive control comes to.
pub const CONTROL_RESULTS: [&str; 2] = ["caught", "missed"];

/// Counts a positive control: a canary that must be caught, and was or was not.
pub fn controlled(caught: bool) {
    CONTROLS[usize::from(!caught)].fetch_add(1, Ordering::Relaxed);
}

/// How many positive controls came to what, in the order of [`CONTROL_RESULTS`].
pub fn controls() -> [u64; 2] {
    CONTROLS.each_ref().map(|count| count.load(Ordering::Relaxed))
}

/// Counts checks that a place has made, whatever they came to. Publishing and writing count their events instead.
#[inline]
pub fn checked(place: Place, many: u64) {
    CHECKS[place.index()].fetch_add(many, Ordering::Relaxed);
}

/// Counts an attempt that was refused.
pub fn refused(place: Place) {
    REFUSED[place.index()].fetch_add(1, Ordering::Relaxed);
}

/// Counts a violation that was found now, by the system's clock.
pub fn found(place: Place, tier: Tier, unix: Micros) {
    if mutant!(ViolationNotCounted) {
        return;
    }
    VIOLATIONS[place.index()][tier as usize].fetch_add(1, Ordering::Relaxed);
    LATEST.fetch_max(unix, Ordering::Relaxed);
}

/// What one place has found so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    /// The name of the place.
    pub name: &'static str,
    /// Checks, whatever they came to.
    pub checks: u64,
    /// Attempts that were refused.
    pub refused: u64,
    /// Violations, in the order of [`Tier::ALL`].
    pub violations: [u64; Tier::ALL.len()],
}

/// What each place has found so far, in the order of [`Place::NAMES`]. `published` and `written` are the events that passed
/// those two checks.
pub fn figures(published: u64, written: u64) -> [Figures; PLACES] {
    let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
    std::array::from_fn(|at| {
        let refused = read(&REFUSED[at]);
        let passed = if at == Place::Publish.index() {
            published + refused
        } else if at == Place::Write.index() {
            written + refused
        } else {
            0
        };
        Figures {
            name: Place::NAMES[at],
            checks: read(&CHECKS[at]) + passed,
            refused,
            violations: std::array::from_fn(|tier| read(&VIOLATIONS[at][tier])),
        }
    })
}

/// When the latest violation was found, in microseconds since the Unix epoch.
pub fn latest() -> Option<Micros> {
    Some(LATEST.load(Ordering::Relaxed)).filter(|at| *at != 0)
}

/// The child of a fork has found nothing yet.
pub fn after_fork_in_child() {
    let counts = VIOLATIONS.iter().flatten().chain(&CHECKS).chain(&REFUSED);
    counts
        .chain(&CONTROLS)
        .chain([&LATEST])
        .for_each(|count| count.store(0, Ordering::Relaxed));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_has_its_name_and_its_counters() {
        for (at, name) in Place::NAMES.into_iter().enumerate() {
            let place = Place::named(name).expect("it is a name");
            assert_eq!(place.index(), at);
        }
        assert_eq!(
            Place::named("content"),
            None,
            "contents are looked at in their scan points"
        );
        for crossing in Crossing::ALL {
            match Place::of(crossing) {
                Some(place) => {
                    assert_eq!(Place::NAMES[place.index()], crossing.name());
                    assert_eq!(place.crossing(), Some(crossing));
                }
                None => assert_eq!(crossing, Crossing::Content),
            }
        }
        for tier in Tier::ALL {
            assert_eq!(Tier::named(tier.name()), Some(tier));
            assert_eq!(Tier::ALL[tier as usize], tier);
        }
    }

    #[test]
    fn a_refused_attempt_is_no_violation_and_the_other_way_round() {
        // No other test of the core looks at models.
        let place = Place::Scan(Boundary::LlmIn);
        let of = || figures(0, 0)[place.index()];
        let before = of();
        refused(place);
        assert_eq!((of().refused, of().violations), (before.refused + 1, before.violations));
        found(place, Tier::Secret, 7);
        assert_eq!(of().refused, before.refused + 1);
        assert_eq!(of().violations[Tier::Secret as usize], 1);
        assert!(latest() >= Some(7));
    }

    #[test]
    fn events_that_passed_are_checks_of_their_places() {
        let of = |published, written| figures(published, written).map(|each| each.checks);
        let (none, some) = (of(0, 0), of(3, 5));
        assert_eq!(some[Place::Publish.index()] - none[Place::Publish.index()], 3);
        assert_eq!(some[Place::Write.index()] - none[Place::Write.index()], 5);
        assert_eq!(some[Place::Bind.index()], none[Place::Bind.index()]);
    }
}

//! Who waits: lists in the order of arrival, one for each class of urgency, from whose middle a waiter leaves in constant time.

use std::sync::Arc;

use slab::Slab;

use super::fair::Parked;
use super::request::{CLASSES, Request, Task};
use crate::clock::Micros;
use crate::lanes::LaneHandle;
use crate::mutants::mutant;

const NOBODY: u32 = u32::MAX;

/// Names a waiter. The place of one that has left is used again, its serial is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    place: u32,
    serial: u64,
}

impl Ticket {
    /// Grows with each waiter: the order of arrival.
    pub(super) fn serial(self) -> u64 {
        self.serial
    }
}

/// Where in a run somebody asks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) root: u64,
    pub(super) context: u64,
    pub(super) task: Task,
}

impl Place {
    pub(super) fn of(request: &Request<'_>) -> Option<Self> {
        let (root, context) = (*request.path.first()?, *request.path.last()?);
        Some(Self {
            root,
            context,
            task: request.task,
        })
    }
}

/// Somebody who waits.
pub(super) struct Waiter {
    pub(super) lane: LaneHandle,
    pub(super) user: u32,
    pub(super) flow: u32,
    pub(super) cost: f32,
    pub(super) place: Option<Place>,
    pub(super) parked: Arc<dyn Parked>,
    pub(super) arrived: Micros,
    /// It leaves at the first refusal of the cluster.
    pub(super) ask_once: bool,
    class: u8,
    /// When it is its turn among the user's waiters: the arrival, later by one `aging` for each class behind the first.
    rank: Micros,
    serial: u64,
    before: u32,
    after: u32,
}

#[derive(Debug, Clone, Copy)]
struct Ends {
    first: u32,
    last: u32,
}

/// The waiters of one user for one set of resources.
#[derive(Debug)]
pub(super) struct Line {
    classes: [Ends; CLASSES],
    pub(super) waiting: u32,
    /// The number of the line's entry in the order of users; 0 when it has none.
    pub(super) entry: u64,
}

impl Default for Line {
    fn default() -> Self {
        let empty = Ends {
            first: NOBODY,
            last: NOBODY,
        };
        Self {
            classes: [empty; CLASSES],
            waiting: 0,
            entry: 0,
        }
    }
}

/// All waiters of a limiter.
#[derive(Default)]
pub(super) struct Waiters {
    places: Slab<Waiter>,
    serial: u64,
}

impl Waiters {
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn get(&self, ticket: Ticket) -> Option<&Waiter> {
        self.places
            .get(ticket.place as usize)
            .filter(|waiter| waiter.serial == ticket.serial)
    }

    /// Whose lane each waiter keeps.
    pub(super) fn lanes(&self) -> impl Iterator<Item = (u32, &LaneHandle)> {
        self.places.iter().map(|(_, waiter)| (waiter.user, &waiter.lane))
    }

    /// The waiters of a user, in no order, and whether each leaves at the first refusal.
    pub(super) fn tickets_of(&self, user: u32) -> impl Iterator<Item = (Ticket, bool)> {
        let places = self.places.iter().filter(move |(_, waiter)| waiter.user == user);
        places.filter_map(|(place, waiter)| {
            let place = u32::try_from(place).ok()?;
            let serial = waiter.serial;
            Some((Ticket { place, serial }, waiter.ask_once))
        })
    }

    /// Appends a waiter to its class.
    ///
    /// A waiter moves up one class each `aging`: among waiters that arrived at different times that is the same as to order
    /// them by the arrival plus one `aging` for each class, which never changes while they wait.
    pub(super) fn push(
        &mut self,
        line: &mut Line,
        request: &Request<'_>,
        (user, flow): (u32, u32),
        aging: Micros,
        now: Micros,
        parked: Arc<dyn Parked>,
    ) -> Ticket {
        self.serial += 1;
        let class = request.priority.class();
        let aging = if mutant!(UrgencyNeverGrows) {
            Micros::MAX / 8
        } else {
            aging
        };
        let class = if mutant!(UrgencyIgnored) { 0 } else { class };
        let ends = &mut line.classes[usize::from(class)];
        let waiter = Waiter {
            lane: request.lane.clone(),
            user,
            flow,
            cost: request.cost,
            place: Place::of(request),
            parked,
            arrived: now,
            ask_once: request.ask_once,
            class,
            rank: now.saturating_add(aging.saturating_mul(Micros::from(class))),
            serial: self.serial,
            before: ends.last,
            after: NOBODY,
        };
        let key = self.places.insert(waiter);
        let place = u32::try_from(key).expect("fewer waiters than 2^32");
        if ends.last == NOBODY {
            ends.first = place;
        } else {
            self.places[ends.last as usize].after = place;
        }
        ends.last = place;
        line.waiting += 1;
        Ticket {
            place,
            serial: self.serial,
        }
    }

    /// Whose turn it is among the waiters of a line.
    pub(super) fn first(&self, line: &Line) -> Option<Ticket> {
        let heads = line.classes.iter().map(|ends| {
            if mutant!(WaitersOutOfOrder) {
                ends.last
            } else {
                ends.first
            }
        });
        heads
            .filter(|place| *place != NOBODY)
            .min_by_key(|place| {
                let waiter = &self.places[*place as usize];
                (waiter.rank, waiter.serial)
            })
            .map(|place| Ticket {
                place,
                serial: self.places[place as usize].serial,
            })
    }

    /// Takes a waiter out of its line.
    pub(super) fn remove(&mut self, line: &mut Line, ticket: Ticket) -> Option<Waiter> {
        self.get(ticket)?;
        let waiter = self.places.remove(ticket.place as usize);
        let ends = &mut line.classes[usize::from(waiter.class)];
        match self.places.get_mut(waiter.before as usize) {
            Some(before) if waiter.before != NOBODY => before.after = waiter.after,
            _ => ends.first = waiter.after,
        }
        match self.places.get_mut(waiter.after as usize) {
            Some(after) if waiter.after != NOBODY => after.before = waiter.before,
            _ => ends.last = waiter.before,
        }
        line.waiting -= 1;
        Some(waiter)
    }
}

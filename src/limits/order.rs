//! Whose turn it is among users: start-time fair queueing (Goyal, Vin, Cheng 1996) on permit-seconds.
//!
//! Each user has a tag, which grows with the time that its permits are held, divided by its weight. The smallest tag is next;
//! among equal ones the earliest waiter, never a name. What a permit will be held for is not known when it is granted, so the
//! user's usual time is charged then and put right when the permit comes back.
//!
//! Only time during which somebody waited is charged: to use what nobody else wants is free. A user that begins to wait starts
//! at the virtual time, the tag of the one served last, so that nobody saves up turns by being away. Nor does anybody fall
//! behind without end: a tag is at most [`MOST_DEBT`] ahead of the virtual time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::queue::Line;
use super::resources::ResourceSet;
use crate::clock::{Micros, SECOND};

/// How far a user's tag may be ahead of the others', in permit-seconds.
pub(super) const MOST_DEBT: u64 = 60 * SECOND;

/// Whether the user is over its limit, its tag, the serial of its first waiter, the user, the number of the entry.
type Entry = Reverse<(bool, u64, u64, u32, u64)>;

/// Users that wait for the same set of resources, in their order.
#[derive(Default)]
pub(super) struct Flow {
    pub(super) needs: ResourceSet,
    pub(super) waiting: usize,
    heap: BinaryHeap<Entry>,
}

/// Who is next in a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn {
    pub(super) over: bool,
    pub(super) tag: u64,
    pub(super) serial: u64,
    pub(super) user: u32,
}

impl Flow {
    /// The entry at the front, with its number. It may be stale.
    pub(super) fn front(&self) -> Option<(Turn, u64)> {
        let Reverse((over, tag, serial, user, number)) = *self.heap.peek()?;
        let turn = Turn {
            over,
            tag,
            serial,
            user,
        };
        Some((turn, number))
    }

    pub(super) fn pop(&mut self) {
        self.heap.pop();
    }
}

/// The flows of a limiter. The first needs no resource.
pub(super) struct Order {
    flows: Vec<Flow>,
    /// The tag of whoever was served last.
    pub(super) virtual_time: u64,
    number: u64,
}

impl Default for Order {
    fn default() -> Self {
        Self {
            flows: vec![Flow::default()],
            virtual_time: 0,
            number: 0,
        }
    }
}

impl Order {
    pub(super) fn flows(&mut self) -> &mut [Flow] {
        &mut self.flows
    }

    pub(super) fn needs(&self, flow: u32) -> ResourceSet {
        self.flows[flow as usize].needs
    }

    pub(super) fn waiting(&self, flow: u32) -> usize {
        self.flows[flow as usize].waiting
    }

    /// The flow of a set of resources. Flows in which nobody waits are used again, so there are no more of them than waiters.
    pub(super) fn flow_of(&mut self, needs: ResourceSet) -> u32 {
        let known = self.flows.iter().position(|flow| flow.needs == needs);
        let at = known.unwrap_or_else(|| {
            let empty = self.flows.iter().skip(1).position(|flow| flow.waiting == 0);
            let at = empty.map_or(self.flows.len(), |at| at + 1);
            if at == self.flows.len() {
                self.flows.push(Flow::default());
            }
            self.flows[at] = Flow {
                needs,
                ..Flow::default()
            };
            at
        });
        u32::try_from(at).expect("fewer flows than waiters")
    }

    /// The flow of a set of resources, if somebody waits for it.
    pub(super) fn find(&self, needs: ResourceSet) -> Option<u32> {
        let at = self.flows.iter().position(|flow| flow.needs == needs)?;
        u32::try_from(at).ok()
    }

    /// Puts a user's line into the order. An entry that the line had becomes stale.
    pub(super) fn list(&mut self, flow: u32, line: &mut Line, turn: Turn) {
        self.number += 1;
        line.entry = self.number;
        let flow = &mut self.flows[flow as usize];
        flow.heap
            .push(Reverse((turn.over, turn.tag, turn.serial, turn.user, self.number)));
    }

    /// Drops stale entries when they are the most. `is_current` is told a user and an entry's number.
    pub(super) fn tidy(&mut self, flow: u32, is_current: impl Fn(u32, u64) -> bool) {
        let flow = &mut self.flows[flow as usize];
        if flow.heap.len() > 2 * flow.waiting + 64 {
            flow.heap
                .retain(|Reverse((_, _, _, user, number))| is_current(*user, *number));
        }
    }
}

/// Counts the time during which somebody waited.
#[derive(Debug, Default)]
pub(super) struct Contention {
    total: Micros,
    since: Option<Micros>,
}

impl Contention {
    pub(super) fn at(&self, now: Micros) -> Micros {
        self.total + self.since.map_or(0, |since| now.saturating_sub(since))
    }

    pub(super) fn set(&mut self, somebody_waits: bool, now: Micros) {
        match (self.since, somebody_waits) {
            (None, true) => self.since = Some(now),
            (Some(since), false) => {
                self.total += now.saturating_sub(since);
                self.since = None;
            }
            _ => {}
        }
    }
}

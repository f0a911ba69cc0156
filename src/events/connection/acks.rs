//! What a socket was sent and its client has not acknowledged.

use std::collections::VecDeque;

use crate::clock::Micros;
use crate::mutants::mutant;

/// Events of one run that may be un-acked before an ack is due.
pub const ACK_EVENTS: u32 = 32;
/// Over so many un-acked events a socket pauses.
const PAUSE_EVENTS: u32 = 512;
/// Over so many un-acked bytes a socket pauses.
const PAUSE_BYTES: usize = 256 * 1024;

/// Frames of one run that are told apart; what is sent beyond them is acknowledged together.
const MAX_FRAMES: usize = 32;
/// Events of frames that are acknowledged together although there is room to tell them apart.
const GROUP_EVENTS: u32 = 16;

/// What a frame weighs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) events: u32,
    pub(super) bytes: usize,
}

impl Load {
    pub(super) fn add(&mut self, other: Self) {
        self.events += other.events;
        self.bytes += other.bytes;
    }

    pub(super) fn subtract(&mut self, other: Self) {
        self.events -= other.events;
        self.bytes -= other.bytes;
    }

    /// Whether a socket with so much un-acked pauses, or goes on to pause: it resumes at half of that, or it would write small
    /// frames at the rate of the acks.
    pub(super) fn pauses(&self, is_paused: bool) -> bool {
        let share = if is_paused { 2 } else { 1 };
        let is_much = self.events > PAUSE_EVENTS / share || self.bytes > PAUSE_BYTES / share as usize;
        is_much && !mutant!(SocketNeverPauses)
    }
}

/// A frame that was sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    /// The number that acknowledges it.
    pub(super) number: u64,
    pub(super) load: Load,
    /// Whether its client is to acknowledge it by itself: it holds an event of class 1, or a snapshot.
    pub(super) critical: bool,
    /// The number of the latest such frame, where several are acknowledged together.
    pub(super) critical_to: u64,
    pub(super) at: Micros,
}

/// The frames of one run that were sent and not acknowledged.
#[derive(Debug, Default)]
pub(super) struct Unacked {
    frames: VecDeque<Sent>,
    /// The latest ack. It may be of the middle of frames that are acknowledged together.
    acked: u64,
}

impl Unacked {
    pub(super) fn note(&mut self, sent: Sent) {
        if let Some(last) = self.frames.back_mut() {
            let is_small = !last.critical && last.load.events + sent.load.events <= GROUP_EVENTS;
            if is_small || self.frames.len() >= MAX_FRAMES {
                let mut load = sent.load;
                // Borrowed anew: the length was needed in between.
                if let Some(last) = self.frames.back_mut() {
                    load.add(last.load);
                    let critical_to = if sent.critical { sent.number } else { last.critical_to };
                    *last = Sent {
                        load,
                        critical: last.critical || sent.critical,
                        critical_to,
                        ..sent
                    };
                }
                return;
            }
        }
        self.frames.push_back(sent);
    }

    /// Takes what `number` acknowledges. Answers what it weighed.
    pub(super) fn ack(&mut self, number: u64) -> Load {
        let mut load = Load::default();
        self.acked = self.acked.max(number);
        while let Some(first) = self.frames.front().filter(|first| first.number <= number) {
            load.add(first.load);
            self.frames.pop_front();
        }
        if mutant!(AckNotCounted) {
            return Load::default();
        }
        load
    }

    /// Since when an ack is due: since the first critical frame, or since there were 32 events.
    pub(super) fn due_since(&self) -> Option<Micros> {
        let mut events = 0;
        let due = self.frames.iter().find(|sent| {
            // Of frames that are acknowledged in part there are no more events than numbers left.
            let left = u32::try_from(sent.number.saturating_sub(self.acked)).unwrap_or(u32::MAX);
            events += sent.load.events.min(left);
            sent.critical && sent.critical_to > self.acked || events >= ACK_EVENTS
        });
        due.map(|sent| sent.at)
    }

    pub(super) fn load(&self) -> Load {
        let mut load = Load::default();
        for sent in &self.frames {
            load.add(sent.load);
        }
        load
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(number: u64, critical: bool) -> Sent {
        let load = Load { events: 1, bytes: 10 };
        Sent {
            number,
            load,
            critical,
            critical_to: if critical { number } else { 0 },
            at: number,
        }
    }

    #[test]
    fn an_ack_is_due_since_the_first_critical_frame_or_the_thirty_second_event() {
        let mut unacked = Unacked::default();
        for number in 1..32 {
            unacked.note(sent(number, false));
            assert_eq!(unacked.due_since(), None);
        }
        unacked.note(sent(32, false));
        assert_eq!(unacked.due_since(), Some(32));
        unacked.ack(32);
        assert!(unacked.is_empty());
        unacked.note(sent(33, false));
        unacked.note(sent(34, true));
        unacked.note(sent(35, true));
        assert_eq!(unacked.due_since(), Some(34));
        unacked.ack(34);
        assert_eq!(unacked.due_since(), Some(35));
    }

    #[test]
    fn what_an_ack_covers_in_part_is_not_asked_for_again() {
        let mut unacked = Unacked::default();
        for number in 1..=63 {
            unacked.note(sent(number, false));
        }
        // In the middle of sixteen that are acknowledged together.
        unacked.ack(33);
        assert_eq!(unacked.due_since(), None);
        unacked.note(sent(64, false));
        unacked.note(sent(65, false));
        assert_eq!(unacked.due_since(), Some(65));
        unacked.ack(65);

        let mut unacked = Unacked::default();
        for number in 1..=33 {
            unacked.note(sent(number, true));
        }
        for number in 34..=38 {
            unacked.note(sent(number, false));
        }
        unacked.ack(33);
        assert_eq!(unacked.due_since(), None);
    }

    #[test]
    fn what_is_told_apart_is_bounded_and_nothing_of_it_is_forgotten() {
        let mut unacked = Unacked::default();
        for number in 1..=1_000 {
            unacked.note(sent(number, true));
            assert!(unacked.frames.len() <= MAX_FRAMES);
        }
        assert_eq!(
            unacked.load(),
            Load {
                events: 1_000,
                bytes: 10_000
            }
        );
        assert_eq!(unacked.due_since(), Some(1));
        assert_eq!(
            unacked.ack(1_000),
            Load {
                events: 1_000,
                bytes: 10_000
            }
        );
        assert!(unacked.is_empty());
    }
}

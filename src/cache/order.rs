//! An order of slots: a doubly linked list over numbers, so that any one is moved in constant time.

/// No slot.
const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Link {
    before: u32,
    after: u32,
}

/// Slots in an order. Each is in it at most once, which the caller sees to.
#[derive(Debug)]
pub(super) struct Order {
    links: Vec<Link>,
    first: u32,
    last: u32,
}

impl Default for Order {
    fn default() -> Self {
        Self {
            links: Vec::new(),
            first: NONE,
            last: NONE,
        }
    }
}

impl Order {
    pub(super) fn first(&self) -> Option<u32> {
        (self.first != NONE).then_some(self.first)
    }

    pub(super) fn last(&self) -> Option<u32> {
        (self.last != NONE).then_some(self.last)
    }

    pub(super) fn push_last(&mut self, slot: u32) {
        let link = Link {
            before: self.last,
            after: NONE,
        };
        match self.links.get_mut(slot as usize) {
            Some(place) => *place = link,
            // Slots are handed out in turn, so a new one is the next.
            None => self.links.push(link),
        }
        match self.last {
            NONE => self.first = slot,
            last => self.links[last as usize].after = slot,
        }
        self.last = slot;
    }

    pub(super) fn remove(&mut self, slot: u32) {
        let Link { before, after } = self.links[slot as usize];
        match before {
            NONE => self.first = after,
            before => self.links[before as usize].after = after,
        }
        match after {
            NONE => self.last = before,
            after => self.links[after as usize].before = before,
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        std::iter::successors(self.first(), |slot| {
            let after = self.links[*slot as usize].after;
            (after != NONE).then_some(after)
        })
    }

    /// Bytes allocated.
    pub(super) fn bytes(&self) -> usize {
        self.links.capacity() * size_of::<Link>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_leave_from_anywhere() {
        let mut order = Order::default();
        (0..4).for_each(|slot| order.push_last(slot));
        order.remove(2);
        assert_eq!(order.iter().collect::<Vec<_>>(), [0, 1, 3]);
        order.remove(0);
        order.remove(3);
        assert_eq!((order.first(), order.last()), (Some(1), Some(1)));
        order.push_last(3);
        order.remove(1);
        order.remove(3);
        assert_eq!((order.first(), order.last()), (None, None));
    }
}

//! Names as numbers.

use std::collections::HashMap;

use foldhash::fast::RandomState;

/// Names of tools, types and keys that one log tells apart; the rest share the number 0.
const NAMES: usize = 1_000;

#[derive(Debug, Default)]
pub(super) struct Names {
    numbers: HashMap<Box<str>, u32, RandomState>,
    pub(super) bytes: usize,
}

impl Names {
    pub(super) fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        if self.numbers.len() >= NAMES {
            return 0;
        }
        let number = u32::try_from(self.numbers.len() + 1).unwrap_or(0);
        self.numbers.insert(Box::from(name), number);
        self.bytes += name.len() + size_of::<(Box<str>, u32)>();
        number
    }

    /// Notes the number that a name has with the writer of a log.
    pub(super) fn note(&mut self, name: &str, number: u32) {
        if number != 0 && self.numbers.len() < NAMES && !self.numbers.contains_key(name) {
            self.numbers.insert(Box::from(name), number);
            self.bytes += name.len() + size_of::<(Box<str>, u32)>();
        }
    }
}

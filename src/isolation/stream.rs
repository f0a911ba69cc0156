//! What comes in pieces: the end of what was seen is kept, so that nothing is missed because it was cut in two.

use super::scan::{Depth, Found};
use super::scanner::Scanner;
use super::secrets::LONGEST;
use crate::mutants::mutant;

/// A canary needs 36 bytes of what was before; written as `\uXXXX` it needs 221, and a secret 255.
const KEPT: usize = LONGEST - 1;

/// The end of one stream.
#[derive(Debug, Default)]
pub struct Window {
    bytes: Vec<u8>,
}

impl Window {
    /// Looks at the next piece together with the end of what was before. What ended there was found there.
    pub fn feed(&mut self, scanner: &Scanner, observer: Option<&str>, piece: &[u8]) -> Found {
        let before = self.bytes.len();
        self.bytes.extend_from_slice(piece);
        let mut found = Found::default();
        scanner.scan_after(&self.bytes, before, observer, Depth::Everything, &mut found);
        found.bytes = piece.len();
        for sighting in &mut found.sightings {
            sighting.offset = sighting.offset.saturating_sub(before);
        }
        let kept = if mutant!(StreamForgetsEnd) { 0 } else { KEPT };
        self.bytes.drain(..self.bytes.len().saturating_sub(kept));
        // A large piece leaves no large buffer behind.
        self.bytes.shrink_to(4 * KEPT);
        found
    }
}

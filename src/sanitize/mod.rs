//! Finding secrets and personal data in texts, and what stands in their place.
//!
//! A text is looked at once, by what a finding cannot be without: an `@`, four digits in a row, fifteen characters of a token,
//! `-----BEGIN `. Only there the detectors run, each on its window. `plain` (in tests) is the same without the short cut, and
//! both must find the same.
//!
//! Texts are values: what a JSON string says after its escapes were read. On the JSON itself an escape before a secret, as
//! `\n`, would hide it from the detectors' word boundaries.

mod card;
mod characters;
mod email;
mod entropy;
mod events;
mod iban;
mod jwt;
mod keynames;
mod kind;
mod mask;
mod network;
mod pem;
#[cfg(test)]
mod plain;
mod policy;
mod scan;
mod seal;
mod ssn;
mod stream;
#[cfg(test)]
mod tests;
mod tokens;

pub use events::{EventTexts, event_findings};
pub use keynames::{KeyRule, rule_of};
pub use kind::{Group, Kind, Kinds};
pub use mask::{MaskKey, Masked, UserMask, is_mask, is_name, mask_spans, mask_with, masks_in, process_key};
pub use policy::{Boundary, EventMask, Mode, Modes};
pub use scan::{Span, scan, scan_value, settle};
pub use seal::{OpenError, open_field, seal_field};
pub use stream::{HOLD, Stream, mask_whole};

/// Deeper than this a value is refused; it also ends cycles.
pub const MAX_DEPTH: usize = 64;
/// Most bytes of text in a value, each of its parts counted as one more.
pub const MAX_BYTES: usize = 1 << 20;

/// Under a secret key a number from here on is one: a PIN, and not a count. It becomes zero, which keeps its type.
pub const SECRET_NUMBER: u64 = 1_000;

/// A value is too large or too deep to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LimitFault {
    /// More than [`MAX_BYTES`].
    #[error("it has more than {MAX_BYTES} bytes of text and parts")]
    Bytes,
    /// More than [`MAX_DEPTH`] levels.
    #[error("it is nested deeper than {MAX_DEPTH} levels, or contains itself")]
    Depth,
}

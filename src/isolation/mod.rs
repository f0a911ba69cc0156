//! Whose data is in a text? Signed canaries and registered secrets, found at the boundaries and on the way through streams.
//!
//! Owner tags (`crate::owner`) say whose an object is. This room looks at contents, which lose their tags as soon as they
//! are text: a canary names its owner by a keyed hash and proves it by a MAC, so that no register of canaries is needed; a
//! secret is found by the keyed hash of its token. No content is kept, neither of texts nor of secrets.

mod base32;
mod canary;
mod coverage;
mod decode;
mod exposure;
mod scan;
mod scanner;
mod secrets;
mod stream;
mod tokens;

pub use self::canary::{CANARY_LENGTH, CANARY_PREFIX, Key};
pub use self::coverage::{Boundary, BoundaryFigures, Coverage, upper_bound};
pub use self::scan::{Depth, Form, Found, Sighting, Tier};
pub use self::scanner::{Delivery, Scanner};
pub use self::secrets::{SecretRefused, estimated_bits};
pub use self::stream::Window;

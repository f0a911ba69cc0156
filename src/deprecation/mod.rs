//! Legacy calls: how often each line of the application made which, and whose line it was.
//!
//! A call is attributed to a line ([`Walk`]), counted ([`Ledger`]), and written down as a [`Book`], so that what several
//! processes saw can be put together and a removal can be decided on what happened in production.

mod attribution;
mod book;
mod ledger;

pub use attribution::{Folders, Origin, Step, Walk};
pub use book::{Book, BookError, MAX_SYMBOLS, OTHER_SYMBOLS, SiteHits};
pub use ledger::{Ledger, MAX_SITES, MAX_TEXT};

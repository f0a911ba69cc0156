//! What several processes decide together, by a store that they share. The core says what is to be asked, and takes the
//! answers; moving bytes is for others.

pub mod lease;
mod user_key;

pub use self::user_key::user_key;

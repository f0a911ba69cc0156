//! Engine slots, lifetimes and factory metrics.

mod book;

pub use book::{EngineBook, EngineEnd, EngineMetrics, EngineView};

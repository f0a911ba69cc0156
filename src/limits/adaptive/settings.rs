//! Between what the controller moves.

/// What a controller is made with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ControllerSettings {
    /// The limit to begin with. Above 2 lower limits are measured before it grows.
    pub initial: u32,
    /// The lowest limit.
    pub min: u32,
    /// The highest limit.
    pub max: u32,
    /// How many times the latency without a queue is accepted: above 1 and at most 2.
    pub tolerance: f64,
}

impl Default for ControllerSettings {
    fn default() -> Self {
        Self {
            initial: 2,
            min: 1,
            max: 64,
            tolerance: 1.2,
        }
    }
}

/// Settings that no controller can have.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum SettingsError {
    /// The lowest limit is zero.
    #[error("min must be at least 1, got 0: with no call at all nothing can be measured")]
    NoMinimum,
    /// The limits are out of order.
    #[error("initial must be between min and max, got min={min}, initial={initial}, max={max}")]
    OutOfOrder {
        /// The lowest limit.
        min: u32,
        /// The first limit.
        initial: u32,
        /// The highest limit.
        max: u32,
    },
    /// The tolerance is not one.
    #[error(
        "tolerance must be above 1 and at most 2, got {0}: 1.2 accepts a fifth more than the latency without a queue"
    )]
    Tolerance(f64),
}

impl ControllerSettings {
    pub(super) fn check(self) -> Result<Self, SettingsError> {
        let Self { initial, min, max, .. } = self;
        if min == 0 {
            return Err(SettingsError::NoMinimum);
        }
        if initial < min || initial > max {
            return Err(SettingsError::OutOfOrder { min, initial, max });
        }
        if !(self.tolerance > 1.0 && self.tolerance <= 2.0) {
            return Err(SettingsError::Tolerance(self.tolerance));
        }
        Ok(self)
    }
}

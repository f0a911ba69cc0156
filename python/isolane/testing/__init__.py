"""Help for tests."""

from isolane.testing.clock import ManualClock, manual_clock

__all__ = ["ManualClock", "manual_clock"]

"""The host's ``shared.feature_flags``, over ``MigrationFeatureFlags``."""

from __future__ import annotations

from enum import Enum
from typing import Any

from isolane.migration.deprecation import deprecated
from isolane.migration.flags import MigrationFeatureFlags
from isolane.migration.legacy.face import Answer

__all__ = ["ProductionFeatureFlags", "RolloutStage"]

CANARY_PERCENT = 10.0
FULL_PERCENT = 100.0


class RolloutStage(Enum):
    """How far a flag is."""

    OFF = "off"
    INTERNAL = "internal"
    CANARY = "canary"
    STAGED = "staged"
    FULL = "full"


@deprecated("ISO-D012", symbol="ProductionFeatureFlags")
class ProductionFeatureFlags:
    """The flags of the host's name. Answers are there at once, and may be awaited.

    Args:
        flags: decides. Default: none is on.
    """

    def __init__(self, flags: MigrationFeatureFlags | None = None, *_: Any, **__: Any) -> None:
        self.flags = flags if flags is not None else MigrationFeatureFlags()

    def is_enabled_for_user(self, flag_name: str, user_id: str, *_: Any, **__: Any) -> Answer:
        """Return whether a flag is on for a user: the same in every process. Never raises; unknown flags are off."""
        return Answer(self.flags.is_on(flag_name, user_id))

    def get_rollout_stage(self, flag_name: str) -> RolloutStage:
        """Return how far a flag is: ``canary`` to 10 %, ``staged`` below 100 %; ``internal``: only who is listed."""
        status = self.flags.status()
        flag = status["flags"].get(flag_name)
        if flag is None or status["is_killed"] or flag["state"] != "on" or flag["rolled_back"] is not None:
            return RolloutStage.OFF
        percent = flag["rollout_percent"]
        if not percent:
            return RolloutStage.INTERNAL
        if percent >= FULL_PERCENT:
            return RolloutStage.FULL
        return RolloutStage.CANARY if percent <= CANARY_PERCENT else RolloutStage.STAGED

    def emergency_disable_all(self, reason: str = "") -> Answer:
        """Switch all flags off in this process, until ``emergency_enable_all``.

        ``isolane rollout kill`` does it in all processes. Runs that are going on keep what they were given.
        """
        del reason
        self.flags.engine.kill()
        return Answer(yes=True)

    def emergency_enable_all(self) -> Answer:
        """Take ``emergency_disable_all`` back."""
        self.flags.engine.unkill()
        return Answer(yes=True)

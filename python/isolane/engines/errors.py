"""What can go wrong with engines."""

from __future__ import annotations


class ExecutionEngineFactoryError(RuntimeError):
    """An engine could not be made."""


class EngineLimitError(ExecutionEngineFactoryError):
    """No engine slot is free.

    Attributes:
        limit: ``user`` for the user's own limit, ``global`` for the process's.
        retry_after: whole seconds after which it may be worth coming back.
    """

    def __init__(self, message: str, limit: str = "user", retry_after: int = 1) -> None:
        super().__init__(message)
        self.limit = limit
        self.retry_after = retry_after


class EngineDrainingError(ExecutionEngineFactoryError):
    """The factory is shutting down and makes no more engines."""

    limit = "global"
    retry_after = 5


class EngineClosedError(RuntimeError):
    """The engine has ended, so it runs nothing more."""


class RunExpiredError(EngineClosedError):
    """The lifetime of the engine was over before its run had ended, and the run was cancelled.

    Attributes:
        reason: always ``lifetime``.
        retry_after: whole seconds after which it may be worth making the next run.
    """

    reason = "lifetime"
    retry_after = 5


class RunCancelledError(EngineClosedError):
    """The run was cancelled by its user before it had ended."""


class LeaseLost(RunCancelledError):  # noqa: N818 - its name in the contract
    """The run was cancelled because its place in a limit that all workers share was lost; begin another one.

    The worker was cut off, or stood still, for longer than a lease lasts, so another worker may have the place now.

    Attributes:
        reason: always ``lease_lost``.
        limit: the name of the limit, such as ``engines`` or ``permits``.
        retriable: always true.
        retry_after: whole seconds after which it may be worth making the next run.
    """

    reason = "lease_lost"
    retriable = True
    retry_after = 1

    def __init__(self, message: str, limit: str = "engines") -> None:
        super().__init__(message)
        self.limit = limit


class RunRolledBackError(RunCancelledError):
    """The run was cancelled because what it ran on was rolled back; begin another one.

    Attributes:
        reason: always ``rolled_back``.
        retriable: always true: the next run takes the way that was rolled back to.
        retry_after: whole seconds after which it may be worth making the next run.
    """

    reason = "rolled_back"
    retriable = True
    retry_after = 1

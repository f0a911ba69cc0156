"""One SQLite database per user: their uploads, runs, calls and reports, and nobody else's."""

from examples.optimizer.storage.calls import (
    CallTotals,
    RepeatTotals,
    add_calls,
    call_totals,
    forget_calls,
    repeat_totals,
)
from examples.optimizer.storage.databases import UserDatabases
from examples.optimizer.storage.places import keep_run_place, keep_socket_place, run_place, socket_place
from examples.optimizer.storage.records import Report, Run, Upload, save_report
from examples.optimizer.storage.whole import done_whole, whole

__all__ = [
    "CallTotals",
    "RepeatTotals",
    "Report",
    "Run",
    "Upload",
    "UserDatabases",
    "add_calls",
    "call_totals",
    "done_whole",
    "forget_calls",
    "keep_run_place",
    "keep_socket_place",
    "repeat_totals",
    "run_place",
    "save_report",
    "socket_place",
    "whole",
]

"""Usage logs: bytes of CSV or JSON lines in, typed rows or an error that names line and column out."""

from examples.optimizer.parsing.columns import REQUIRED, Role
from examples.optimizer.parsing.errors import LogError
from examples.optimizer.parsing.layout import LogLayout, inspect_log
from examples.optimizer.parsing.rows import LogRows, RowBatch, UsageRow

__all__ = ["REQUIRED", "LogError", "LogLayout", "LogRows", "Role", "RowBatch", "UsageRow", "inspect_log"]

"""Errors of the audit log."""

from __future__ import annotations


class AuditLogError(RuntimeError):
    """The audit log could not be opened, written or read: its disk, its lock, or a file that was moved away."""


class AuditTamperError(AuditLogError):
    """What is stored is not what was signed. The log takes no more records in this chain.

    Attributes:
        chain: the number of the chain, from 1.
        seq: the first record that is not as it was written.
    """

    def __init__(self, message: str, chain: int = 1, seq: int = 0) -> None:
        super().__init__(message)
        self.chain = chain
        self.seq = seq


class AuditKeyError(AuditLogError):
    """The key of keys does not open the keystore, cannot be had, or others can read it."""

"""Errors of the sanitizer."""

from __future__ import annotations

from isolane.security.sanitizer.records import Finding


class SanitizeBlockedError(ValueError):
    """A value has something that must not pass the boundary, whose mode is ``block``.

    Attributes:
        boundary: which one.
        findings: what was found. They say where and of what kind, and not what.
    """

    def __init__(self, boundary: str, findings: tuple[Finding, ...]) -> None:
        blocked = [finding for finding in findings if finding.action == "block"]
        kinds = ", ".join(sorted({finding.kind for finding in blocked}))
        super().__init__(
            f"the value has {kinds} and must not pass the boundary {boundary!r}, first at {blocked[0].path}; take it "
            "out, or set the boundary's mode to mask"
        )
        self.boundary = boundary
        self.findings = findings


class FieldDecryptionError(ValueError):
    """An encrypted field does not open: it is of another user, field or key, or it was changed.

    Attributes:
        path: the field.
    """

    def __init__(self, path: str) -> None:
        super().__init__(
            f"the encrypted field {path} does not open with the user's key: it was encrypted for another user or field "
            "or with another key, or it was changed. Pass the user's data with the names and the key that it had"
        )
        self.path = path

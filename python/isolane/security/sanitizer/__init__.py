"""Secrets and personal data: found, masked, encrypted, or refused, at each boundary."""

from __future__ import annotations

from isolane._core import SanitizeLimitError
from isolane.security.sanitizer.data import DataSanitizer
from isolane.security.sanitizer.errors import FieldDecryptionError, SanitizeBlockedError
from isolane.security.sanitizer.records import Detector, Finding, Modes, References, Sanitized
from isolane.security.sanitizer.stream import StreamSanitizer

__all__ = [
    "DataSanitizer",
    "Detector",
    "FieldDecryptionError",
    "Finding",
    "Modes",
    "References",
    "SanitizeBlockedError",
    "SanitizeLimitError",
    "Sanitized",
    "StreamSanitizer",
]

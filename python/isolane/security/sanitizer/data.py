"""``DataSanitizer``: looks through values at the boundaries of an application."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, cast, get_args

from isolane._core import SanitizeLimitError, SanitizerCore
from isolane.security.sanitizer.errors import SanitizeBlockedError
from isolane.security.sanitizer.fields import FieldCipher, KeyOfUser
from isolane.security.sanitizer.records import Boundary, Detector, Finding, Mode, Modes, References, Sanitized
from isolane.security.sanitizer.stream import StreamSanitizer

_DEFAULTS: dict[str, tuple[Modes, bool]] = {
    name: (Modes(cast("Mode", secret), cast("Mode", personal)), replaces)
    for name, secret, personal, replaces in SanitizerCore.default_modes()
}
TOO_LARGE = {"_sanitized": "limit"}
"""What stands in a log for a value that was too large to be looked through."""
MAX_DETECTORS = 32


class DataSanitizer:
    """Finds secrets and personal data in values, and reports, masks or refuses them, by boundary.

    A value is a text or what JSON can hold, and is looked through once, keys included. It keeps its structure: the same
    keys in the same order, and the same types. What is masked looks like ``[EMAIL:7f3a]``. The digits are a keyed hash,
    by which one sees whether two masks of one user stand for the same; those of two users say nothing about each other.
    Masking what is masked changes nothing.

    Args:
        modes: what is done at a boundary, where it is not the default: a mode for all findings, or ``Modes``.
        kinds: what is looked for; by default everything but ``PHONE`` and ``IP``.
        key: at least 16 bytes of which the keys of the masks are made. By default the process draws its own, and masks
            of two processes cannot be compared.
        field_key: gives a user's key of 32 bytes for ``encrypt_sensitive_fields``.
        references: knows what belongs to other users, for ``remove_cross_user_references``; a
            ``ContaminationDetector`` does.

    Raises:
        ValueError: a boundary, a mode or a kind that does not exist, or a key that is too short.
        TypeError: ``references`` has no ``foreign_spans``.
    """

    def __init__(
        self,
        *,
        modes: Mapping[str, Mode | Modes] | None = None,
        kinds: Collection[str] | None = None,
        key: bytes | None = None,
        field_key: KeyOfUser | None = None,
        references: References | None = None,
    ) -> None:
        self._core = SanitizerCore(key, None if kinds is None else list(kinds))
        # Looks for nothing itself: what belongs to others is told by `references` alone.
        self._bare = SanitizerCore(key, [])
        self._modes = {name: default for name, (default, _) in _DEFAULTS.items()}
        for boundary, mode in (modes or {}).items():
            self._check_boundary(boundary)
            chosen = mode if isinstance(mode, Modes) else Modes(mode, mode)
            for each in (chosen.secret, chosen.personal):
                if each not in get_args(Mode):
                    raise ValueError(f"{each!r} is no mode; use off, detect, mask or block")
            self._modes[boundary] = chosen
        self._detectors: list[Detector] = []
        self._cipher = FieldCipher(self._core, field_key)
        if references is not None and not isinstance(references, References):
            raise TypeError(f"references needs foreign_spans(text, user_id), got {type(references).__name__}")
        self._references = references

    @property
    def modes(self) -> dict[str, Modes]:
        """What is done at each boundary: a copy."""
        return dict(self._modes)

    @staticmethod
    def kinds() -> tuple[str, ...]:
        """Return the names of all kinds that can be looked for."""
        return tuple(name for name, _, _ in SanitizerCore.kind_names())

    @staticmethod
    def _check_boundary(boundary: str) -> None:
        if boundary not in _DEFAULTS:
            raise ValueError(f"{boundary!r} is no boundary; use one of {', '.join(_DEFAULTS)}")

    def register_detector(self, detector: Detector) -> None:
        """Ask one more detector about each text, at every boundary.

        It is called with the text and returns ``(kind, start, end)`` of what it found, in characters; a kind is named
        in capital letters, as ``PERSON``. What it finds is personal. What it raises is raised by ``sanitize``.

        Raises:
            ValueError: 32 are registered.
        """
        if len(self._detectors) >= MAX_DETECTORS:
            raise ValueError(f"{MAX_DETECTORS} detectors are registered; put several into one")
        self._detectors.append(detector)

    def sanitize(self, value: Any, *, boundary: Boundary = "input", context: Any = None) -> Sanitized:
        """Look through a value at a boundary.

        Args:
            value: a text, or what JSON can hold. Datetimes, UUIDs, decimals and enums stay as they are; dataclasses and
                models of pydantic become dictionaries if anything is masked in them.
            boundary: where the value passes.
            context: whose value it is: a context, a user's id, or nobody.

        Raises:
            SanitizeBlockedError: something was found whose mode is ``block``.
            SanitizeLimitError: the value is nested deeper than 64 levels or has more than 1 MiB of text and parts. At
                the boundaries ``log`` and ``audit`` the value becomes ``{"_sanitized": "limit"}`` instead.
            TypeError: an object in it has no form that could be looked through.
        """
        if boundary not in self._modes:
            self._check_boundary(boundary)
        modes = self._modes[boundary]
        user_id = context if isinstance(context, str) else _user_of(context)
        try:
            shown, records = self._core.walk(value, user_id, modes.secret, modes.personal, self._detectors)
        except SanitizeLimitError:
            if not _DEFAULTS[boundary][1]:
                raise
            return Sanitized(dict(TOO_LARGE), ())
        if not records:
            # As `Sanitized(shown, ())`, without the function in Python that this calls: nearly nothing has findings.
            return tuple.__new__(Sanitized, (shown, ()))
        return Sanitized(shown, _checked(boundary, records))

    def _walk(self, value: Any, user_id: str, modes: Modes, boundary: str) -> Sanitized:
        shown, records = self._core.walk(value, user_id, modes.secret, modes.personal, self._detectors)
        return Sanitized(shown, _checked(boundary, records))

    def sanitize_input_data(self, data: Any, context: Any) -> Any:
        """Look through what a user sends, by the modes of the boundary ``input``. Returns the value."""
        return self.sanitize(data, boundary="input", context=context).value

    def sanitize_output_data(self, data: Any, target_user: str) -> Any:
        """Look through what a user is sent, by the modes of ``ws_event``, without what belongs to other users.

        The latter is taken out if the sanitizer has ``references``.
        """
        if self._references is not None:
            data = self.remove_cross_user_references(data, target_user)
        return self.sanitize(data, boundary="ws_event", context=target_user).value

    def mask_pii_data(self, data: Any, user_id: Any = None) -> Any:
        """Mask all secrets and personal data of a value, whatever the modes say. Returns the value."""
        return self._walk(data, _user_of(user_id), Modes("mask", "mask"), "log").value

    def remove_cross_user_references(self, data: Any, user_id: str) -> Any:
        """Mask what belongs to other users than this one, as ``[FOREIGN:7f3a]``.

        It is known by owner tags and canaries, through the ``references`` of the sanitizer, such as a
        ``ContaminationDetector``; nothing is guessed. An object of isolane's that is another user's is replaced as a
        whole, and the user's own stays as it is.

        Raises:
            RuntimeError: the sanitizer was made without ``references``.
        """
        return self._foreign(data, user_id, "mask").value

    def validate_data_boundaries(self, data: Any, user_id: str) -> bool:
        """Answer whether a value may be handed to a user.

        It may if it is small enough to be looked through, passes the modes of ``ws_event``, and has nothing of another
        user's, as far as the sanitizer has ``references``.
        """
        try:
            self._walk(data, user_id, self._modes["ws_event"], "ws_event")
            return self._references is None or not self._foreign(data, user_id, "detect").findings
        except (SanitizeBlockedError, SanitizeLimitError, TypeError):
            return False

    def _foreign(self, data: Any, user_id: str, mode: Mode) -> Sanitized:
        references = self._references
        if references is None:
            raise RuntimeError(
                "the sanitizer does not know what belongs to whom: make it with DataSanitizer(references=…)"
            )

        def foreign(text: str) -> list[tuple[str, int, int]]:
            return [("FOREIGN", start, end) for start, end in references.foreign_spans(text, user_id)]

        shown, records = self._bare.walk(data, user_id, "off", mode, [foreign], owners=True)
        return Sanitized(shown, tuple(Finding(*record) for record in records))

    def encrypt_sensitive_fields(self, data: Any, user_id: Any, *, fields: Collection[str] | None = None) -> Any:
        """Encrypt the marked fields of a value with the user's key. Returns a copy.

        A field becomes a text, ``isl1:`` and base64: XChaCha20-Poly1305 with a random nonce, bound to the user and to
        the field's path without the numbers of lists, so that it opens for the same user in the same field alone. What
        is encrypted already is left alone.

        Args:
            data: dictionaries and lists.
            user_id: whose it is: an id, or a context.
            fields: the paths of what is encrypted, as ``user.iban`` or ``rows[].note``. By default every value whose
                key's name says that it is secret, such as ``api_key``.

        Raises:
            RuntimeError: the sanitizer was made without ``field_key``.
            SanitizeLimitError: the value is nested deeper than 64 levels.
            TypeError: a marked field cannot be written as JSON.
        """
        return self._cipher.encrypt(data, _user_of(user_id), fields)

    def decrypt_sensitive_fields(self, data: Any, user_id: Any) -> Any:
        """Open what ``encrypt_sensitive_fields`` has encrypted for this user. Returns a copy.

        Raises:
            FieldDecryptionError: a field does not open.
        """
        return self._cipher.decrypt(data, _user_of(user_id))

    def stream(self, context: Any = None) -> StreamSanitizer:
        """Return a sanitizer of one text that comes in pieces. It masks all that is looked for, without detectors."""
        return StreamSanitizer(self._core, _user_of(context))

    def __repr__(self) -> str:
        return f"<DataSanitizer {len(self._detectors)} detectors>"


def _checked(boundary: str, records: list[tuple[str, str, int, int, str]]) -> tuple[Finding, ...]:
    """Return the findings of a walk. Raises ``SanitizeBlockedError`` if any of them must not pass."""
    findings = tuple(map(Finding._make, records))
    if any(finding.action == "block" for finding in findings):
        raise SanitizeBlockedError(boundary, findings)
    return findings


def _user_of(context: Any) -> str:
    if context is None:
        return ""
    return context if isinstance(context, str) else cast("str", context.user_id)

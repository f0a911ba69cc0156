"""``@deprecated``: the call is counted when it is made, and a coroutine function stays one."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any, TypeVar, cast

from isolane.migration.deprecation.calls import deprecated_call
from isolane.migration.deprecation.codes import CODES

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

_SUSPENDING = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR


class _Function:
    """A function whose body runs later than its call, such as a coroutine function.

    A plain wrapper would not be a coroutine function, and an ``async`` one would see the event loop as its caller. This
    has the code flags of what it wraps, by which `inspect` and `asyncio` know it on every version.
    """

    def __init__(self, function: FunctionType, tell: Callable[[], None]) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._tell = tell
        self.__code__ = function.__code__
        self.__defaults__ = function.__defaults__
        self.__kwdefaults__ = function.__kwdefaults__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._tell()
        return self._function(*args, **kwargs)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else MethodType(self, instance)

    def __repr__(self) -> str:
        return f"<deprecated {self._function!r}>"


class _SignatureOfInit:
    """The signature of a class and of those below it: that of ``__init__``, which `__new__` would hide."""

    def __get__(self, instance: object, owner: type) -> inspect.Signature:
        if instance is not None:
            raise AttributeError("__signature__")
        signature = inspect.signature(owner.__init__)  # type: ignore[misc] # it is read, not called
        return signature.replace(parameters=list(signature.parameters.values())[1:])


def _deprecated_class(cls: Any, tell: Callable[[], None]) -> Any:
    """The class tells when one is made, of it or of a class below it. ``__new__`` is called from where that is."""
    original = cls.__new__
    is_default = original is object.__new__

    @functools.wraps(original)
    def __new__(made: type, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
        tell()
        # object.__new__ takes the arguments of __init__ only where no class defines __new__.
        return original(made) if is_default else original(made, *args, **kwargs)

    cls.__new__ = staticmethod(__new__)
    if is_default and cls.__init__ is not object.__init__ and "__signature__" not in vars(cls):
        cls.__signature__ = _SignatureOfInit()
    return cls


def deprecated(code: str, instead: str = "", *, symbol: str | None = None) -> Callable[[Decorated], Decorated]:
    """Makes calls of a function or coroutine function, or instances of a class, legacy calls.

    The call counts when it is made: of a coroutine function before its first step, so that the line which called it is
    known also when it runs as a task. `__deprecated__` is set, as :pep:`702` says.

    Args:
        code: A code of the table, such as ``ISO-D003``.
        instead: What takes its place; by default what the table says.
        symbol: The name to count under; by default the qualified name.

    Raises:
        KeyError: The code is not in the table.
    """
    instead = instead or CODES[code].instead

    def decorate(decorated: Decorated) -> Decorated:
        name = symbol or decorated.__qualname__

        def tell() -> None:
            deprecated_call(name, code, instead)

        wrapped: Any
        if isinstance(decorated, type):
            wrapped = _deprecated_class(decorated, tell)
        elif isinstance(decorated, FunctionType) and decorated.__code__.co_flags & _SUSPENDING:
            wrapped = _Function(decorated, tell)
        else:

            @functools.wraps(decorated)
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                tell()
                return decorated(*args, **kwargs)

            wrapped = wrapper
        wrapped.__deprecated__ = f"removed in isolane 2; instead: {instead} [{code}]"
        return cast("Decorated", wrapped)

    return decorate

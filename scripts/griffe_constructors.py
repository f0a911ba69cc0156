"""For the site: show the constructor of a native class, which its stub calls ``__new__``, as any other class's."""

from __future__ import annotations

from typing import Any

import griffe


class Constructors(griffe.Extension):
    """Rename ``__new__`` to ``__init__`` where a class has only the former."""

    def on_class(self, *, cls: griffe.Class, **_kwargs: Any) -> None:
        if "__new__" in cls.members and "__init__" not in cls.members:
            constructor = cls.members.pop("__new__")
            constructor.name = "__init__"
            cls.members["__init__"] = constructor

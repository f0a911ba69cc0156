"""What nobody changes, or what is an instance's own."""

from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar

from app.engine import ExecutionEngine as Imported
from pydantic import BaseModel


class Engine:
    table = {"a": 1}
    names: ClassVar[list] = ["a"]
    registry = {}
    own = []
    __slots__ = ["x"]

    def __init__(self):
        self.own = []
        self.local = []

    @classmethod
    def register(cls, name):
        cls.registry[name] = cls

    def add(self, x):
        self.own.append(x)
        self.local.append(self.table["a"])
        names = []
        names.append(self.names.copy())


class Model(BaseModel):
    tags: list = []

    def tag(self, one):
        self.tags.append(one)


@dataclass
class Data:
    many: list = field(default_factory=list)

    def add(self, one):
        self.many.append(one)


class Kind(Enum):
    A = []

    def add(self, one):
        self.A.append(one)


def make():
    return Imported()

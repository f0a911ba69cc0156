"""What all tests share: whether the long checks were asked for."""

from __future__ import annotations


def pytest_addoption(parser) -> None:
    parser.addoption("--prove", action="store_true", help="run the long checks")
    parser.addoption("--short", action="store_true", help="run a short form of them")

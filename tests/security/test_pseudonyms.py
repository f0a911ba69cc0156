"""Pseudonyms: the same for the same user, another with another key, and never the id."""

import re

import pytest
from isolane import SecurityMonitor
from isolane.security.pseudonyms import pseudonym, set_pseudonym_key


@pytest.fixture(autouse=True)
def a_key_of_its_own():
    yield
    set_pseudonym_key(None)


def test_a_user_is_called_the_same_everywhere_and_two_are_not():
    assert re.fullmatch("[0-9a-f]{12}", pseudonym("ann-01"))
    assert pseudonym("ann-01") == pseudonym("ann-01") == SecurityMonitor().pseudonym("ann-01")
    assert pseudonym("ann-01") != pseudonym("bob-02")
    assert pseudonym("\ud800")


def test_processes_with_one_key_call_a_user_the_same():
    before = pseudonym("ann-01")
    set_pseudonym_key(b"k" * 16)
    mine = pseudonym("ann-01")
    set_pseudonym_key(None)
    assert len({before, mine, pseudonym("ann-01")}) == 3
    set_pseudonym_key(b"k" * 16)
    assert pseudonym("ann-01") == mine


@pytest.mark.parametrize(("key", "error"), [("text", TypeError), (b"short", ValueError), (b"k" * 33, ValueError)])
def test_a_key_that_is_none_is_refused(key, error):
    with pytest.raises(error, match="key of pseudonyms"):
        set_pseudonym_key(key)

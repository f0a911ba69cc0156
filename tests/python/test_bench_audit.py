"""The benchmark of the audit log: its events have the size that it says, and its peers do the work that it says."""

from __future__ import annotations

import hashlib
import json
import os

import pytest

from benches.audit import __main__ as command
from benches.audit.peers import FileHandler, HashChain, SealedHashChain
from tests.support.audit_programs import opened


def test_the_bodies_have_300_bytes(tmp_path):
    made = command.events()
    log = opened(tmp_path / "log", checkpoint_seconds=3_600)
    for event in made:
        log.record(event)
    log.close()
    (segment,) = (tmp_path / "log").rglob("*.seg")
    stored = segment.read_bytes()
    lengths = []
    at = 65  # the head of a first segment
    while at < len(stored):
        length = 4 + int.from_bytes(stored[at : at + 4], "big")
        lengths.append(length)
        at += length
    assert lengths[1:] == [command.FRAME] * command.USERS


def test_the_peers_write_every_event(tmp_path):
    made = command.events()
    for peer in (FileHandler(tmp_path), HashChain(tmp_path)):
        for event in made:
            peer.record(event)
        peer.close()
    lines = [json.loads(line) for line in (tmp_path / "lines.log").read_text().splitlines()]
    assert [line["user_id"] for line in lines] == [event.user_id for event in made]
    before = bytes(32)
    for line in (tmp_path / "chain.log").read_bytes().splitlines():
        content, _, digest = line.rpartition(b" ")
        before = hashlib.sha256(before + content).digest()
        assert digest.decode() == before.hex()


def test_the_sealed_peer_seals(tmp_path):
    if os.environ.get("ISOLANE_REQUIRE_ALL") != "1":
        pytest.importorskip("cryptography")
    peer = SealedHashChain(tmp_path)
    peer.record(command.events()[0])
    peer.close()
    stored = (tmp_path / "chain.log").read_bytes()
    assert b"user-000" not in stored
    length = int.from_bytes(stored[:4], "big")
    sealed = stored[4 : 4 + length]
    assert json.loads(peer.cipher.decrypt(sealed[:12], sealed[12:], None))["user_id"] == "user-000"


def test_a_percentile_is_by_rank():
    assert [command.percentile([3.0, 1.0, 2.0], share) for share in (0.0, 0.5, 0.99)] == [1.0, 2.0, 3.0]

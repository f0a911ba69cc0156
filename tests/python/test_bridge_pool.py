"""The sockets of a user as a pool."""

from __future__ import annotations

import gc
import weakref

import pytest
from isolane import ConnectionPool, WebSocketBridgeFactory, WebSocketConfig
from isolane._core import EventCursor, close_connection, user_connections
from isolane.testing import manual_clock


@pytest.fixture
def pool(alice) -> ConnectionPool:
    return WebSocketBridgeFactory().connection_pool(alice)


def names(sockets) -> list[str]:
    return [socket.connection_id for socket in sockets]


def test_a_pool_shows_the_sockets_of_its_user_only(pool, alice, bob):
    assert (pool.active_connections, pool.last_used, pool.is_healthy()) == ([], None, True)
    with manual_clock() as clock:
        framed = EventCursor(alice)
        clock.advance(1)
        bare, foreign = EventCursor(alice, framed=False), EventCursor(bob)
        clock.advance(2)
        bare.read()
        assert names(pool.active_connections) == [framed.connection_id, bare.connection_id]
        assert [socket.framed for socket in pool.active_connections] == [True, False]
        seconds = [(socket.attached_seconds, socket.read_seconds) for socket in pool.active_connections]
        assert seconds == [(3.0, 3.0), (2.0, 0.0)]
        assert pool.last_used is not None
        framed.close(4008)
        assert names(pool.active_connections) == [bare.connection_id], "one that is about to close is no more"
    bare.detach()
    assert pool.active_connections == []
    assert user_connections(bob)[0]["connection_id"] == foreign.connection_id


def test_a_socket_is_handed_out_once_until_it_is_returned(pool, alice):
    with pytest.raises(LookupError, match="no socket that is free"):
        pool.get_connection()
    with manual_clock() as clock:
        first = EventCursor(alice)
        clock.advance(1)
        second = EventCursor(alice)
        got = pool.get_connection()
        assert got.connection_id == second.connection_id, "the one that was read last"
        assert names(pool.available_connections) == [first.connection_id]
        assert pool.get_connection().connection_id == first.connection_id
        with pytest.raises(LookupError):
            pool.get_connection()
        pool.return_connection(got)
        pool.return_connection(got)
        assert names(pool.available_connections) == [second.connection_id]
        first.detach()
        assert (pool.stats.active, pool.stats.available) == (1, 1)


def test_a_pool_is_the_same_as_long_as_it_is_held(alice, bob):
    bridge = WebSocketBridgeFactory(WebSocketConfig(max_connections=2))
    pool = bridge.connection_pool(alice)
    assert bridge.connection_pool(alice) is pool
    assert bridge.connection_pool(bob) is not pool
    assert pool.max_connections == pool.stats.max_connections == 2
    gone = weakref.ref(pool)
    del pool
    gc.collect()
    assert gone() is None


def test_an_accepted_socket_is_attached_and_beyond_the_bound_replaces_another(alice):
    pool = WebSocketBridgeFactory(WebSocketConfig(max_connections=2)).connection_pool(alice)
    with manual_clock() as clock:
        cursors = []
        for _ in range(3):
            cursors.append(pool.create_new_connection())
            clock.advance(1)
    assert [cursor.close_code for cursor in cursors] == [4504, None, None]
    assert names(pool.active_connections) == [cursor.connection_id for cursor in cursors[1:]]


def test_sockets_that_are_gone_are_closed_and_quiet_ones_are_not(alice, new_context):
    emitter = new_context(alice).get_websocket_emitter()
    with manual_clock() as clock:
        bridge = WebSocketBridgeFactory(WebSocketConfig(max_connections=4))
        pool = bridge.connection_pool(alice)
        silent, quiet, stuck = [pool.create_new_connection(framed=framed) for framed in (True, True, False)]
        idle = pool.create_new_connection(framed=False)
        for cursor in (silent, quiet):
            cursor.ping()
            cursor.read()
        quiet.handle('{"t":"pong"}')
        stuck.subscribe(emitter.run_id)
        emitter.publish("mine")
        assert [socket.unread for socket in pool.active_connections] == [0, 0, 1, 0]
        assert pool.stats.unread == 1
        assert pool.stats.unanswered == 1
        clock.advance(59)
        assert pool.cleanup_idle_connections() == 0
        clock.advance(2)
        assert pool.cleanup_idle_connections() == 2
    assert [cursor.close_code for cursor in (silent, quiet, stuck, idle)] == [4012, None, 4008, None]


def test_a_pool_is_unhealthy_when_no_socket_answers(pool, alice):
    with manual_clock() as clock:
        one, two = EventCursor(alice), EventCursor(alice)
        one.ping()
        clock.advance(11)
        assert pool.is_healthy(), "the other one may be there"
        two.ping()
        clock.advance(11)
        assert not pool.is_healthy()
        asked = [socket.asked_seconds for socket in pool.active_connections]
        assert asked == [22.0, 11.0]
        one.ping()
        assert pool.active_connections[0].asked_seconds == 22.0, "it owes the first answer still"
        one.handle('{"t":"pong"}')
        assert pool.is_healthy()


def test_a_socket_is_closed_by_its_own_user_only(pool, alice, bob):
    cursor, foreign = EventCursor(alice), EventCursor(bob)
    (socket,) = pool.active_connections
    assert not close_connection(bob, socket.connection_id, 4008)
    assert not close_connection("nobody-of-tests", socket.connection_id, 4008)
    assert (cursor.close_code, foreign.close_code) == (None, None)
    assert socket.close(4001)
    assert cursor.close_code == 4001
    assert not socket.close()
    assert cursor.close_code == 4001

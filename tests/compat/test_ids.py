"""The host's ids: its names, no collisions, and nobody's thread shared."""

import re
import threading

import isolane
import pytest
from isolane.compat import unified_id_generator
from isolane.compat.unified_id_generator import UnifiedIdGenerator
from isolane.compat.unified_id_manager import IDType, UnifiedIDManager
from isolane.testing import manual_clock


@pytest.fixture(autouse=True)
def no_sessions():
    yield
    unified_id_generator._sessions.clear()


class TestManager:
    def test_what_isolane_makes_and_reads_is_the_same(self):
        for name in ("generate_run_id", "generate_thread_id", "extract_thread_id", "validate_run_id"):
            assert getattr(UnifiedIDManager, name) is getattr(isolane.UnifiedIDManager, name)
            assert callable(getattr(UnifiedIDManager(), name))

    @pytest.mark.parametrize("thread", ["thread_7", "session_12345_abcdef12", "a_b_c_d"])
    def test_a_run_id_is_taken_apart(self, thread):
        run = UnifiedIDManager.generate_run_id(thread)
        parsed = UnifiedIDManager.parse_run_id(run)
        assert parsed.keys() == {"thread_id", "timestamp", "uuid_part", "valid"}
        assert (parsed["thread_id"], parsed["valid"]) == (thread, True)
        assert run == f"run_{thread}_{parsed['uuid_part']}"
        assert len(parsed["timestamp"]) == 13

    def test_a_run_id_of_the_host_is_taken_apart(self):
        assert UnifiedIDManager.parse_run_id("run_session_12345_abcdef12_54321_0badcafe") == {
            "thread_id": "session_12345_abcdef12",
            "timestamp": "54321",
            "uuid_part": "0badcafe",
            "valid": True,
        }

    @pytest.mark.parametrize("value", ["run-7", "", "thread_7_0badcafe", "run_"])
    def test_what_is_no_run_id_is_its_own_thread(self, value):
        assert UnifiedIDManager.parse_run_id(value) == {
            "thread_id": value,
            "timestamp": "",
            "uuid_part": "",
            "valid": False,
        }

    def test_ids_by_type(self):
        manager = UnifiedIDManager()
        assert re.fullmatch(r"agent_[0-9a-f]{32}", manager.generate_id(IDType.AGENT))
        assert re.fullmatch(r"svc_tool_[0-9a-f]{32}", manager.generate_id(IDType.TOOL, "svc"))
        assert all(manager.is_valid_id_format(manager.generate_id(kind)) for kind in IDType)
        with pytest.raises(TypeError, match="allowed: USER"):
            manager.generate_id("agent")


class TestGenerator:
    def test_no_two_ids_are_equal_over_threads_and_users(self):
        made = []

        def make():
            mine = []
            for number in range(500):
                mine += UnifiedIdGenerator.generate_user_context_ids(f"user-{number}", "chat")
                mine.append(UnifiedIdGenerator.generate_base_id("x", include_random=False, random_length=1))
            made.extend(mine)

        threads = [threading.Thread(target=make) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(made)) == len(made) == 4 * 500 * 4

    def test_the_ids_of_a_context_make_one(self):
        thread, run, request = UnifiedIdGenerator.generate_user_context_ids("ann@example.com", "chat")
        context = isolane.UserExecutionContext("ann@example.com", thread, run, request)
        assert UnifiedIDManager.extract_thread_id(context.run_id) == thread
        assert (thread[:12], run[:16], request[:9]) == ("thread_chat_", "run_thread_chat_", "req_chat_")

    def test_a_user_that_no_context_takes_is_refused_at_the_door(self):
        with pytest.raises(isolane.InvalidContextError):
            UnifiedIdGenerator.generate_user_context_ids("default")
        for user in ("", "  ", None, 7):
            with pytest.raises(ValueError, match="user_id must be a non-empty string"):
                UnifiedIdGenerator.generate_user_context_ids(user)
        with pytest.raises(ValueError, match="operation must be a non-empty string"):
            UnifiedIdGenerator.generate_user_context_ids("ann", " ")

    def test_sockets(self):
        assert re.fullmatch(
            r"ws_client_ann-leei_[0-9a-f]{32}", UnifiedIdGenerator.generate_websocket_client_id("ann-leeinhouse")
        )
        assert re.fullmatch(r"ws_conn_ann_[0-9a-f]{32}", UnifiedIdGenerator.generate_websocket_connection_id("ann"))

    def test_ids_are_taken_apart(self):
        made = UnifiedIdGenerator.generate_base_id("user_request")
        parsed = UnifiedIdGenerator.parse_id(made)
        assert parsed["prefix"] == "user_request"
        assert made == f"user_request_{parsed['random']}"
        assert parsed["timestamp"] > 1_700_000_000_000
        assert UnifiedIdGenerator.parse_id("x_1_0badcafe") == {"prefix": "x_1", "timestamp": None, "random": "0badcafe"}
        for value in ("", "x", "x_1", "_0badcafe", "x_0BADCAFE"):
            assert UnifiedIdGenerator.parse_id(value) is None
            assert not UnifiedIdGenerator.is_valid_id(value)
        assert UnifiedIdGenerator.is_valid_id(made, "user_request")
        assert UnifiedIdGenerator.is_valid_id(made, "user")
        assert not UnifiedIdGenerator.is_valid_id(made, "use")
        assert not UnifiedIdGenerator.is_valid_id(None)


class TestSessions:
    def test_the_same_thread_of_a_user_has_the_same_run(self):
        first = UnifiedIdGenerator.get_or_create_user_session("ann", "general")
        again = UnifiedIdGenerator.get_or_create_user_session("ann", "general")
        assert first.keys() == {"user_id", "thread_id", "run_id", "request_id"}
        assert (first["thread_id"], first["run_id"]) == (again["thread_id"], again["run_id"])
        assert first["request_id"] != again["request_id"]
        assert UnifiedIDManager.extract_thread_id(first["run_id"]) == "general"

    def test_two_users_who_name_a_thread_alike_do_not_share_it(self):
        ann = UnifiedIdGenerator.get_or_create_user_session("ann", "general")
        bob = UnifiedIdGenerator.get_or_create_user_session("bob", "general")
        assert ann["run_id"] != bob["run_id"]
        # A key that is glued together from both would be the same for these.
        assert (
            UnifiedIdGenerator.get_or_create_user_session("ann:x", "y")["run_id"]
            != UnifiedIdGenerator.get_or_create_user_session("ann", "x:y")["run_id"]
        )

    def test_a_run_that_is_given_is_kept(self):
        UnifiedIdGenerator.get_or_create_user_session("ann", "general", "run-of-mine")
        assert UnifiedIdGenerator.get_or_create_user_session("ann", "general")["run_id"] == "run-of-mine"

    def test_without_a_thread_a_new_one_begins(self):
        first, second = (UnifiedIdGenerator.get_or_create_user_session("ann") for _ in range(2))
        assert first["thread_id"] != second["thread_id"]
        assert UnifiedIDManager.extract_thread_id(first["run_id"]) == first["thread_id"]
        assert UnifiedIdGenerator.get_or_create_user_session("ann", first["thread_id"])["run_id"] == first["run_id"]

    def test_sessions_end_and_have_a_bound(self, monkeypatch):
        with manual_clock() as clock:
            first = UnifiedIdGenerator.get_or_create_user_session("ann", "general")
            clock.advance(unified_id_generator.SESSION_SECONDS + 1)
            assert UnifiedIdGenerator.get_or_create_user_session("ann", "general")["run_id"] != first["run_id"]
        monkeypatch.setattr(unified_id_generator, "MAX_SESSIONS", 3)
        for number in range(10):
            UnifiedIdGenerator.get_or_create_user_session("ann", f"thread-{number}")
        assert len(unified_id_generator._sessions) == 3

"""Ids: generation, and what is refused at the door."""

import subprocess
import sys
import textwrap
import threading
import uuid

import isolane
import pytest
from hypothesis import given
from hypothesis import strategies as st
from isolane import InvalidContextError, PlaceholderPolicy, UnifiedIDManager, UserExecutionContext

FIELDS = ("user_id", "thread_id", "run_id", "request_id")
EXACT = [
    "registry",
    "placeholder",
    "default",
    "temp",
    "none",
    "null",
    "undefined",
    "0",
    "1",
    "xxx",
    "yyy",
    "example",
    "test",
    "demo",
    "sample",
    "template",
    "mock",
    "fake",
    "dummy",
]
PREFIXES = [
    "placeholder_",
    "registry_",
    "default_",
    "temp_",
    "example_",
    "demo_",
    "sample_",
    "template_",
    "mock_",
    "fake_",
    "test_",
]


def build(field: str, value: object) -> UserExecutionContext:
    ids: dict = {"user_id": "user-7", "thread_id": "thread-7", "run_id": "run-7", "request_id": "req-7"}
    return UserExecutionContext(**{**ids, field: value})


def test_generated_ids_of_several_threads_are_unique_and_in_order_within_a_thread():
    made: list[list[str]] = []

    def make() -> None:
        made.append([UnifiedIDManager.generate_request_id() for _ in range(2_000)])

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one for ids in made for one in ids}) == 8_000
    assert all(ids == sorted(ids) for ids in made)


RANDOM_PARTS = """
import os
from isolane import UnifiedIDManager

def random_part():
    # The clock and the counter come before it, and differ anyhow.
    return UnifiedIDManager.generate_request_id()[-16:]

random_part()
read, write = os.pipe()
if os.fork() == 0:
    os.write(write, random_part().encode())
    os._exit(0)
assert os.read(read, 16).decode() != random_part()
"""


def test_a_child_process_draws_random_bytes_of_its_own():
    subprocess.run([sys.executable, "-c", textwrap.dedent(RANDOM_PARTS)], check=True, timeout=60)


def test_each_generated_id_says_what_it_names_and_ends_in_a_uuid_of_version_7():
    made = {
        "run_": UnifiedIDManager.generate_run_id("t"),
        "req_": UnifiedIDManager.generate_request_id(),
        "thread_": UnifiedIDManager.generate_thread_id(),
        "ws_": UnifiedIDManager.generate_websocket_client_id(),
    }
    for prefix, value in made.items():
        assert value.startswith(prefix)
        assert uuid.UUID(value.rsplit("_", 1)[1]).version == 7
        assert UnifiedIDManager.is_valid_id_format(value)


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=200))
def test_a_run_id_gives_its_thread_id_back(thread):
    run = UnifiedIDManager.generate_run_id(thread)
    assert UnifiedIDManager.extract_thread_id(run) == thread
    assert UnifiedIDManager.validate_run_id(run)


def test_the_run_ids_of_the_existing_service_are_read_as_well():
    assert UnifiedIDManager.extract_thread_id("run_thread-1_12345_deadbeef") == "thread-1"
    assert UnifiedIDManager.extract_thread_id("anything") == "anything"
    assert not UnifiedIDManager.validate_run_id("anything")


def test_a_very_long_thread_id_does_not_make_a_run_id_that_is_refused():
    run = UnifiedIDManager.generate_run_id("t" * 256)
    assert UserExecutionContext("user-7", "t" * 256, run).run_id == run


@pytest.mark.parametrize(
    "value",
    [
        "90585715-b235-44de-a268-2d12a15606cd",
        "b5a3e2be10264bd5a9c2b5dbfa490367",
        "req_deadbeef",
        "a_b_c_0123456789abcdef0123456789abcdef",
    ],
)
def test_uuids_and_structured_ids_are_known_formats(value):
    assert UnifiedIDManager.is_valid_id_format(value)


@pytest.mark.parametrize("value", ["", "alice", "_deadbeef", "req_deadbeeg", "req_dead"])
def test_other_values_are_not_known_formats(value):
    assert not UnifiedIDManager.is_valid_id_format(value)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", ["", "  ", "\t\n", "\u2003"])
def test_blank_ids_are_refused_and_the_field_is_named(field, value):
    with pytest.raises(InvalidContextError, match=f"Required field '{field}' must be a non-empty string") as caught:
        build(field, value)
    assert (caught.value.field, caught.value.rule) == (field, "required")
    assert caught.value.fix
    assert caught.value.fix in str(caught.value)


@pytest.mark.parametrize("field", FIELDS[:3])
@pytest.mark.parametrize("value", [None, 0, 123, b"bytes", ["list"], object()])
def test_ids_of_another_type_are_refused_by_the_same_error(field, value):
    with pytest.raises(InvalidContextError, match=f"Required field '{field}'") as caught:
        build(field, value)
    assert caught.value.field == field


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("word", EXACT)
def test_placeholder_words_are_refused_in_any_case_and_with_space_around(field, word):
    for value in (word, word.upper(), f"  {word} "):
        with pytest.raises(InvalidContextError, match="forbidden placeholder value") as caught:
            build(field, value)
        assert (caught.value.field, caught.value.rule) == (field, "placeholder")


@pytest.mark.parametrize("prefix", PREFIXES)
def test_placeholder_prefixes_are_refused_in_short_values_only(prefix):
    with pytest.raises(InvalidContextError, match="placeholder pattern") as caught:
        build("user_id", f"{prefix.upper()}x")
    assert caught.value.rule == "prefix"
    long = prefix + "x" * (20 - len(prefix))
    assert build("user_id", long).user_id == long
    with pytest.raises(InvalidContextError):
        build("user_id", long[:-1])


@pytest.mark.parametrize(
    "value",
    [
        "2",
        "user",
        "alice@example.com",
        "auth0|5f7c",
        "110169484474386276334",
        "demolition",
        "defaulter",
        "Ünal",
        "测试用户",
    ],
)
def test_user_ids_are_opaque(value):
    assert build("user_id", value).user_id == value


def test_long_ids_and_control_characters_and_lone_surrogates_are_refused():
    assert build("user_id", "é" * 256).user_id == "é" * 256
    for value, rule in (
        ("x" * 257, "length"),
        ("a\nb", "control"),
        ("a\x00b", "control"),
        ("a\x85b", "control"),
        ("\ud800", "surrogate"),
    ):
        with pytest.raises(InvalidContextError) as caught:
            build("user_id", value)
        assert (caught.value.field, caught.value.rule) == ("user_id", rule)


def test_a_refused_value_is_shortened_in_the_text():
    with pytest.raises(InvalidContextError) as caught:
        build("user_id", "secret-" * 100)
    assert len(str(caught.value)) < 300
    assert len(caught.value.value) < 60


def test_a_policy_can_be_replaced_and_its_allow_list_wins():
    policy = PlaceholderPolicy(allow=["default_user", "TEST"], allow_test=True)
    assert not policy.is_placeholder("default_user")
    assert not policy.is_placeholder(" Default_User ")
    assert not policy.is_placeholder("test")
    assert not policy.is_placeholder("test_user")
    assert policy.is_placeholder("default_other")
    assert PlaceholderPolicy(exact=["nobody"], prefixes=["x-"]).is_placeholder("X-1")
    assert not PlaceholderPolicy(exact=["nobody"], prefixes=["x-"]).is_placeholder("default")
    assert PlaceholderPolicy(allow=["b", "a"]) == PlaceholderPolicy(allow=["a", "b"])


@given(st.text(max_size=40))
def test_what_a_policy_calls_a_placeholder_no_context_takes(value):
    refused = PlaceholderPolicy().is_placeholder(value)
    rules = []
    try:
        build("thread_id", value)
    except InvalidContextError as error:
        rules.append(error.rule)
    # Some placeholders are blank or printable by no means as well; those rules come first.
    assert refused == (rules[0] in {"placeholder", "prefix"} if rules else False) or rules[0] in {"required", "control"}


def test_the_policy_of_the_process_is_replaced_at_start_up_and_handed_back():
    earlier = isolane.set_placeholder_policy(PlaceholderPolicy(allow=["default_user"]))
    try:
        assert build("user_id", "default_user").user_id == "default_user"
        UnifiedIDManager.check_user_id("default_user")
    finally:
        isolane.set_placeholder_policy(earlier)
    with pytest.raises(InvalidContextError):
        UnifiedIDManager.check_user_id("default_user")


def test_a_run_of_another_thread_is_only_refused_in_strict_mode():
    run = UnifiedIDManager.generate_run_id("thread-8")
    assert UserExecutionContext("user-7", "thread-7", run).run_id == run
    with pytest.raises(InvalidContextError, match="names thread") as caught:
        UserExecutionContext("user-7", "thread-7", run, policy=isolane.ContextPolicy(strict=True))
    assert caught.value.rule == "mismatch"

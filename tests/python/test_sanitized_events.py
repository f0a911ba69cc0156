"""Secrets in events: masked once, when they are published, whatever way they came."""

import json
import re

import pytest
from isolane import WebSocketBridgeFactory, WebSocketConfig
from isolane._core import event_findings

AWS = "AKIA" + "IOSFODNN7EXAMPLE"
MAIL = "alice@example.com"
URL = "postgres://ann:hunter2@db.example.com/x"


@pytest.fixture
def emitter_of(new_context):
    async def make(user="", **config):
        context = new_context(user or None)
        bridge = WebSocketBridgeFactory(WebSocketConfig(**config))
        return context, await bridge.create_user_emitter(context.user_id, context)

    return make


@pytest.fixture
def messages_of(read_plain):
    return lambda context: read_plain(context.user_id, context.run_id)


async def publish_all(emitter) -> None:
    """Secrets wherever a text can be."""
    await emitter.notify_agent_started("agent", metadata={"key": AWS})
    await emitter.notify_agent_thinking(f"I use {AWS}\n{AWS}", metadata={"note": AWS, "password": "hunter2"})
    await emitter.notify_tool_executing("tool", {"url": URL, "nested": [{"a": {"b": (AWS,)}}], AWS: 1})
    await emitter.notify_tool_completed("tool", {"api_key": "short", "pin": {"password": 123456}})
    emitter.publish("own", {"text": AWS, "token": "Zm9v8Kd2qLw0Xr7TbNc4"}, message=f"used {AWS}")
    emitter.publish("part", {"delta": f"a{AWS}, {AWS}."}, message_id="m")
    await emitter.notify_agent_error(RuntimeError(f"cannot open {URL}: {AWS}"))


async def test_no_secret_reaches_the_log_and_the_rest_is_as_it_was(emitter_of, messages_of):
    context, emitter = await emitter_of()
    before = event_findings()
    await publish_all(emitter)
    emitter.publish("mail", {"to": MAIL})
    messages = messages_of(context)
    text = json.dumps(messages)
    assert len(messages) == 8
    # The one after a letter is part of a word.
    assert text.count(AWS) == 1
    assert "hunter2" not in text
    assert "short" not in text
    assert "123456" not in text
    assert "Zm9v8Kd2" not in text
    # What is personal is found, and shown to its user.
    assert MAIL in text
    masks = re.findall(r"\[AWS_KEY:[0-9a-f]{4}\]", text)
    assert len(masks) >= 9
    assert len(set(masks)) == 1
    assert "postgres://[CREDENTIALS:" in text
    assert "@db.example.com/x" in text
    counts = event_findings()
    assert counts["EMAIL"] == before.get("EMAIL", 0) + 1
    assert counts["AWS_KEY"] > before.get("AWS_KEY", 0)


async def test_all_masks_what_is_personal_and_off_nothing(emitter_of, messages_of):
    context, emitter = await emitter_of(sanitize="all")
    await publish_all(emitter)
    assert MAIL not in json.dumps(messages_of(context))
    context, emitter = await emitter_of(sanitize="off")
    await publish_all(emitter)
    text = json.dumps(messages_of(context))
    assert AWS in text
    assert "hunter2" in text
    assert "[AWS_KEY:" not in text
    with pytest.raises(ValueError, match="secrets, all or off"):
        await emitter_of(sanitize="some")


async def test_each_way_to_an_emitter_masks(emitter_of, messages_of, new_context, new_user):
    # A context's own emitter, a child's, one of a whole user, and what is told outside of runs.
    context, _ = await emitter_of()
    context.get_websocket_emitter().publish("own", {"text": AWS})
    context.create_child_context("child").get_websocket_emitter().publish("own", {"text": AWS})
    assert AWS not in json.dumps(messages_of(context))
    alone = new_context()
    alone.get_websocket_emitter().publish("own", {"text": AWS})
    assert AWS not in json.dumps(messages_of(alone))
    user = new_user()
    bridge = WebSocketBridgeFactory()
    emitter = await bridge.create_user_emitter(user, "thread-1", "socket-1")
    emitter.publish("own", {"text": AWS}, run_id="run-of-masks")
    assert AWS not in json.dumps(messages_of(new_context(user, run_id="run-of-masks")))
    await bridge.cleanup_user_emitter(user)


async def test_two_users_have_masks_of_their_own(emitter_of, messages_of):
    texts = []
    for name in ("ann", "bob"):
        context, emitter = await emitter_of(f"{name}-of-masked-events")
        for number in range(40):
            emitter.publish("own", {"url": f"redis://u:{number}@h"})
        texts.append([message["payload"]["url"] for message in messages_of(context)])
    assert sum(a == b for a, b in zip(*texts, strict=True)) <= 2


async def test_ordinary_events_are_written_as_ever(emitter_of, messages_of):
    payload = {
        "important_notes": "task-analysis of the disk-usage",
        "evaluation": [1, 2.5, None, True, 4111111111111111],
        "token_count": 17,
        "next_page_token": "Zm9v8Kd2qLw0Xr7TbNc4",
        "text": 'a "quoted" text\n\twith é and \u2028',
        "id": "550e8400-e29b-41d4-a716-446655440000",
        "risk-score report": {"execution_id": "run_0123456789abcdef"},
    }
    shown = []
    for mode in ("secrets", "off"):
        context, emitter = await emitter_of(sanitize=mode)
        emitter.publish("own", payload)
        shown.append([message["payload"] for message in messages_of(context)])
    assert shown[0] == shown[1] == [payload]


async def test_a_long_error_is_cut_after_it_was_masked(emitter_of, messages_of):
    context, emitter = await emitter_of()
    await emitter.notify_agent_started("agent")
    # The cut would go through the key.
    await emitter.notify_agent_error("x" * 3990 + " " + AWS)
    text = messages_of(context)[-1]["payload"]["error_message"]
    assert len(text) == 4000
    assert text.endswith("x [AWS_KEY:")

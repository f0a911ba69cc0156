"""The sanitizer: structure, modes, masks, fields, references, detectors, texts in pieces.

What each detector finds and leaves alone is tested beside the code, in ``src/sanitize/tests.rs``.
"""

import collections
import copy
import dataclasses
import datetime as dt
import decimal
import enum
import json
import pathlib
import re
import secrets
import subprocess
import sys
import threading
import uuid

import isolane
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isolane import DataSanitizer, Finding, Modes, SanitizeBlockedError, Sanitized, SanitizeLimitError
from isolane.security import References

CARD = "4111 1111 1111 1111"
MAIL = "alice@example.com"
AWS = "AKIA" + "IOSFODNN7EXAMPLE"
GITHUB = "ghp_" + "0123456789abcdefghijABCDEFGHIJ012345"
MASK = re.compile(r"\[[A-Z_]+:[0-9a-f]{4}\]")
KILLER = [
    "important_notes",
    "executive_summary",
    "evaluation",
    "execution_id",
    "retrieval_k",
    "import_batch",
    "task-analysis",
    "disk-usage",
    "risk-score report",
]
"""What the existing service's own rules delete or flag."""


@pytest.fixture
def sanitizer() -> DataSanitizer:
    return DataSanitizer(key=b"k" * 32)


def kinds(sanitized: Sanitized) -> list[str]:
    return [finding.kind for finding in sanitized.findings]


def test_what_was_found_is_masked_and_the_rest_is_as_it_was(sanitizer):
    value = {
        "user": {"mail": MAIL, "age": 41},
        "rows": [CARD, None, True, 2.5, (AWS, "x")],
        "password": "hunter2",
        "note": "nothing",
    }
    given_value = copy.deepcopy(value)
    shown = sanitizer.sanitize(value, boundary="log", context="ann")
    assert value == given_value
    assert list(shown.value) == list(value)
    assert MASK.fullmatch(shown.value["user"]["mail"])
    assert MASK.fullmatch(shown.value["rows"][0])
    assert shown.value["rows"][1:4] == [None, True, 2.5]
    assert shown.value["rows"][4][1] == "x"
    assert isinstance(shown.value["rows"][4], tuple)
    assert shown.value["password"].startswith("[SECRET:")
    assert shown.value["user"]["age"] == 41
    assert shown.findings == (
        Finding("$.user.mail", "EMAIL", 0, 17, "mask"),
        Finding("$.rows[0]", "CARD", 0, 19, "mask"),
        Finding("$.rows[4][0]", "AWS_KEY", 0, 20, "mask"),
        Finding("$.password", "SECRET", 0, 7, "mask"),
    )
    assert shown.masked
    text = json.dumps(shown.value)
    for secret in (MAIL, CARD, AWS, "hunter2"):
        assert secret not in text


def test_a_clean_value_is_the_same_object(sanitizer):
    value = {"a": ["b", {"c": "d"}], "important_notes": "x"}
    shown = sanitizer.sanitize(value, boundary="log")
    assert shown.value is value
    assert shown.findings == ()
    # And so is what has findings that are reported only.
    value = {"mail": MAIL}
    shown = sanitizer.sanitize(value, boundary="input")
    assert shown.value is value
    assert shown.findings == (Finding("$.mail", "EMAIL", 0, 17, "detect"),)
    # The parts of a value that are clean are not copied either.
    inner = {"x": 1}
    assert sanitizer.sanitize({"mail": MAIL, "inner": inner}, boundary="log").value["inner"] is inner


@pytest.mark.parametrize("boundary", ["log", "audit", "error", "ws_event", "input", "llm", "tool_params"])
def test_the_words_that_other_rules_delete_are_left_alone(sanitizer, boundary):
    value = {word: word for word in KILLER} | {"text": " ".join(KILLER), "evalCount": 3, "executive": {"import": "x"}}
    shown = sanitizer.sanitize(value, boundary=boundary)
    assert shown.value is value
    assert shown.findings == ()


def test_what_is_looked_at_are_values_and_not_their_json(sanitizer):
    # In the JSON the letter of the escape stands before the key, and there is no border of a word.
    for escape, plain in (("\\n", "\n"), ("\\t", "\t"), ("\\r\\n", "\r\n"), ("\\u000b", "\v"), ('\\"', '"')):
        for secret, kind in ((AWS, "AWS_KEY"), (GITHUB, "GITHUB_TOKEN"), (CARD, "CARD"), ("536-90-4399", "SSN")):
            value = json.loads(f'{{"a": "x{escape}{secret}"}}')
            assert value["a"] == f"x{plain}{secret}"
            shown = sanitizer.sanitize(value, boundary="log")
            assert kinds(shown) == [kind]
            assert secret not in json.dumps(shown.value)


def test_keys_are_looked_at_and_none_is_lost(sanitizer):
    value = {MAIL: 1, "b": 2, AWS: {"c": 3}}
    shown = sanitizer.sanitize(value, boundary="log", context="ann")
    assert list(shown.value.values()) == [1, 2, {"c": 3}]
    assert kinds(shown) == ["EMAIL", "AWS_KEY"]
    assert shown.findings[0].path == "$.~key"
    again = sanitizer.sanitize(shown.value, boundary="log", context="ann")
    assert again.value is shown.value
    # The path to what is under such a key does not show it.
    nested = sanitizer.sanitize({MAIL: {"mail": MAIL}}, boundary="log")
    assert MAIL not in repr(nested)
    # Two keys with one mask.
    clash = {f"{MAIL} {number}": number for number in range(3)}
    sanitizer.register_detector(lambda text: [("X_X", 0, len(text))] if text.startswith("alice") else [])
    assert list(sanitizer.sanitize(clash, boundary="log").value.values()) == [0, 1, 2]
    many = {f"u{number}@example.com": number for number in range(2000)}
    assert list(sanitizer.sanitize(many, boundary="log").value.values()) == list(range(2000))


def test_what_a_key_says_about_its_value(sanitizer):
    random = "Zm9v8Kd2qLw0Xr7TbNc4"
    value = {
        "apiKey": "abc",
        "api_keys_used": "abc",
        "token": random,
        "token_count": 7,
        "cache_key": random,
        "next_page_token": random,
        "passwords": {"a": "b"},
        "client_secret": ["a", {"b": "c", "d": random}],
        "pin": 1234,
        "password": 123456,
        "secrets": 3,
        "credentials": None,
        "private_key": "",
        "authorization": True,
    }
    shown = sanitizer.sanitize(value, boundary="log").value
    changed = {name for name in value if shown[name] != value[name]}
    assert changed == {"apiKey", "token", "client_secret", "password"}
    assert shown["password"] == 0
    assert MASK.fullmatch(shown["client_secret"][0])
    # Under a secret key a dictionary is no secret as a whole: what looks random in it is.
    assert shown["client_secret"][1]["b"] == "c"
    assert MASK.fullmatch(shown["client_secret"][1]["d"])


def test_numbers_stay_numbers(sanitizer):
    value = {
        "card": 4111111111111111,
        "id": 1234567890123456,
        "x": 0.4111111111111111,
        "big": 10**400,
        "nan": float("nan"),
    }
    shown = sanitizer.sanitize(value, boundary="log")
    assert shown.value["card"] == 0
    assert kinds(shown) == ["CARD"]
    assert {name for name in value if shown.value[name] is not value[name]} == {"card"}


def test_other_types(sanitizer):
    @dataclasses.dataclass
    class Person:
        name: str
        mail: str

    class Colour(enum.Enum):
        RED = MAIL

    point = collections.namedtuple("point", "x y")  # noqa: PYI024 -- the type of a value of somebody's
    value = {
        "bytes": MAIL.encode(),
        "path": pathlib.PurePath("/home") / MAIL,
        "error": ValueError(f"no such user: {MAIL}"),
        "person": Person("Ann", MAIL),
        "point": point(MAIL, 1),
        "set": {MAIL},
        "frozen": frozenset({MAIL}),
        "when": dt.datetime(2026, 11, 22, tzinfo=dt.UTC),
        "id": uuid.UUID(int=7),
        "sum": decimal.Decimal(4111111111111111),
        "colour": Colour.RED,
        "surrogate": f"\ud800 {MAIL}",
    }
    shown = sanitizer.sanitize(value, boundary="log").value
    assert MAIL not in repr({name: shown[name] for name in shown if name != "colour"})
    assert isinstance(shown["bytes"], bytes)
    assert isinstance(shown["point"], point)
    assert isinstance(shown["set"], set)
    assert isinstance(shown["frozen"], frozenset)
    assert shown["person"]["name"] == "Ann"
    for kept in ("when", "id", "sum", "colour"):
        assert shown[kept] is value[kept]
    clean = Person("Ann", "none")
    assert sanitizer.sanitize({"a": clean}, boundary="log").value["a"] is clean
    with pytest.raises(TypeError, match=r"\$\.a\[0\] of type object"):
        sanitizer.sanitize({"a": [object()]}, boundary="log")


def test_modes_by_boundary():
    value = {"mail": MAIL, "key": AWS}
    for boundary in ("log", "audit", "error"):
        assert kinds(DataSanitizer().sanitize(value, boundary=boundary)) == ["EMAIL", "AWS_KEY"]
        assert DataSanitizer().sanitize(value, boundary=boundary).masked
    for boundary in ("input", "llm", "tool_params"):
        shown = DataSanitizer().sanitize(value, boundary=boundary)
        assert shown.value is value
        assert [finding.action for finding in shown.findings] == ["detect", "detect"]
    shown = DataSanitizer().sanitize(value, boundary="ws_event")
    assert [finding.action for finding in shown.findings] == ["detect", "mask"]
    assert shown.value["mail"] == MAIL
    own = DataSanitizer(modes={"input": Modes("block", "mask"), "log": "off"})
    assert own.sanitize(value, boundary="log").findings == ()
    assert MAIL not in str(own.sanitize({"mail": MAIL}).value)
    with pytest.raises(SanitizeBlockedError, match=r"AWS_KEY.*'input'.*\$\.key") as refused:
        own.sanitize(value)
    assert refused.value.boundary == "input"
    assert AWS not in str(refused.value)
    assert AWS not in repr(refused.value.findings)
    with pytest.raises(ValueError, match="no boundary"):
        own.sanitize(value, boundary="elsewhere")
    with pytest.raises(ValueError, match="no mode"):
        DataSanitizer(modes={"log": "hide"})
    with pytest.raises(ValueError, match="no boundary"):
        DataSanitizer(modes={"logs": "mask"})
    with pytest.raises(ValueError, match="no kind"):
        DataSanitizer(kinds=["MAIL"])
    with pytest.raises(ValueError, match="at least 16 bytes"):
        DataSanitizer(key=b"short")


def test_kinds_on_demand(sanitizer):
    value = "call +49 30 901820 from 192.0.2.1"
    assert sanitizer.sanitize(value, boundary="log").findings == ()
    shown = DataSanitizer(kinds=DataSanitizer.kinds()).sanitize(value, boundary="log")
    assert kinds(shown) == ["PHONE", "IP"]
    only = DataSanitizer(kinds=["EMAIL"])
    assert kinds(only.sanitize([MAIL, CARD, {"password": "x"}], boundary="log")) == ["EMAIL"]


def test_places_are_in_characters(sanitizer):
    text = f"größe € 𝄞 {MAIL} und {CARD}"
    for finding, secret in zip(sanitizer.sanitize(text).findings, (MAIL, CARD), strict=True):
        assert text[finding.start : finding.end] == secret


def test_limits(sanitizer):
    deep = value = []
    for _ in range(64):
        value.append([])
        value = value[0]
    sanitizer.sanitize(deep)
    value.append([])
    with pytest.raises(SanitizeLimitError, match="64 levels") as refused:
        sanitizer.sanitize(deep)
    assert refused.value.limit == "depth"
    itself: dict = {}
    itself["a"] = itself
    with pytest.raises(SanitizeLimitError):
        sanitizer.sanitize(itself)
    for boundary in ("log", "audit"):
        assert sanitizer.sanitize(itself, boundary=boundary).value == {"_sanitized": "limit"}
    with pytest.raises(SanitizeLimitError):
        sanitizer.sanitize(itself, boundary="error")
    sanitizer.sanitize("x" * ((1 << 20) - 1))
    with pytest.raises(SanitizeLimitError, match="1048576 bytes") as refused:
        sanitizer.sanitize("x" * (1 << 20))
    assert refused.value.limit == "bytes"
    with pytest.raises(SanitizeLimitError):
        sanitizer.sanitize([None] * (1 << 20))


def test_many_findings_take_time_in_proportion(sanitizer):
    for part in (f"{MAIL} ", f"{MAIL} {AWS} ", "x://a:b@c.de ", "é" + CARD + " "):
        text = part * (900_000 // len(part))
        for boundary in ("log", "ws_event", "input"):
            found = sanitizer.sanitize(text, boundary=boundary).findings
            assert len(found) >= 900_000 // len(part)
            assert found[-1].end <= len(text)


def test_masks_of_two_users_and_of_two_keys_differ():
    key = secrets.token_bytes(32)
    mails = [f"u{number}@example.com" for number in range(50)]

    def mask(key, user):
        return DataSanitizer(key=key).sanitize(mails, boundary="log", context=user).value

    assert mask(key, "ann") == mask(key, "ann")
    assert sum(a == b for a, b in zip(mask(key, "ann"), mask(key, "bob"), strict=True)) <= 2
    assert sum(a == b for a, b in zip(mask(key, "ann"), mask(b"z" * 16, "ann"), strict=True)) <= 2
    # Without a key one process has one, and another process another.
    here = DataSanitizer().sanitize(mails, boundary="log", context="ann").value
    assert here == DataSanitizer().sanitize(mails, boundary="log", context="ann").value
    code = (
        "import isolane, json; print(json.dumps(isolane.DataSanitizer().sanitize("
        f"{mails!r}, boundary='log', context='ann').value))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert sum(a == b for a, b in zip(here, json.loads(done.stdout), strict=True)) <= 2


def test_a_context_says_whose_it_is(sanitizer, new_context):
    context = new_context("ann-of-masks")
    by_context = sanitizer.sanitize(MAIL, boundary="log", context=context).value
    assert by_context == sanitizer.sanitize(MAIL, boundary="log", context="ann-of-masks").value
    assert by_context != sanitizer.sanitize(MAIL, boundary="log", context="bob-of-masks").value
    assert sanitizer.sanitize_input_data({"mail": MAIL}, context) == {"mail": MAIL}
    assert sanitizer.sanitize_output_data({"mail": MAIL, "k": AWS}, "ann-of-masks")["mail"] == MAIL
    assert AWS not in str(sanitizer.sanitize_output_data({"mail": MAIL, "k": AWS}, "ann-of-masks"))
    assert MAIL not in sanitizer.mask_pii_data(f"{MAIL} {AWS}", "ann-of-masks")


@pytest.mark.parametrize("before", ["\n", "\t", "a\r\n", "\b", "é ", "\\n", '"', "/"])
@pytest.mark.parametrize("secret", [MAIL, AWS, "4111 1111 1111 1111", "536-90-4399", "DE89370400440532013000"])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_the_text_of_json_stays_json_and_an_escape_hides_nothing(sanitizer, before, secret, ascii_only):
    text = json.dumps(
        {"note": f"see{before}{secret}\n{before}", "deep": json.dumps([f"see{before}{secret}"])},
        ensure_ascii=ascii_only,
    )
    shown = sanitizer.mask_pii_data(text, "ann")
    assert secret not in shown
    read = json.loads(shown)
    assert read["note"].startswith(f"see{before}[")
    assert len(json.loads(read["deep"])) == 1
    stream = sanitizer.stream("ann")
    assert secret not in "".join(map(stream.feed, text)) + stream.close()


@pytest.mark.parametrize("secret", [MAIL, AWS])
def test_the_digits_of_an_escape_belong_to_no_word(sanitizer, secret):
    shown = sanitizer.mask_pii_data(json.dumps(f"\u0001{secret}"))
    assert json.loads(shown).startswith("\u0001[")


class Silent(list):
    def __iter__(self):
        return iter(())


def test_nothing_hides_in_keys_or_odd_containers(sanitizer):
    for value in (
        {(AWS, 1): 1},
        {AWS.encode(): 1},
        {frozenset([(AWS,)]): 1},
        {b"password": "hunter22"},
        Silent([AWS]),
        {"a": Silent([AWS])},
    ):
        shown = sanitizer.sanitize(value, boundary="log", context="ann")
        assert shown.findings
        assert AWS not in repr(shown.value)
        assert "hunter22" not in repr(shown.value)
        assert AWS not in repr(shown.findings)
        assert sanitizer.sanitize(shown.value, boundary="log", context="ann").value is shown.value
    kept = {(1, "a"): 1, b"name": 2, None: 3, 7: 4, 2.5: 5, True: 6}
    assert sanitizer.sanitize(kept, boundary="log").value is kept


def chained(how):
    error = RuntimeError("plain")
    inner = ValueError(f"with {AWS}")
    if how == "cause":
        error.__cause__ = inner
    elif how == "context":
        error.__context__ = inner
    elif how == "note":
        error.add_note(f"with {AWS}")
    elif how == "group":
        error = ExceptionGroup("plain", [ExceptionGroup("plain", [inner])])
    elif how == "cycle":
        error.__cause__, inner.__cause__ = inner, error
    return error


@pytest.mark.parametrize("how", ["cause", "context", "note", "group", "cycle"])
def test_what_a_traceback_shows_beside_an_exception_is_looked_at(sanitizer, how):
    shown = sanitizer.sanitize({"error": chained(how)}, boundary="error", context="ann")
    assert isinstance(shown.value["error"], str)
    assert "plain" in shown.value["error"]
    assert shown.masked
    plain = RuntimeError("plain")
    plain.__cause__ = ValueError("as well")
    assert sanitizer.sanitize(plain, boundary="error").value is plain


def test_an_address_is_found_beside_dashes_and_where_it_is_emphasised(sanitizer):
    for text in (f"_{MAIL}_", f"write to {MAIL}--now", f"{MAIL}-----BEGIN PRIVATE KEY-----\nAAAA", f"*{MAIL}*"):
        assert MAIL not in sanitizer.mask_pii_data(text)
        stream = sanitizer.stream("ann")
        assert MAIL not in "".join(map(stream.feed, text)) + stream.close()
    for text in (f"{MAIL}-x", f"{MAIL}_x", f"{MAIL}@host"):
        assert sanitizer.mask_pii_data(text) == text


class Tagged:
    """Knows another user's data by a tag, as the owner tags and canaries of a detector do."""

    def foreign_spans(self, text, user_id):
        return [found.span() for found in re.finditer(r"<(\w+):\w+>", text) if found[1] != user_id]


def test_what_belongs_to_others_is_taken_out_and_the_own_stays():
    sanitizer = DataSanitizer(references=Tagged())
    assert isinstance(Tagged(), References)
    value = {"a": "x <ann:1> y <bob:2> z", "b": [f"<bob:3> {MAIL}"], "<bob:4>": 1}
    shown = sanitizer.remove_cross_user_references(value, "ann")
    assert "bob" not in str(shown)
    assert shown["a"].startswith("x <ann:1> y [FOREIGN:")
    assert MAIL in shown["b"][0]
    assert sanitizer.remove_cross_user_references(shown, "ann") is shown
    assert not sanitizer.validate_data_boundaries(value, "ann")
    assert not sanitizer.validate_data_boundaries(value, "bob")
    assert sanitizer.validate_data_boundaries("x <ann:1>", "ann")
    assert not sanitizer.validate_data_boundaries("x <ann:1>", "bob")
    assert "bob" not in str(sanitizer.sanitize_output_data(value, "ann"))
    with pytest.raises(RuntimeError, match="references"):
        DataSanitizer().remove_cross_user_references(value, "ann")
    assert DataSanitizer().validate_data_boundaries(value, "ann")
    itself: list = []
    itself.append(itself)
    assert not DataSanitizer().validate_data_boundaries(itself, "ann")
    assert not DataSanitizer(modes={"ws_event": "block"}).validate_data_boundaries(MAIL, "ann")


def test_detectors_of_the_application(sanitizer):
    def people(text):
        return [("PERSON", found.start(), found.end()) for found in re.finditer("Ann|Bob", text)]

    sanitizer.register_detector(people)
    text = f"größer: Ann wrote to {MAIL}, Bob did not"
    shown = sanitizer.sanitize({"a": text}, boundary="log", context="ann")
    assert [finding.kind for finding in shown.findings] == ["PERSON", "EMAIL", "PERSON"]
    assert [text[finding.start : finding.end] for finding in shown.findings] == ["Ann", MAIL, "Bob"]
    assert re.fullmatch(
        r"größer: \[PERSON:\w{4}\] wrote to \[EMAIL:\w{4}\], \[PERSON:\w{4}\] did not", shown.value["a"]
    )
    assert sanitizer.sanitize(shown.value, boundary="log", context="ann").value is shown.value
    assert sanitizer.sanitize(text).findings[0].action == "detect"
    for wrong in (("person", 0, 1), ("P", 0, 1), ("PERSON", 0, 99)):
        bad = DataSanitizer()
        bad.register_detector(lambda _text, wrong=wrong: [wrong])
        with pytest.raises(ValueError, match="detector"):
            bad.sanitize("text")
    failing = DataSanitizer()
    failing.register_detector(lambda _text: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        failing.sanitize("text")
    with pytest.raises(ValueError, match="32"):
        for _ in range(33):
            failing.register_detector(people)


KEYS = {"ann": b"a" * 32, "bob": b"b" * 32}


def test_marked_fields_are_encrypted_for_their_user_and_place():
    sanitizer = DataSanitizer(field_key=KEYS.__getitem__)
    value = {
        "api_key": "abc",
        "user": {"iban": "x", "password": {"deep": [1, 2.5, None, "é"]}},
        "rows": [{"client_secret": 7}, {"note": "y"}],
        "token": None,
    }
    before = copy.deepcopy(value)
    sealed = sanitizer.encrypt_sensitive_fields(value, "ann")
    assert value == before
    assert sealed["user"]["iban"] == "x"
    for text in (sealed["api_key"], sealed["user"]["password"], sealed["rows"][0]["client_secret"]):
        assert text.startswith("isl1:")
    assert "abc" not in str(sealed)
    assert sanitizer.encrypt_sensitive_fields(sealed, "ann") == sealed
    assert sanitizer.encrypt_sensitive_fields(value, "ann") != sealed
    assert sanitizer.decrypt_sensitive_fields(sealed, "ann") == value
    by_path = sanitizer.encrypt_sensitive_fields(value, "ann", fields=["user.iban", "rows[].note"])
    assert by_path["api_key"] == "abc"
    assert by_path["user"]["iban"].startswith("isl1:")
    assert by_path["rows"][1]["note"].startswith("isl1:")
    assert sanitizer.decrypt_sensitive_fields(by_path, "ann") == value
    # Another user, another field, a changed text.
    for wrong, user in (
        (sealed, "bob"),
        ({"password": sealed["api_key"]}, "ann"),
        ({"api_key": sealed["api_key"][:-4] + "AAAA"}, "ann"),
        ({"api_key": "isl1:AAAA"}, "ann"),
    ):
        with pytest.raises(isolane.FieldDecryptionError):
            sanitizer.decrypt_sensitive_fields(wrong, user)
    # A text with the mark that was not encrypted is encrypted.
    faked = sanitizer.encrypt_sensitive_fields({"api_key": "isl1:AAAA"}, "ann")
    assert faked["api_key"] != "isl1:AAAA"
    assert sanitizer.decrypt_sensitive_fields(faked, "ann") == {"api_key": "isl1:AAAA"}


def test_fields_need_keys_and_values_that_can_be_written():
    with pytest.raises(RuntimeError, match="field_key"):
        DataSanitizer().encrypt_sensitive_fields({"password": "x"}, "ann")
    sanitizer = DataSanitizer(field_key=lambda _user: b"short")
    with pytest.raises(ValueError, match="32 bytes, got 5"):
        sanitizer.encrypt_sensitive_fields({"password": "x"}, "ann")
    sanitizer = DataSanitizer(field_key=KEYS.__getitem__)
    with pytest.raises(ValueError, match="for a user"):
        sanitizer.encrypt_sensitive_fields({"password": "x"}, None)
    with pytest.raises(TypeError, match="the field password"):
        sanitizer.encrypt_sensitive_fields({"password": object()}, "ann")
    itself: dict = {}
    itself["a"] = [itself]
    for act in (sanitizer.encrypt_sensitive_fields, sanitizer.decrypt_sensitive_fields):
        with pytest.raises(SanitizeLimitError):
            act(itself, "ann")


@pytest.mark.parametrize("secret", [MAIL, CARD, AWS, GITHUB, f"Bearer {GITHUB}", "postgres://ann:hunter2@db/x"])
def test_a_secret_that_comes_in_two_pieces_is_masked(sanitizer, secret):
    text = f"It is {secret}, as they said."
    whole = sanitizer.mask_pii_data(text, "ann")
    assert secret not in whole
    for at in range(len(text)):
        stream = sanitizer.stream("ann")
        assert stream.feed(text[:at], now=0) + stream.feed(text[at:], now=0) + stream.close() == whole
        assert stream.masked == 1


def test_what_is_held_back_goes_out_after_50_ms(sanitizer):
    with sanitizer.stream("ann") as stream:
        assert stream.feed("mail to alice", now=10.0) == "mail to "
        assert stream.held == 5
        assert stream.flush(now=10.04) == ""
        assert stream.flush(now=10.05) == "alice"
        assert stream.flush(now=99.0) == ""
        assert stream.feed("@example.com!", now=99.0) + stream.close() == stream_rest(sanitizer)
    assert stream.feed("x " * 100) != ""
    assert stream.held <= 128


def stream_rest(sanitizer):
    return sanitizer.mask_pii_data(MAIL, "ann") + "!"


def test_many_threads_use_one_sanitizer(sanitizer):
    expected = sanitizer.sanitize({"a": [MAIL, CARD]}, boundary="log", context="ann")
    results = []

    def work():
        results.extend(sanitizer.sanitize({"a": [MAIL, CARD]}, boundary="log", context="ann") for _ in range(200))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 800
    assert all(result == expected for result in results)


SEEDS = st.sampled_from(
    [
        MAIL,
        CARD,
        AWS,
        GITHUB,
        "536-90-4399",
        "DE89370400440532013000",
        "Bearer abcdef0123456789",
        "[EMAIL:0000]",
        "\n",
        "é",
    ]
)
TEXTS = st.lists(st.one_of(SEEDS, st.text(max_size=8)), max_size=6).map("".join)
NAMES = st.one_of(TEXTS, st.sampled_from(["password", "apiKey", "token", "important_notes"]))
VALUES = st.recursive(
    st.one_of(TEXTS, st.integers(), st.floats(allow_nan=False), st.booleans(), st.none(), st.just(4111111111111111)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(NAMES, inner, max_size=4)),
    max_leaves=12,
)


def shape(value):
    """What must stay: types, keys that were clean, and lengths."""
    if isinstance(value, dict):
        return ["dict", *(shape(each) for each in value.values())]
    if isinstance(value, list):
        return ["list", *map(shape, value)]
    return type(value).__name__


@settings(max_examples=300, deadline=None)
@given(value=VALUES, boundary=st.sampled_from(["log", "ws_event", "input"]))
def test_json_in_json_out_and_twice_is_once(value, boundary):
    sanitizer = DataSanitizer(key=b"k" * 16, modes={"input": Modes("detect", "mask")})
    before = copy.deepcopy(value)
    shown = sanitizer.sanitize(value, boundary=boundary, context="ann")
    assert value == before
    json.loads(json.dumps(shown.value))
    assert shape(shown.value) == shape(value)
    again = sanitizer.sanitize(shown.value, boundary=boundary, context="ann")
    assert again.value is shown.value or again.value == shown.value
    assert not again.masked
    assert sanitizer.sanitize(value, boundary=boundary, context="ann") == shown

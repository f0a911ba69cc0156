"""The HTTP routes: who may ask for what, and what refusals look like."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from examples.optimizer.app import create_app
from examples.optimizer.serving import running

LOG = b"timestamp,model,prompt_tokens,completion_tokens\n2026-11-02T10:00:00Z,gpt-4o,1200,300\n"
LIMIT = 64 * 1024


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    app = create_app(data_dir=tmp_path_factory.mktemp("data"), max_upload_bytes=LIMIT)
    with running(app) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


def sign_in(client: httpx.Client, name: str) -> dict[str, str]:
    answer = client.post("/api/sign-in", json={"name": name})
    assert answer.status_code == httpx.codes.OK, answer.text
    return {"Authorization": f"Bearer {answer.json()['token']}"}


def upload(client: httpx.Client, user: dict[str, str], log: bytes = LOG, name: str = "usage.csv") -> httpx.Response:
    return client.post("/api/uploads", params={"name": name}, content=log, headers=user)


def run_to_end(client: httpx.Client, user: dict[str, str], order: dict[str, object]) -> dict[str, Any]:
    started = client.post("/api/runs", json=order, headers=user)
    assert started.status_code == httpx.codes.ACCEPTED, started.text
    while True:
        run: dict[str, Any] = client.get(f"/api/runs/{started.json()['run_id']}", headers=user).json()
        if run["state"] != "running":
            return run


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/runs"),
        ("POST", "/api/uploads?name=a"),
        ("POST", "/api/runs"),
        ("GET", "/api/runs/x/report"),
        ("GET", "/api/runs/x/chart.svg"),
        ("POST", "/api/mode"),
    ],
)
@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer forged"}, {"Authorization": "Basic x"}])
def test_without_a_token_nothing_is_answered(
    client: httpx.Client, method: str, path: str, header: dict[str, str]
) -> None:
    """Every route of a user asks for the token first."""
    body = {"mode": "legacy", "upload_id": "x"}
    answer = client.request(method, path, headers=header, json=body if method == "POST" else None)
    assert answer.status_code == httpx.codes.UNAUTHORIZED
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("name", ["", " ", "a" * 41, "a/b", "<b>", "a\0b", "default", "Test"])
def test_bad_names_are_refused(client: httpx.Client, name: str) -> None:
    """A name that could be something else is none."""
    assert client.post("/api/sign-in", json={"name": name}).status_code == httpx.codes.UNPROCESSABLE_ENTITY


def test_a_run_gives_a_report_to_its_owner_only(client: httpx.Client) -> None:
    """The owner reads report and chart; to another user the run does not exist."""
    alice, bob = sign_in(client, "Alice"), sign_in(client, "bob")
    order: dict[str, object] = {"upload_id": upload(client, alice).json()["upload_id"]}
    run = run_to_end(client, alice, order)
    assert (run["state"], run["error"]) == ("completed", None)
    report = client.get(f"/api/runs/{run['run_id']}/report", headers=alice).json()
    assert "For <strong>alice</strong>" in report["html"]
    chart = client.get(f"/api/runs/{run['run_id']}/chart.svg", headers=alice)
    assert chart.headers["content-type"] == "image/svg+xml"
    assert "default-src 'none'" in chart.headers["content-security-policy"]
    for path in ("", "/report", "/chart.svg"):
        assert client.get(f"/api/runs/{run['run_id']}{path}", headers=bob).status_code == httpx.codes.NOT_FOUND
    assert client.post("/api/runs", json=order, headers=bob).status_code == httpx.codes.NOT_FOUND
    assert client.get("/api/runs", headers=bob).json() == []


def test_a_bad_row_fails_the_run_with_its_place(client: httpx.Client) -> None:
    """What only reading every row can find ends the run, with the message of the parser."""
    carol = sign_in(client, "carol")
    upload_id = upload(client, carol, LOG + b"2026-11-02T10:00:00Z,gpt-4o,1200,3.5\n").json()["upload_id"]
    run = run_to_end(client, carol, {"upload_id": upload_id})
    assert run["state"] == "failed"
    assert 'line 3, column "completion_tokens": "3.5" is not a whole number.' in run["error"]
    assert client.get(f"/api/runs/{run['run_id']}/report", headers=carol).status_code == httpx.codes.NOT_FOUND


def test_a_log_of_many_models_fits_the_events(client: httpx.Client) -> None:
    """As many models as a log may name, with names as long as they may be."""
    grace = sign_in(client, "grace")
    header, *_ = LOG.splitlines(keepends=True)
    rows = b"".join(b"2026-11-02T10:00:00Z,%b,9,9\n" % f"{number:0100}".encode() for number in range(100))
    run = run_to_end(client, grace, {"upload_id": upload(client, grace, header + rows).json()["upload_id"]})
    assert (run["state"], run["error"]) == ("completed", None)


@pytest.mark.parametrize(
    ("log", "status", "message"),
    [
        (b"", 422, "empty"),
        (b"\x89PNG\0\0", 422, "binary"),
        (b"hello\n", 422, "1 column(s)"),
        (LOG + b"x" * LIMIT, 413, "larger than 0.0625 MiB"),
    ],
)
def test_bad_files_are_refused_and_nothing_is_kept(client: httpx.Client, log: bytes, status: int, message: str) -> None:
    """A clear message, and the next upload works."""
    dave = sign_in(client, "dave")
    answer = upload(client, dave, log)
    assert status == answer.status_code
    assert message in answer.json()["detail"]
    assert upload(client, dave).status_code == httpx.codes.CREATED


def test_a_body_without_length_is_bounded_too(client: httpx.Client) -> None:
    """What is counted decides, not what is declared."""
    erin = sign_in(client, "erin")
    blocks = (b"x" * 1024 for _ in range(LIMIT // 1024 + 1))
    answer = client.post("/api/uploads", params={"name": "a"}, content=blocks, headers=erin)
    assert answer.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE


def test_only_the_newest_uploads_are_kept(tmp_path: Path) -> None:
    """A user cannot fill the disk by uploading again and again."""
    with running(create_app(data_dir=tmp_path)) as url, httpx.Client(base_url=url) as client:
        user = sign_in(client, "alice")
        ids = [upload(client, user).json()["upload_id"] for _ in range(7)]
        assert len(list(tmp_path.glob("*/*.log"))) == 5
        for upload_id, expected in ((ids[0], 404), (ids[-1], 202)):
            assert expected == client.post("/api/runs", json={"upload_id": upload_id}, headers=user).status_code


def test_questions_and_answers(client: httpx.Client) -> None:
    """What the upload asks for, the run takes: columns for roles, and the one model of the log."""
    frank = sign_in(client, "frank")
    asked = upload(client, frank, b"when,inn,outt\n2026-11-02T10:00:00Z,1200,300\n").json()
    assert asked["missing"] == ["time", "model", "input_tokens", "output_tokens"]
    order: dict[str, object] = {"upload_id": asked["upload_id"]}
    refused = client.post("/api/runs", json=order, headers=frank)
    assert refused.status_code == httpx.codes.UNPROCESSABLE_ENTITY
    assert "No column is chosen for time" in refused.json()["detail"]
    order |= {"roles": {"time": "when", "input_tokens": "inn", "output_tokens": "outt"}, "model": "gpt-4o"}
    assert run_to_end(client, frank, order)["state"] == "completed"


def test_the_page_loads_nothing_from_elsewhere(client: httpx.Client) -> None:
    """The policy allows the page its own files only, and they name no other host."""
    page = client.get("/")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    static = Path(__file__).parents[2] / "examples" / "optimizer" / "static"
    for file in static.iterdir():
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text, file
        assert "https://" not in text, file
        assert client.get(f"/{file.name}").status_code == httpx.codes.OK

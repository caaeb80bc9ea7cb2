"""The list of runs, and the stream of their changes, with Flask's test client."""

import json

import pytest

from app import create_app
from app.auth.tokens import make_token
from app.settings import Settings
from tests.routes.refusals import check_refusal

SECRET = "s" * 32


def bearer(**grants: list[str]) -> dict[str, str]:
    token = make_token(SECRET, "tailrace", grants, 60, sub="u1", aud="tailrace")
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def started(fake_store) -> None:
    for name in ("acme.1", "acme.2", "other"):
        fake_store.add(name, "lifecycle", "started", {"title": name})
    fake_store.add("acme.2", "lifecycle", "completed")


@pytest.fixture
def guarded(fake_store, started):
    settings = Settings(auth_secret=(SECRET,), public_read=("other",))
    return create_app(settings, event_store=fake_store).test_client()


def listed(http, query: str = "", **options) -> list[str]:
    response = http.get(f"/runs?{query}", **options)
    assert response.status_code == 200, response.text
    return [run["run_id"] for run in response.json["runs"]]


@pytest.mark.usefixtures("started")
def test_the_list_has_the_state_of_each_run(http):
    page = http.get("/runs").json
    assert page["next"] is None
    assert sorted(run["run_id"] for run in page["runs"]) == ["acme.1", "acme.2", "other"]
    for run in page["runs"]:
        assert run == http.get(f"/runs/{run['run_id']}").json
        assert run["meta"] == {"title": run["run_id"]}


def test_the_list_without_runs(http):
    assert http.get("/runs").json == {"runs": [], "next": None}


@pytest.mark.usefixtures("started")
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("state=active", ["acme.1", "other"]),
        ("state=ended", ["acme.2"]),
        ("prefix=acme.", ["acme.1", "acme.2"]),
        ("prefix=acme.&state=active", ["acme.1"]),
        ("prefix=", ["acme.1", "acme.2", "other"]),
        ("prefix=x", []),
        ("unknown=1", ["acme.1", "acme.2", "other"]),
    ],
)
def test_runs_are_chosen_by_state_and_prefix(http, query, expected):
    assert sorted(listed(http, query)) == expected


@pytest.mark.usefixtures("started")
@pytest.mark.parametrize("limit", [1, 2, 3])
def test_next_leads_through_the_list(http, limit):
    seen, query = [], f"limit={limit}"
    while True:
        page = http.get(f"/runs?{query}").json
        seen += [run["run_id"] for run in page["runs"]]
        if page["next"] is None:
            break
        query = f"limit={limit}&after={page['next']}"
    assert sorted(seen) == ["acme.1", "acme.2", "other"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("state=lost", "state"),
        ("state=active&state=ended", "state"),
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("prefix=a/b", "prefix"),
        ("prefix=" + "a" * 129, "prefix"),
        ("prefix=%0a", "prefix"),
        ("after=", "after"),
        ("after=1-1", "after"),
        ("after=m1.abc", "after"),
        ("after=r2.1.a", "after"),
        ("after=" + "r1.1." + "a" * 5000, "after"),
    ],
)
def test_a_bad_query_is_400(http, query, field):
    assert check_refusal(http.get(f"/runs?{query}"), 400) == [field]


def test_a_token_lists_what_it_may_read(guarded):
    assert sorted(listed(guarded, headers=bearer(read=["acme.*"]))) == ["acme.1", "acme.2", "other"]
    assert sorted(listed(guarded, headers=bearer(admin=["acme.1"]))) == ["acme.1", "other"]
    assert listed(guarded, "prefix=acme", headers=bearer(read=["x"])) == []


def test_without_a_token_only_public_runs_are_listed(guarded):
    assert listed(guarded) == ["other"]


@pytest.mark.usefixtures("started")
def test_who_may_read_nothing_lists_nothing(fake_store):
    settings = Settings(auth_secret=(SECRET,))
    http = create_app(settings, event_store=fake_store).test_client()
    for path in ("/runs", "/runs/stream"):
        assert check_refusal(http.get(path), 401) == []
        assert check_refusal(http.get(path, headers=bearer(append=["*"])), 403) == []


# The stream of changes


def frames_of(http, query: str = "", **options) -> list[dict]:
    """Return the frames up to gateway.caught_up."""
    frames, frame = [], {}
    with http.get(f"/runs/stream?{query}", **options) as response:
        assert response.status_code == 200, response.text
        for piece in response.iter_encoded():
            for line in piece.decode().splitlines():
                name, _, value = line.partition(": ")
                frame[name] = json.loads(value) if name == "data" else value
                if name == "data":
                    frames.append(frame)
                    frame = {}
            if frames and frames[-1]["data"]["event"]["action"] == "caught_up":
                return frames
    raise AssertionError("the stream has ended")


def told(frames: list[dict]) -> list[tuple[str, str]]:
    return [(frame["data"]["run_id"], frame["event"]) for frame in frames]


@pytest.mark.usefixtures("started")
def test_the_stream_tells_how_runs_begin_and_end(http, fake_store):
    fake_store.delete("other")
    frames = frames_of(http)
    assert told(frames) == [
        ("acme.1", "lifecycle.started"),
        ("acme.2", "lifecycle.started"),
        ("other", "lifecycle.started"),
        ("acme.2", "lifecycle.completed"),
        ("other", "gateway.deleted"),
        (None, "gateway.caught_up"),
    ]
    assert frames[0]["data"] == json.loads(fake_store.get_events("acme.1")[0].to_json())


@pytest.mark.usefixtures("started")
def test_the_stream_is_resumed_by_its_own_cursor(http):
    frames = frames_of(http)
    rest = frames_of(http, headers={"Last-Event-ID": frames[1]["id"]})
    assert told(rest) == told(frames)[2:]
    assert told(frames_of(http, "last_event_id=latest")) == [(None, "gateway.caught_up")]
    assert len(frames_of(http, "from_sequence=3")) == 3


def test_the_stream_has_the_runs_that_the_token_may_read(guarded):
    frames = frames_of(guarded, headers=bearer(read=["acme.1"]))
    assert told(frames) == [
        ("acme.1", "lifecycle.started"),
        ("other", "lifecycle.started"),
        (None, "gateway.caught_up"),
    ]
    frames = frames_of(guarded, "prefix=acme", headers=bearer(read=["*"]))
    assert [run_id for run_id, _ in told(frames)] == ["acme.1", "acme.2", "acme.2", None]
    assert [run_id for run_id, _ in told(frames_of(guarded))] == ["other", None]


@pytest.mark.usefixtures("started")
def test_the_stream_may_come_without_names(http):
    with http.get("/runs/stream?typed=false") as response:
        pieces = response.iter_encoded()
        text = b"".join(next(pieces) for _ in range(2)).decode()
    assert '"action":"started"' in text
    assert "event: " not in text


@pytest.mark.usefixtures("started")
def test_the_stream_may_come_as_lines(http):
    lines = []
    with http.get("/runs/stream", headers={"Accept": "application/x-ndjson"}) as response:
        for piece in response.iter_encoded():
            lines += [json.loads(line) for line in piece.splitlines()]
            if lines[-1]["event"]["action"] == "caught_up":
                break
    opening, first, *_ = lines
    assert (opening["run_id"], opening["event"]["action"]) == (None, "heartbeat")
    assert (first["run_id"], first["sequence"]) == ("acme.1", 1)
    rest = frames_of(http, f"last_event_id={first['cursor']}")
    assert told(rest)[0] == ("acme.2", "lifecycle.started")


@pytest.mark.usefixtures("started")
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/runs/{runs}:changes"),
        ("GET", "/runs/{runs}:changes/events"),
        ("GET", "/runs/{runs}:changes/events/stream"),
        ("DELETE", "/runs/{runs}:changes/events"),
        ("POST", "/runs/{runs}:changes/requests"),
        ("POST", "/runs/{runs}:changes/events"),
    ],
)
def test_no_run_can_have_the_name_of_the_log_of_changes(http, method, path):
    body = {"json": {"action": "x"}} if method == "POST" else {}
    response = http.open(path, method=method, **body)
    assert check_refusal(response, 400) == ["run_id"]
    assert "{runs}:changes" not in listed(http)


def test_a_run_may_be_called_stream(http, fake_store):
    fake_store.add("stream", "llm", "stream")
    assert listed(http) == ["stream"]

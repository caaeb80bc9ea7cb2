"""The preset of LangGraph's SDK: where a stream is joined, and the status of a run."""

import pytest

RUN = "/compat/langgraph/threads/t/runs/1"
PATH = f"{RUN}/stream"
CHUNKS = [{"run_id": "1"}, ["x", {}], {"values": 1}]


def test_a_run_is_joined_at_its_beginning(http, answer, chunks_of):
    answer("an earlier answer", None)
    answer(*CHUNKS)
    for cursor in ({}, {"Last-Event-ID": "-1"}):
        response = http.get(f"{PATH}?stream_mode=values&cancel_on_disconnect=0", headers=cursor)
        assert chunks_of(response) == CHUNKS
        assert response.headers["Location"] == "/threads/t/runs/1/stream"


@pytest.mark.parametrize("thread", ["%0A", "%0D%0AX-Other%3A%201", "a%3Fb", "a%23b", "a%25b"])
def test_a_thread_of_any_name_stays_in_its_place(http, answer, chunks_of, thread):
    answer(*CHUNKS)
    response = http.get(PATH.replace("/t/", f"/{thread}/"))
    assert chunks_of(response) == CHUNKS
    assert response.headers["Location"] == f"/threads/{thread}/runs/1/stream"


def test_a_client_goes_on_after_its_last_event(http, answer, chunks_of):
    ids = answer(*CHUNKS)
    assert chunks_of(http.get(PATH, headers={"Last-Event-ID": ids[1]})) == CHUNKS[1:]


def test_a_client_that_comes_back_after_the_end_gets_an_empty_stream(http, answer, chunks_of):
    ids = answer(*CHUNKS)
    response = http.get(PATH, headers={"Last-Event-ID": ids[-1]})
    assert chunks_of(response) == []
    assert response.headers["Location"] == "/threads/t/runs/1/stream"


@pytest.mark.parametrize("cursor", ["x", "-2", "1e9", "999999999999", "latest"])
def test_a_cursor_of_another_kind_is_400(http, answer, cursor):
    answer(*CHUNKS)
    response = http.get(PATH, headers={"Last-Event-ID": cursor})
    assert response.status_code == 400
    assert [error["field"] for error in response.json["errors"]] == ["Last-Event-ID"]


@pytest.mark.parametrize(
    ("action", "status"),
    [
        ("started", "running"),
        ("completed", "success"),
        ("cancelled", "interrupted"),
        ("failed", "error"),
        ("lost", "error"),
    ],
)
def test_a_run_has_a_status(http, fake_client, action, status):
    fields = {"event_category": "lifecycle", "event_action": action}  # nobody may append `lost`
    fake_client.xadd("run:1:events", fields)
    response = http.get(RUN)
    assert response.json == {"run_id": "1", "thread_id": "t", "status": status}


def test_a_run_that_does_not_exist_has_no_status(http):
    assert http.get(RUN).status_code == 404


def test_a_run_whose_beginning_was_trimmed_is_gone(http, answer, fake_client):
    answer(*CHUNKS)
    fake_client.xtrim("run:1:events", maxlen=2, approximate=False)
    assert http.get(PATH, headers={"Last-Event-ID": "-1"}).status_code == 410


def test_a_name_that_breaks_out_of_its_path_is_no_thread(http, answer):
    answer(*CHUNKS)
    assert http.get("/compat/langgraph/threads/a/b/runs/1/stream").status_code == 404
    response = http.get("/compat/langgraph/threads/a%0d%0aX: y/runs/1/stream")
    assert "\n" not in response.headers.get("Location", "")
    assert "X" not in response.headers


def test_head_has_no_body(http, answer):
    answer(*CHUNKS)
    response = http.head(PATH)
    assert (response.status_code, response.data) == (200, b"")

"""The preset of AG-UI and of TanStack AI: their cursors, and what a client gets after the end."""

import pytest

PATH = "/compat/ag-ui/1"
JOIN = "/compat/ag-ui"
CHUNKS = [{"type": "RUN_STARTED"}, {"type": "CUSTOM"}, {"type": "RUN_FINISHED"}]
FINISHED = {"type": "RUN_FINISHED", "threadId": "1", "runId": "1"}


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_request_of_any_kind_gets_the_answer(http, answer, chunks_of, method):
    answer({"type": "RUN_STARTED", "of": "an earlier answer"}, {"type": "RUN_FINISHED"})
    answer(*CHUNKS)
    response = http.open(PATH, method=method, data=b"\xff no JSON")
    assert chunks_of(response) == CHUNKS


@pytest.mark.parametrize("query", ["runId=1", "runId=1&offset=-1", "offset=-1&runId=1&more=x"])
def test_a_run_is_joined_at_its_beginning(http, answer, chunks_of, query):
    answer(*CHUNKS)
    assert chunks_of(http.get(f"{JOIN}?{query}")) == CHUNKS


def test_an_id_stands_right_before_its_data(http, answer):
    answer(*CHUNKS)
    lines = [line for line in http.get(PATH).text.split("\n") if line]
    data = [index for index, line in enumerate(lines) if line.startswith("data:")]
    assert len(data) == 3
    assert all(lines[index - 1].startswith("id: ") for index in data)


def test_a_cursor_in_the_header_wins_over_the_offset(http, answer, chunks_of):
    ids = answer(*CHUNKS)
    for path in (PATH, f"{JOIN}?runId=1&offset=-1", f"{JOIN}?runId=1&offset={ids[2]}"):
        response = http.get(path, headers={"Last-Event-ID": ids[1]})
        assert chunks_of(response) == CHUNKS[1:]
    assert chunks_of(http.get(f"{JOIN}?runId=1&offset={ids[1]}")) == CHUNKS[1:]
    assert chunks_of(http.get(PATH, headers={"Last-Event-ID": "-1"})) == CHUNKS


@pytest.mark.parametrize("cursor", ["x", "-2", "0", "999999999999", "1-2-3", "latest", "1e9"])
def test_a_cursor_of_another_kind_is_400(http, answer, cursor):
    answer(*CHUNKS)
    for field, response in (
        ("Last-Event-ID", http.get(PATH, headers={"Last-Event-ID": cursor})),
        ("offset", http.get(f"{JOIN}?runId=1&offset={cursor}")),
    ):
        assert response.status_code == 400
        assert [error["field"] for error in response.json["errors"]] == [field]


def test_a_join_names_its_run(http):
    response = http.get(f"{JOIN}?offset=-1")
    assert response.status_code == 400
    assert [error["field"] for error in response.json["errors"]] == ["runId"]
    assert http.get(f"{JOIN}?runId=%20&offset=-1").status_code == 400


def test_a_client_that_comes_back_after_the_end_is_told_it_again(http, answer, chunks_of):
    ids = answer(*CHUNKS)
    response = http.get(PATH, headers={"Last-Event-ID": ids[-1]})
    assert chunks_of(response) == [FINISHED]
    assert "id:" not in response.text


def test_after_the_end_of_a_failed_run_it_is_told_the_error_again(http, fake_store, chunks_of):
    end = fake_store.add(1, "lifecycle", "failed", "no more tokens")
    response = http.get(PATH, headers={"Last-Event-ID": end})
    assert chunks_of(response) == [
        {"type": "RUN_ERROR", "message": "no more tokens", "code": "failed"}
    ]


def test_a_cursor_from_another_log_is_an_error(http, answer, chunks_of):
    answer(*CHUNKS)
    [error] = chunks_of(http.get(PATH, headers={"Last-Event-ID": "99999999999999-0"}))
    assert (error["type"], error["code"]) == ("RUN_ERROR", "reset")


def test_events_that_are_missing_are_an_error(http, answer, fake_client, chunks_of):
    ids = answer(*CHUNKS)
    fake_client.xtrim("run:1:events", maxlen=1, approximate=False)
    [error] = chunks_of(http.get(PATH, headers={"Last-Event-ID": ids[0]}))
    assert (error["type"], error["code"]) == ("RUN_ERROR", "gap")
    assert http.get(PATH).status_code == 410
    assert http.get(f"{JOIN}?runId=1&offset=-1").status_code == 410


def test_a_run_of_ordinary_events_has_an_end_only(http, ids, fake_store, chunks_of):
    fake_store.add(1, "lifecycle", "completed", 7)
    assert chunks_of(http.get(PATH)) == [FINISHED]


def test_head_has_no_body(http, answer):
    answer(*CHUNKS)
    for path in (PATH, f"{JOIN}?runId=1"):
        response = http.head(path)
        assert (response.status_code, response.data) == (200, b"")


def test_who_comes_back_after_an_end_is_told_it_and_nothing_of_the_next_answer(
    http, answer, chunks_of
):
    *_, end = answer(*CHUNKS)
    answer({"type": "RUN_STARTED", "of": "the next answer"}, {"type": "RUN_FINISHED"})
    for response in (
        http.get(PATH, headers={"Last-Event-ID": end}),
        http.get(f"{JOIN}?runId=1&offset={end}"),
    ):
        assert chunks_of(response) == [FINISHED]

"""GET /runs/{id}: the state of one run's log."""


def test_the_state_of_a_run_has_its_length_ids_sequence_and_ttl(http, fake_store, fake_client):
    first = fake_store.add("a", "lifecycle", "started")
    last = fake_store.add("a", "llm", "stream")
    fake_client.expire("run:a:events", 1000)
    state = http.get("/runs/a").json
    assert 900 < state.pop("ttl") <= 1000
    assert state == {
        "run_id": "a",
        "length": 2,
        "first_id": first,
        "last_id": last,
        "last_sequence": 2,
        "ended": False,
    }


def test_the_state_of_an_ended_run_says_that_it_has_ended(http, fake_store):
    fake_store.add("a", "lifecycle", "failed")
    assert http.get("/runs/a").json["ended"] is True


def test_a_log_that_another_program_wrote_has_no_ttl(http, fake_client):
    fake_client.xadd("run:a:events", {"anything": "at all"})
    assert http.get("/runs/a").json["ttl"] is None


def test_a_log_without_entries_still_has_its_last_id(http, fake_store, fake_client):
    last = fake_store.add("a", "llm", "stream")
    fake_client.xtrim("run:a:events", maxlen=0, approximate=False)
    state = http.get("/runs/a").json
    assert (state["length"], state["first_id"], state["last_id"]) == (0, None, last)


def test_a_run_without_a_log_is_404(http):
    response = http.get("/runs/a")
    assert (response.status_code, response.mimetype) == (404, "application/problem+json")


def test_an_invalid_run_id_is_400(http):
    response = http.get("/runs/a b")
    assert response.status_code == 400
    assert [error["field"] for error in response.json["errors"]] == ["run_id"]

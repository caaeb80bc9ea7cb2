"""The state of one run's log over HTTP."""


def test_the_state_of_a_run_is_told(http, fake_store, fake_client):
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


def test_an_ended_run_says_so(http, fake_store):
    fake_store.add("a", "lifecycle", "failed")
    assert http.get("/runs/a").json["ended"] is True


def test_a_log_of_others_has_no_ttl(http, fake_client):
    fake_client.xadd("run:a:events", {"anything": "at all"})
    assert http.get("/runs/a").json["ttl"] is None


def test_a_log_whose_entries_are_all_gone_is_still_there(http, fake_store, fake_client):
    last = fake_store.add("a", "llm", "stream")
    fake_client.xtrim("run:a:events", maxlen=0, approximate=False)
    state = http.get("/runs/a").json
    assert (state["length"], state["first_id"], state["last_id"]) == (0, None, last)


def test_a_run_without_a_log_is_404(http):
    answer = http.get("/runs/a")
    assert (answer.status_code, answer.mimetype) == (404, "application/problem+json")


def test_a_run_id_of_another_form_is_400(http):
    answer = http.get("/runs/a b")
    assert answer.status_code == 400
    assert [error["field"] for error in answer.json["errors"]] == ["run_id"]

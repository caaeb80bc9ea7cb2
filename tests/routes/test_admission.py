"""The admission's bounds, and how appends meet them, with Flask's test client."""

import contextlib

import pytest
from flask.testing import FlaskClient

from app.capacity import Capacity
from app.routes.admission import Admission, Reservation, TooBusy
from app.settings import Settings

EVENT = {"event_category": "llm", "event_action": "stream"}
PATH = "/runs/1/events"
PLACES = Capacity(streams=10, appends=20, bodies=30, others=4)


def test_bytes_are_held_up_to_the_limit_and_not_beyond():
    admission = Admission(10, PLACES)
    one, other = Reservation(admission), Reservation(admission)
    one.hold(admission.most_bytes - 3)
    other.hold(3)
    with pytest.raises(TooBusy):
        other.hold(1)
    assert (one.bytes + other.bytes, admission.bytes) == (
        admission.most_bytes,
        admission.most_bytes,
    )
    one.let_go(1)
    other.hold(1)
    with pytest.raises(TooBusy):
        one.hold(1)


def test_appends_are_taken_up_to_the_limit_and_let_go_of_all_that_they_hold():
    admission = Admission(10, PLACES)
    with contextlib.ExitStack() as stack:
        for _ in range(PLACES.appends):
            stack.enter_context(Reservation(admission)).take_place()
        with pytest.raises(TooBusy), Reservation(admission) as reservation:
            reservation.take_place()
        assert admission.appends == PLACES.appends
    with Reservation(admission) as reservation:
        reservation.hold(10)
        reservation.let_go(3)
    with pytest.raises(TooBusy), Reservation(admission) as reservation:
        reservation.hold(admission.most_bytes + 1)
    assert (admission.appends, admission.bytes) == (0, 0)


def test_bodies_are_waited_for_up_to_a_limit_of_their_own():
    admission = Admission(10, PLACES)
    with contextlib.ExitStack() as stack:
        for _ in range(PLACES.bodies):
            stack.enter_context(Reservation(admission).reading())
        with pytest.raises(TooBusy), Reservation(admission).reading():
            pytest.fail("one too many")
        with Reservation(admission) as reservation:
            reservation.take_place()
    assert (admission.appends, admission.reading) == (0, 0)


def test_those_who_linger_have_half_of_the_places_of_others():
    admission = Admission(10, PLACES)
    with admission.linger() as one, admission.linger() as two, admission.linger() as three:
        assert (one, two, three) == (True, True, False)
    assert admission.lingering == 0


def test_the_limit_is_64_of_the_largest_bodies_and_holds_a_few_pieces_in_any_case():
    assert Admission(4_194_304, PLACES).most_bytes == 64 * 4_194_304
    assert Admission(1, PLACES).most_bytes == 16 * 1024 * 1024


@pytest.fixture
def settings() -> Settings:
    return Settings(max_body_bytes=1000)


def intake_of(http: FlaskClient) -> Admission:
    return http.application.extensions["tailrace"].admission


@pytest.mark.parametrize(
    ("bound", "value"),
    [("appends", 1500), ("bytes", Admission(1000, PLACES).most_bytes - 10)],
)
@pytest.mark.parametrize("body", [EVENT, [EVENT, EVENT]])
def test_an_append_too_many_is_429_and_stores_nothing(http, fake_client, bound, value, body):
    setattr(intake_of(http), bound, value)
    answer = http.post(PATH, json=body)
    assert answer.status_code == 429
    assert answer.mimetype == "application/problem+json"
    assert int(answer.headers["Retry-After"]) >= 1
    assert answer.json["stored"] is False
    assert fake_client.keys("*") == []
    assert getattr(intake_of(http), bound) == value
    assert http.get("/healthz").status_code == 200
    assert http.get(PATH).status_code == 200
    setattr(intake_of(http), bound, 0)
    assert http.post(PATH, json=body).status_code == 201


@pytest.mark.parametrize("body", [b"{}", b"{", b"x" * 1000, b"x" * 1001, b"x" * 200_000])
def test_nothing_is_held_once_an_append_was_refused(http, body):
    assert http.post(PATH, data=body, content_type="application/json").status_code >= 400
    assert (intake_of(http).appends, intake_of(http).bytes) == (0, 0)

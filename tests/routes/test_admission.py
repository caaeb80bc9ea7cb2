"""The limits of the admission, by themselves and for appends with Flask's test client."""

import contextlib

import pytest
from flask.testing import FlaskClient

from app.capacity import Capacity
from app.routes.admission import Admission, LaneLimit, Limit, Reservation, TooBusy
from app.settings import Settings

EVENT = {"event_category": "llm", "event_action": "stream"}
PATH = "/runs/1/events"
CAPACITY = Capacity(streams=10, appends=20, bodies=30, others=4)


def test_reserved_bytes_never_exceed_the_limit():
    admission = Admission(10, CAPACITY)
    first, second = Reservation(admission), Reservation(admission)
    first.hold(admission.bytes.maximum - 3)
    second.hold(3)
    with pytest.raises(TooBusy):
        second.hold(1)
    assert first.bytes + second.bytes == admission.bytes.held == admission.bytes.maximum
    first.resize(first.bytes - 1)
    second.hold(1)
    with pytest.raises(TooBusy):
        first.hold(1)


def test_appends_are_admitted_up_to_the_limit_and_release_what_they_reserved():
    admission = Admission(10, CAPACITY)
    with contextlib.ExitStack() as stack:
        for _ in range(CAPACITY.appends):
            stack.enter_context(Reservation(admission)).begin_append()
        with pytest.raises(TooBusy), Reservation(admission) as reservation:
            reservation.begin_append()
        assert admission.appends.held == CAPACITY.appends
    with Reservation(admission) as reservation:
        reservation.hold(10)
        reservation.resize(7)
    with pytest.raises(TooBusy), Reservation(admission) as reservation:
        reservation.hold(admission.bytes.maximum + 1)
    assert (admission.appends.held, admission.bytes.held) == (0, 0)


def test_no_lane_takes_more_than_half_if_there_are_several():
    admission = Admission(10, CAPACITY, lanes=True)
    half = admission.bytes.maximum // 2
    with contextlib.ExitStack() as stack:
        for _ in range(CAPACITY.appends // 2):
            stack.enter_context(Reservation(admission, "frozen")).begin_append()
        with pytest.raises(TooBusy), Reservation(admission, "frozen") as reservation:
            reservation.begin_append()
        stack.enter_context(Reservation(admission, "frozen")).hold(half)
        with pytest.raises(TooBusy), Reservation(admission, "frozen") as reservation:
            reservation.hold(1)
        other = stack.enter_context(Reservation(admission, "well"))
        other.begin_append()
        other.hold(half // 2)
        assert (admission.appends.held, admission.bytes.held) == (11, half + half // 2)
    with Reservation(admission, "frozen") as reservation:
        reservation.begin_append()
        reservation.hold(half)
        reservation.resize(0)
    assert (admission.appends.held, admission.bytes.held) == (0, 0)


def taken(limit: LaneLimit, lane: str) -> int:
    """Fill a lane one by one, and return how much it took."""
    count = 0
    while limit.take(1, lane):
        count += 1
    return count


def test_a_lane_takes_half_of_what_the_others_leave_free():
    limit = LaneLimit(100, parts=2)
    assert [taken(limit, lane) for lane in ("frozen", "frozen too", "well")] == [50, 25, 12]
    limit.release(25, "frozen too")
    assert taken(limit, "well") == 13
    limit.release(50, "frozen")
    assert taken(limit, "frozen") == 37
    assert limit.held == 37 + 25


def test_each_lane_has_a_place_until_all_are_taken():
    assert taken(LaneLimit(1, parts=2), "one") == 1
    limit = LaneLimit(4, parts=2)
    assert [taken(limit, lane) for lane in ("one", "two", "three", "four")] == [2, 1, 1, 0]


def test_a_lane_of_bytes_has_room_for_the_largest_body_until_all_is_taken():
    limit = Admission(1_000_000, CAPACITY, lanes=True).bytes
    for lane in range(5):  # five nodes that stand still
        while limit.take(1_000_000, str(lane)):
            pass
    assert limit.maximum - limit.held >= 2_000_000
    assert limit.take(1_000_000, "well")


def test_without_lanes_all_places_may_be_taken():
    assert taken(Admission(10, CAPACITY).appends, "server") == CAPACITY.appends


def test_bytes_go_along_to_another_lane():
    admission = Admission(10, CAPACITY, lanes=True)
    half = admission.bytes.maximum // 2
    with Reservation(admission, "frozen") as moved, Reservation(admission, "well") as other:
        moved.hold(half)
        other.hold(half // 2)
        moved.move("well")
        with pytest.raises(TooBusy):
            other.hold(1)
        with Reservation(admission, "frozen") as third:
            third.hold(1)
        assert moved.bytes == half
        moved.resize(0)
        other.resize(half)
    assert (admission.bytes.held, admission.bytes._held_in) == (0, {})


def test_arriving_bodies_have_a_separate_limit():
    admission = Admission(10, CAPACITY)
    with contextlib.ExitStack() as stack:
        for _ in range(CAPACITY.bodies):
            stack.enter_context(Reservation(admission).receiving())
        with pytest.raises(TooBusy), Reservation(admission).receiving():
            pytest.fail("one too many")
        with Reservation(admission) as reservation:
            reservation.begin_append()
    assert (admission.appends.held, admission.bodies.held) == (0, 0)


def test_lingering_connections_may_take_half_of_the_places_of_short_requests():
    assert Admission(10, CAPACITY).lingering.maximum == CAPACITY.others // 2 == 2


def test_a_limit_counts_up_to_its_maximum():
    limit = Limit(2)
    assert [limit.take(), limit.take(), limit.take()] == [True, True, False]
    limit.release()
    assert limit.take()
    assert limit.held == 2


def test_the_limit_of_bytes_is_64_bodies_of_the_maximum_size_and_at_least_16_mib():
    assert Admission(4_194_304, CAPACITY).bytes.maximum == 64 * 4_194_304
    assert Admission(1, CAPACITY).bytes.maximum == 16 * 1024 * 1024


@pytest.fixture
def settings() -> Settings:
    return Settings(max_body_bytes=1000)


def admission_of(http: FlaskClient) -> Admission:
    return http.application.extensions["tailrace"].admission


@pytest.mark.parametrize(
    ("name", "value"),
    [("appends", 1500), ("bytes", Admission(1000, CAPACITY).bytes.maximum - 10)],
)
@pytest.mark.parametrize("body", [EVENT, [EVENT, EVENT]])
def test_an_append_over_the_limit_is_429_and_stores_nothing(http, fake_client, name, value, body):
    limit = getattr(admission_of(http), name)
    limit.take(value)
    response = http.post(PATH, json=body)
    assert response.status_code == 429
    assert response.mimetype == "application/problem+json"
    assert int(response.headers["Retry-After"]) >= 1
    assert response.json["stored"] is False
    assert fake_client.keys("*") == []
    assert limit.held == value
    assert http.get("/healthz").status_code == 200
    assert http.get(PATH).status_code == 200
    limit.release(value)
    assert http.post(PATH, json=body).status_code == 201


@pytest.mark.parametrize("body", [b"{}", b"{", b"x" * 1000, b"x" * 1001, b"x" * 200_000])
def test_a_refused_append_releases_its_reservation(http, body):
    assert http.post(PATH, data=body, content_type="application/json").status_code >= 400
    assert (admission_of(http).appends.held, admission_of(http).bytes.held) == (0, 0)

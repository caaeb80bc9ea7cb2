"""Revocations: which tokens they are for, and what is no revocation."""

import math

import pytest

from app.auth.grants import Grants
from app.auth.identity import Identity
from app.auth.revocations import Revocations, parse_revocation


def identity(**fields: object) -> Identity:
    return Identity("sub:u", Grants({}), **{"subject": "u", "expires_at": 2000.0} | fields)


def revoked(*values: dict, now: float = 1000.0) -> Revocations:
    revocations = Revocations()
    for value in values:
        revocations.add(parse_revocation(value, now))
    return revocations


def test_a_token_is_revoked_by_its_id():
    revocations = revoked({"jti": "a"})
    assert revocations.include(identity(token_id="a", subject=None))
    assert not revocations.include(identity(token_id="b"))
    assert not revocations.include(identity())


@pytest.mark.parametrize(
    ("issued_at", "is_revoked"), [(None, True), (999, True), (999.9, True), (1000, False)]
)
def test_all_tokens_of_a_subject_that_were_issued_before(issued_at, is_revoked):
    for value in ({"sub": "u"}, {"sub": "u", "before": 1000}):
        assert revoked(value).include(identity(issued_at=issued_at)) is is_revoked
        assert not revoked(value).include(identity(issued_at=issued_at, subject="v"))


def test_the_latest_time_counts_in_any_order():
    revocations = revoked({"sub": "u", "before": 1000}, {"sub": "u", "before": 500})
    assert revocations.include(identity(issued_at=999))


def test_an_api_key_is_not_revoked():
    assert not revoked({"sub": "u"}).include(identity(expires_at=None))


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"jti": "a", "sub": "u"},
        {"jti": "a", "before": 1},
        {"before": 1},
        {"jti": "a", "x": 1},
        {"jti": ""},
        {"jti": 1},
        {"jti": "a" * 257},
        {"sub": "u", "before": "1"},
        {"sub": "u", "before": True},
        {"sub": "u", "before": -1},
        {"sub": "u", "before": math.inf},
        {"sub": "u", "before": math.nan},
        {"sub": "u", "before": 10**400},
    ],
)
def test_what_is_no_revocation(value):
    with pytest.raises(ValueError, match=r"^(body|jti|sub|before): "):
        parse_revocation(value, 1000.0)

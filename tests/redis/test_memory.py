"""The formula of docs/redis.md is near what Redis uses, on every server and for every shape."""

import re

import pytest

from tests.redis.acl import REDIS_MD
from tests.redis.measure_memory import SHAPES, Shape, measure
from tests.redis.programs import Program, every_program

TOLERANCE = 0.15
FORMULA = re.compile(
    r"^bytes = ([\d,]+) \+ events × \((\d+) \+ ([\d.]+) × data\) \+ keys × (\d+)$", re.MULTILINE
)
KEYS_ON_VALKEY = re.compile(r"On Valkey a key takes (\d+) bytes")


def estimate(shape: Shape, program: Program) -> float:
    """Return the bytes of a run, as the document computes them."""
    text = REDIS_MD.read_text()
    [found] = FORMULA.findall(text)
    fixed, event, factor, key = (float(each.replace(",", "")) for each in found)
    if "valkey" in program.name:
        key = float(KEYS_ON_VALKEY.search(text)[1])
    keys = shape.events * shape.keys
    return fixed + shape.events * (event + factor * shape.data) + keys * key


@every_program
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_a_run_takes_what_the_document_says(program, shape):
    measured = measure(program, shape)
    assert estimate(shape, program) == pytest.approx(measured.used, rel=TOLERANCE)
    assert estimate(shape, program) == pytest.approx(measured.by_keys, rel=TOLERANCE)

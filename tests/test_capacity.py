"""The capacity of a worker, for a number of streams and of files that it may open."""

import pytest

from app.capacity import OTHER_FILES, Capacity
from app.server.connections import FEWEST_WAITING, min_waiting


def test_with_enough_files_every_kind_has_its_maximum():
    assert Capacity.of(10_000, 2**31) == (10_000, 1500, 1500, 1000)
    assert Capacity.of(4, 20_000) == (4, 1500, 1500, 1000)


@pytest.mark.parametrize("max_streams", [1, 100, 10_000, 10**9])
@pytest.mark.parametrize("files", [1, 64, 256, 400, 1024, 4096, 10_000, 65_536])
def test_all_kinds_together_leave_files_for_redis_and_each_has_at_least_one_place(
    max_streams, files
):
    capacity = Capacity.of(max_streams, files)
    assert all(limit >= 1 for limit in capacity)
    waiting = min_waiting(sum(capacity)) - FEWEST_WAITING
    needed = sum(capacity) + waiting + OTHER_FILES + capacity.streams // 64
    assert needed <= max(files, OTHER_FILES + 4)
    assert capacity.streams <= max_streams


def test_streams_get_most_of_a_small_number_of_files():
    assert Capacity.of(10_000, 1024).streams > 600

"""How pytest-xdist distributes the tests over its processes."""

from xdist.scheduler import LoadScopeScheduling

# Tests that share a server of their module, or would take each other's port in two processes:
# every launcher looks for a free port for its Redis from 6379 on, and needs the same port again
# after a crash.
GROUPS = (
    "tests/integration/launcher/",
    "tests/integration/quickstart/",
    "tests/integration/ingest/test_bad_lines.py",
    "tests/integration/test_overload.py",
    "tests/integration/test_redis_away.py",
    "tests/integration/test_redis_full.py",
    "tests/integration/test_stalled_clients.py",
)


class GroupScheduling(LoadScopeScheduling):
    """Gives each test to the next free process, and all tests of a group to the same one.

    The mark `xdist_group` of pytest-xdist 3.8 has no effect under pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        return next((group for group in GROUPS if nodeid.startswith(group)), nodeid)

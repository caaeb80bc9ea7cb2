"""The tests of this folder run over both clients."""

from tests.both_clients import (  # noqa: F401
    client_class,
    pytest_configure,
    pytest_generate_tests,
)

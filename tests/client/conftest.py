"""The tests of this folder run over both clients."""

from tests.both_clients import client_class, pytest_generate_tests  # noqa: F401

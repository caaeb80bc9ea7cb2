"""The short form of the contract test; `python -m tests.contract` is the long one."""

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.contract.machine import ContractMachine

SHORT = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
)


def test_the_gateway_does_what_the_documents_say(gateway, redis_client):
    ContractMachine.port, ContractMachine.client = gateway.port, redis_client
    run_state_machine_as_test(ContractMachine, settings=SHORT)

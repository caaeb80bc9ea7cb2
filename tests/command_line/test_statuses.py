"""The exit status of what nobody expected."""

import pytest

from app import command_line


@pytest.mark.parametrize("error", [KeyError("last_event"), RecursionError(), OSError("\x1b[2J")])
def test_an_unexpected_exception_is_never_the_status_of_a_failed_run(monkeypatch, capsys, error):
    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(command_line.cli, "main", fail)
    assert command_line.run(["follow", "1"]) == 70
    told = capsys.readouterr().err
    assert type(error).__name__ in told
    assert "\x1b" not in told

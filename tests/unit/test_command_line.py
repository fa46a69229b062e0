"""The command line as a stranger meets it: every command explains itself, every slip is one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click
import pytest

from tracker.__main__ import cli, main


def commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """A command and all below it; not those that only our own processes call."""
    if command.hidden:
        return
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from commands(below, f"{path} {name}")


ALL = [one for one in commands(cli, "tracker") if one[0] != "tracker"]


def test_the_commands_of_the_contract_are_there() -> None:
    """An empty list would make the tests below green for nothing."""
    assert {"tracker dev", "tracker db init", "tracker link add", "tracker spool ship", "tracker verify"} <= dict(ALL).keys()


@pytest.mark.parametrize(("path", "command"), ALL, ids=[path for path, _ in ALL])
def test_every_command_has_help_with_an_example(path: str, command: click.Command) -> None:
    _, found, example = (command.help or "").partition("Example:")
    assert found
    assert path in example


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("bogus", "'bogus'"), ("verify --bogus", "--bogus"), ("journal replay", "--since"), ("coupon show X", "--program"),
        ("link edit demo --status bogus", "'bogus' is not one of"), ("spool verify /no/such/place", "/no/such/place"),
        ("dev --port eighty", "'eighty'"), ("link list too-much", "too-much"),
    ],
)
def test_a_slip_is_one_line_that_says_which_and_why(
    arguments: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2. The line ends in the command whose help has more: logs and people read the last line first."""
    monkeypatch.setattr(sys, "argv", ["tracker", *arguments.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    output, error = capsys.readouterr()
    assert (2, "", 1) == (ended.value.code, output, error.count("\n"))
    assert says in error
    assert error.endswith("--help\n")


def test_who_asks_for_nothing_is_shown_what_there_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["tracker"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert 2 == ended.value.code
    assert "Try it:            tracker dev" in capsys.readouterr().err

"""README's tables are the program's: a setting, a metric or a file that is told must be there, and the other way round."""

import re
import shlex
from pathlib import Path

import click
import pytest

from tracker.__main__ import cli
from tracker.metrics import described
from tracker.settings import settings_table

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_table_of_settings_is_the_table_of_settings() -> None:
    told = re.findall(r"^\| `(TRACKER_[A-Z_]+)` \| (.*?) \| (.*?) \| (.*?) \|$", README, re.MULTILINE)
    expected = [
        (one.name, one.values, one.default, one.meaning + (f" (or `{one.name}_FILE`)" if one.secret else ""))
        for one in settings_table()
    ]
    assert expected == told


def test_every_metric_that_is_told_exists() -> None:
    names = {metric["name"] for metric in described()}
    roles = set(re.findall(r"'(tracker_[a-z]+)'", (ROOT / "tracker" / "storage" / "roles.sql").read_text()))
    told = set(re.findall(r"`(tracker_[a-z_]+)`", README)) - roles
    assert told
    assert told <= names


def test_every_file_that_is_told_exists() -> None:
    for name in set(re.findall(r"`(test_[a-z_0-9]+\.py)`", README)):
        assert list((ROOT / "tests").rglob(name)), name
    for name in set(re.findall(r"\((bench/[a-z_/]+\.[a-z]+)\)", README)):
        assert (ROOT / name).exists(), name


def test_the_two_commands_come_first() -> None:
    commands = re.findall(r"```sh\n(.*?)\n```", README, re.DOTALL)
    install = "python3 -m venv .venv && .venv/bin/pip install -e '.[dev]' && "
    assert [install + ".venv/bin/tracker dev", install + ".venv/bin/pytest"] == commands[:2]


def test_every_command_that_is_told_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runbook is read at night: a command or an option that is not there costs the minutes it was to save."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".tracker").mkdir()
    blocks = re.findall(r"```(?:sh|console)\n(.*?)```", README, re.DOTALL)
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    lines = re.findall(r"`([^`\n]+)`", prose) + [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
    commands = [line for line in lines if line.startswith("tracker ")]
    assert len(commands) > 20
    for line in commands:
        command: click.Command = cli
        words = shlex.split(line.partition(" | ")[0].replace("/mnt/old-disk/spool", str(tmp_path)))[1:]
        while isinstance(command, click.Group) and words:
            found = command.get_command(click.Context(command), words.pop(0))
            assert found, line
            command = found
        if not isinstance(command, click.Group):
            command.make_context(line, words)      # raises what a wrong option or value says

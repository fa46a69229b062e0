"""README's tables are the program's: a setting, a metric or a file that is told must be there, and the other way round."""

import re
from pathlib import Path

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
    told = set(re.findall(r"`(tracker_[a-z_]+)`", README))
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

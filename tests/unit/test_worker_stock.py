"""The stock of worker numbers on a disk: a file counts where and while it was meant to, and is gone before its number is used."""

import fcntl
import json
import os
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tracker.storage.spool import worker_numbers
from tracker.storage.spool.worker_numbers import NoNumberError, take

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def a_stock(root: Path, *numbers: int) -> Path:
    """The stock under `root`, with these numbers in it, reserved just NOW."""
    with worker_numbers._locked(root) as stock:
        for number in numbers:
            worker_numbers._put(stock, number, NOW)
    return stock


def edited(file: Path, **changes: Any) -> Path:
    """Change what a stock file says, in its own inode."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return file


def descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def test_numbers_are_taken_once_each_and_then_there_are_none(tmp_path: Path) -> None:
    before = descriptors()
    a_stock(tmp_path / "deep" / "root", 0, 32_767)
    assert {0, 32_767} == {take(tmp_path / "deep" / "root", now=NOW) for _ in range(2)}
    for root in (tmp_path / "deep" / "root", tmp_path / "new"):
        with pytest.raises(NoNumberError, match="no worker number in stock"):
            take(root, now=NOW)
    assert before == descriptors()


def test_the_stock_is_private(tmp_path: Path) -> None:
    stock = a_stock(tmp_path, 5)
    assert [0o700, 0o600] == [stat.S_IMODE(path.stat().st_mode) for path in (stock, stock / "5.json")]
    with pytest.raises(FileExistsError):
        a_stock(tmp_path, 5)


@pytest.mark.parametrize(
    ("age", "counts"),
    [(timedelta(days=29, minutes=-1), True), (timedelta(days=29, minutes=1), False),
     (timedelta(hours=-24, minutes=1), True), (timedelta(hours=-24, minutes=-1), False)],
)
def test_a_file_counts_for_its_time(tmp_path: Path, age: timedelta, counts: bool) -> None:
    """Older, PostgreSQL has given the number to somebody else; from a future beyond a wrong clock, nothing is known of it."""
    a_stock(tmp_path, 5)
    if counts:
        assert 5 == take(tmp_path, now=NOW + age)
    else:
        with pytest.raises(NoNumberError):
            take(tmp_path, now=NOW + age)


BROKEN: dict[str, Callable[[Path], object]] = {
    "another number": lambda file: edited(file, number=6),
    "a number above the limit": lambda file: edited(file, number=32_768).rename(file.with_name("32768.json")),
    "a number below zero": lambda file: edited(file, number=-1).rename(file.with_name("-1.json")),
    "no number": lambda file: edited(file, number=None),
    "words for a number": lambda file: edited(file, number="five"),
    "another inode": lambda file: edited(file, inode=1),
    "another host": lambda file: edited(file, hostname="x"),
    "another machine": lambda file: edited(file, machine_id="x"),
    "no time": lambda file: edited(file, reserved=None),
    "a time without a zone": lambda file: edited(file, reserved="2026-11-22T00:00:00"),
    "no JSON": lambda file: file.write_text("{"),
    "an array": lambda file: file.write_text("[]"),
    "nothing of it": lambda file: file.write_text("{}"),
    "a link to nowhere": lambda file: file.rename(file.with_name("x")).with_name("5.json").symlink_to("nowhere"),
}


@pytest.mark.parametrize("damage", BROKEN.values(), ids=BROKEN)
def test_a_file_that_is_not_what_was_put_there_is_thrown_away_and_the_next_is_taken(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    stock = a_stock(tmp_path, 5, 9)
    damage(stock / "5.json")
    assert 9 == take(tmp_path, now=NOW)
    assert [] == list(stock.glob("*.json"))


def test_a_number_is_gone_from_the_disk_before_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power cut it must not be in stock again: the directory is synced behind the unlink; files put there, too."""
    synced: list[tuple[str, list[str]]] = []

    def fsync(fd: int) -> None:
        synced.append((Path(f"/proc/self/fd/{fd}").readlink().name, sorted(os.listdir(tmp_path / "numbers"))))  # noqa: PTH208

    monkeypatch.setattr(os, "fsync", fsync)
    before = descriptors()
    a_stock(tmp_path, 5)
    assert 5 == take(tmp_path, now=NOW)
    assert [("5.json", ["5.json"]), ("numbers", [])] == synced
    assert before == descriptors()


def test_whoever_changes_the_stock_has_it_alone(tmp_path: Path) -> None:
    with worker_numbers._locked(tmp_path) as stock:
        fd = os.open(stock, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(fd)


def test_a_machine_is_known_by_the_first_file_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers have none: their name must do."""
    files = (tmp_path / "one", tmp_path / "two")
    monkeypatch.setattr(worker_numbers, "_MACHINE_ID_FILES", files)
    assert (os.uname().nodename, "") == (worker_numbers._Place.here().hostname, worker_numbers._Place.here().machine_id)
    files[1].write_text("second\n")
    assert "second" == worker_numbers._Place.here().machine_id
    files[0].write_text("first\n")
    assert (os.uname().nodename, "first") == (worker_numbers._Place.here().hostname, worker_numbers._Place.here().machine_id)

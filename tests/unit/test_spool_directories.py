"""Spools as directories of a real file system: made, locked, found, shipped, removed."""

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tracker.storage.spool.dead_spool import DeadSpool, find_spools, read_about, verify
from tracker.storage.spool.reader import Batch, LogReader
from tracker.storage.spool.segments import Column
from tracker.storage.spool.spool import JOURNAL_COLUMNS, Spool, SpoolError

COLUMNS = (Column("click_id", 2950),)


def a_spool(root: Path, *, spool_id: int = 0xABC, max_bytes: int = 2**30, segment_bytes: int = 16384) -> Spool:
    return Spool.create(
        root,
        spool_id=spool_id,
        worker=7,
        clicks=COLUMNS,
        max_bytes=max_bytes,
        sync="50ms",
        clicks_segment_bytes=segment_bytes,
        journal_segment_bytes=segment_bytes,
        created=datetime(2026, 1, 2, tzinfo=UTC),
    )


async def test_a_spool_is_a_private_directory_that_says_whose_it_is(tmp_path: Path) -> None:
    """A spool holds visitors' addresses, so nobody else may read it; and people must see which worker wrote it."""
    spool = a_spool(tmp_path / "deep" / "spool")
    assert sorted(path.name for path in spool.path.iterdir()) == [
        "clicks-00000000.seg",
        "journal-00000000.seg",
        "lock",
        "spool.json",
    ]
    assert spool.path.name == "0000000000000abc"
    assert stat.S_IMODE(spool.path.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in spool.path.iterdir()} == {0o600}
    about = json.loads((spool.path / "spool.json").read_text())
    expected = {"spool_id": "0000000000000abc", "worker": 7, "created": "2026-01-02T00:00:00+00:00"}
    assert expected == {key: about[key] for key in expected}
    assert about["hostname"] == os.uname().nodename
    assert find_spools(tmp_path / "deep" / "spool") == [spool.path]
    spool.close()


@pytest.mark.fault(17)
async def test_a_spool_is_taken_by_one_process_at_a_time(tmp_path: Path) -> None:
    """Two shippers of one spool, or one beside its living writer, would race for the cursor with every batch."""
    spool = a_spool(tmp_path)
    assert DeadSpool.open(spool.path) is None
    spool.close()
    dead = DeadSpool.open(spool.path)
    assert dead is not None
    assert DeadSpool.open(spool.path) is None
    dead.close()
    again = DeadSpool.open(spool.path)
    assert again is not None
    again.close()


@pytest.mark.fault(17)
async def test_a_second_start_never_writes_what_the_first_one_made(tmp_path: Path) -> None:
    """Two writers with the same id would give the same numbers to different clicks."""
    spool = a_spool(tmp_path)
    with pytest.raises(SpoolError, match="never written by a second start"):
        a_spool(tmp_path)
    spool.close()
    with pytest.raises(SpoolError, match="never written by a second start"):
        a_spool(tmp_path)


async def test_a_spool_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    """The operator must see which setting is wrong."""
    with pytest.raises(SpoolError, match="TRACKER_SPOOL_MAX_BYTES=100000 is too small"):
        a_spool(tmp_path, max_bytes=100_000)
    (tmp_path / "file").touch()
    with pytest.raises(SpoolError, match=r"cannot make the spool .*file"):
        a_spool(tmp_path / "file")


async def test_both_logs_come_back_from_a_dead_spool_and_only_then_may_it_be_removed(tmp_path: Path) -> None:
    """Never delete before Postgres confirmed."""
    spool = a_spool(tmp_path)
    spool.clicks.append([b"click", b"another"])
    spool.journal.append([b'{"message":1}'])
    await spool.sync()
    assert spool.healthy
    spool.close()
    assert (spool.path / "clicks-00000000.seg").stat().st_size < 16384  # the preallocated rest went back
    dead = DeadSpool.open(spool.path)
    assert dead is not None
    assert (dead.spool_id, dead.copied, dead.about["worker"]) == (0xABC, False, 7)
    clicks = dead.clicks.read(0, max_rows=10, max_bytes=1000)
    journal = dead.journal.read(0, max_rows=10, max_bytes=1000)
    assert isinstance(clicks, Batch)
    assert isinstance(journal, Batch)
    assert (clicks.rows, list(clicks.lengths), clicks.columns) == (b"clickanother", [5, 7], COLUMNS)
    assert (journal.rows, journal.columns) == (b'{"message":1}', JOURNAL_COLUMNS)
    for cursors in ((1, 1), (2, 0)):
        with pytest.raises(SpoolError, match="are shipped"):
            dead.remove(clicks=cursors[0], journal=cursors[1])
    dead.remove(clicks=2, journal=1)
    assert list(tmp_path.iterdir()) == []


async def test_a_copied_directory_is_known_as_one_and_can_be_shipped(tmp_path: Path) -> None:
    """Somebody restores a backup beside the original: nothing may be written there, and its rows are counted once."""
    spool = a_spool(tmp_path)
    spool.clicks.append([b"click"])
    copy = tmp_path / "backup of yesterday"
    shutil.copytree(spool.path, copy)
    assert set(find_spools(tmp_path)) == {copy, spool.path}
    dead = DeadSpool.open(copy)
    assert dead is not None
    assert (dead.spool_id, dead.copied) == (0xABC, True)
    assert isinstance(dead.clicks.read(0, max_rows=10, max_bytes=1000), Batch)
    dead.close()
    spool.close()


async def test_what_is_no_spool_is_left_alone(tmp_path: Path) -> None:
    """The snapshot of the catalog lives in the same root."""
    (tmp_path / "catalog.json").write_text("{}")
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "00000000000000ff.new").mkdir()
    (tmp_path / "00000000000000ff.new" / "lock").touch()
    assert find_spools(tmp_path) == []
    assert find_spools(tmp_path / "missing") == []
    assert DeadSpool.open(tmp_path / "missing") is None


async def test_a_spool_without_its_description_is_known_by_its_segments(tmp_path: Path) -> None:
    """spool.json is for people: its loss must not lose the clicks."""
    spool = a_spool(tmp_path)
    spool.clicks.append([b"click"])
    spool.close()
    for damage in ("{", "[]", None):
        about = spool.path / "spool.json"
        if damage is None:
            about.unlink()
        else:
            about.write_text(damage)
        assert read_about(spool.path) == {}
        dead = DeadSpool.open(spool.path)
        assert dead is not None
        assert (dead.spool_id, dead.clicks.end_seq()) == (0xABC, 1)
        dead.close()


async def test_old_segments_of_a_dead_spool_go_first_when_space_is_scarce(tmp_path: Path) -> None:
    """A backlog of hours must not hold the whole disk until its last row is shipped."""
    spool = a_spool(tmp_path)
    for number in range(4):
        spool.clicks.append([b"%d" % number * 6000])
    spool.close()
    dead = DeadSpool.open(spool.path)
    assert dead is not None
    assert dead.drop_segments("clicks", 0) == 0
    assert dead.drop_segments("clicks", 2) == 2
    dead.close()
    again = DeadSpool.open(spool.path)
    assert again is not None
    assert (again.clicks.first_seq, again.clicks.end_seq()) == (2, 4)
    assert again.drop_segments("clicks", 4) == 1  # the last one says where the log ends
    assert again.clicks.end_seq() == 4
    again.close()


async def test_verify_reads_every_record_and_names_what_is_missing(tmp_path: Path) -> None:
    """`tracker spool verify` exits 1 on any difference: it must see one lost row among good ones."""
    spool = a_spool(tmp_path)
    for number in range(5):
        spool.clicks.append([b"%d" % number * 6000])
    spool.close()
    (spool.path / "clicks-00000001.seg").unlink()
    (spool.path / "clicks-00000003.seg").write_bytes(b"rubbish")
    clicks, journal = verify(spool.path)
    assert (clicks.segments, clicks.rows, clicks.row_bytes, clicks.first_seq, clicks.end_seq) == (3, 3, 18000, 0, 5)
    assert [(gap.first_seq, gap.next_seq) for gap in clicks.gaps] == [(1, 2), (3, 4)]
    assert clicks.unreadable == ("clicks-00000003.seg",)
    assert (journal.kind, journal.rows, journal.end_seq, journal.gaps) == ("journal", 0, 0, ())


def test_a_new_spool_counts_what_is_there_already(tmp_path: Path) -> None:
    """After a night without PostgreSQL and a restart: else it would fill the volume before its first look."""
    first = a_spool(tmp_path)
    second = a_spool(tmp_path, spool_id=0xDEF)
    assert second.space.used_bytes >= 2 * first.space.used_bytes > 0
    second.close()
    first.close()


async def test_prune_unlinks_what_was_shipped_and_sees_what_other_workers_use(tmp_path: Path) -> None:
    """The limit holds for the whole directory, not for each worker."""
    spool = a_spool(tmp_path, max_bytes=20 * 16384)
    alone = spool.space.used_bytes
    other = a_spool(tmp_path, spool_id=0xDEF)
    for _ in range(8):
        spool.clicks.append([b"x" * 6000])
    await spool.sync()
    spool.clicks.confirmed(8)
    assert await spool.prune(0.0) == 0
    assert spool.space.used_bytes > alone + 32768
    for _ in range(8):
        other.clicks.append([b"x" * 6000])
    await spool.prune(1.0)  # sees the other's files: more than half is used
    assert spool.space.scarce
    assert await spool.prune(2.0) > 0
    assert not (spool.path / "clicks-00000000.seg").exists()
    reader = LogReader(spool.path, "clicks", spool_id=0xABC, log=spool.clicks)
    assert reader.read(8, max_rows=1, max_bytes=1) is None
    spool.close()
    other.close()


async def test_shipped_clicks_make_room_and_journals_do_not(tmp_path: Path) -> None:
    """`tracker journal replay` reaches back a week: that is money, and little of the space."""
    spool = a_spool(tmp_path, max_bytes=8 * 16384)
    for log, segments in ((spool.clicks, 2), (spool.journal, 5)):
        for _ in range(segments):
            log.append([b"x" * 7000])
        await log.sync()
        log.confirmed(segments)
    assert 1 == await spool.prune(0.0)
    assert spool.space.scarce
    assert 0 == await spool.prune(1.0)
    assert 5 == len(list(spool.path.glob("journal-*.seg")))
    spool.close()


@contextmanager
def a_root_of_nobody() -> Iterator[Path]:
    """A spool root of ours as a user whom permissions bind: root passes over them, so it becomes nobody meanwhile."""
    with tempfile.TemporaryDirectory(prefix="spool") as name:  # tmp_path lies in root's own folder
        root, user = Path(name), os.geteuid()
        if user == 0:
            os.chown(root, 65534, 65534)
            os.seteuid(65534)
        try:
            yield root
        finally:
            os.seteuid(user)


async def test_a_directory_that_denies_access_is_none_of_ours() -> None:
    """A mounted volume has root's lost+found in it: no worker could start, or ship what an earlier one left."""
    with a_root_of_nobody() as root:
        for name, mode in (("lost+found", 0o000), ("names only", 0o400)):
            (root / name).mkdir()
            (root / name / "lock").write_bytes(b"x" * 10_000)
            (root / name).chmod(mode)
        (root / "names only").rename(root / "half.new")
        spool = a_spool(root)
        assert [spool.path] == find_spools(root)
        used = spool.space.used_bytes
        await spool.prune(0.0)
        assert 32768 <= spool.space.used_bytes <= used + 2 * 16384
        spool.close()
        dead = DeadSpool.open(spool.path)
        assert dead is not None
        dead.close()
        for name in ("lost+found", "half.new"):
            (root / name).chmod(0o700)


def test_a_root_that_denies_access_is_told_in_a_sentence() -> None:
    """The first start on a new volume, by the wrong user."""
    with a_root_of_nobody() as root:
        root.chmod(0o000)
        with pytest.raises(SpoolError, match="Permission denied"):
            a_spool(root)
        root.chmod(0o700)


def test_a_root_below_a_directory_that_may_be_passed_and_not_listed_is_used() -> None:
    """Mounts of a platform are often so: what is above was there before us, and its names are not ours to sync."""
    with a_root_of_nobody() as above:
        (above / "spool").mkdir()
        above.chmod(0o300)
        spool = a_spool(above / "spool")
        assert [spool.path] == find_spools(above / "spool")
        spool.close()
        with pytest.raises(RuntimeError, match="shutdown"):
            spool._executor.submit(print)      # no thread is left behind
        above.chmod(0o700)

"""A spool's directory is made, shipped and removed in steps, each of which may fail, or be the last before the power goes."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest
from model_fs import Inline, ModelFs
from spools import COLUMNS, ROOT, SEGMENT_BYTES, SPOOL_ID, always, failing, read_all

from tracker.storage.spool.dead_spool import DeadSpool, find_spools, read_about, verify
from tracker.storage.spool.reader import LogReader
from tracker.storage.spool.segments import DATA_START, Column, SegmentHeader, encode_header
from tracker.storage.spool.spool import JOURNAL_COLUMNS, Spool, SpoolError, SpoolUnavailable

PATH = ROOT / "000000000000000b"
HOUR = 3600.0
EIO = OSError(errno.EIO, "planned failure")


def a_spool(fs: ModelFs, **options: Any) -> Spool:
    sizes = {"clicks_segment_bytes": SEGMENT_BYTES, "journal_segment_bytes": SEGMENT_BYTES, "max_bytes": 2**30}
    return Spool.create(
        ROOT, spool_id=SPOOL_ID, worker=7, clicks=COLUMNS, fs=fs, executor=Inline(), **{"sync": "50ms", **sizes, **options}
    )


def dead(fs: ModelFs, path: Path = PATH) -> DeadSpool:
    found = DeadSpool.open(path, fs=fs)
    assert found is not None
    return found


def after_a_power_cut(fs: ModelFs) -> ModelFs:
    """The disk when nothing survives but what was synced."""
    at = len(fs.ops)
    return fs.after_crash(at, [None] * len(fs.unsafe(at)))


def test_a_spool_that_was_made_is_whole_after_a_power_cut() -> None:
    """Its name must not come back without its description, nor be lost with a root that was as new as itself."""
    fs = ModelFs()
    a_spool(fs)
    left = after_a_power_cut(fs)
    assert ["lock", "spool.json"] == left.listdir(PATH)
    assert ("000000000000000b", 7) == (read_about(PATH, fs=left)["spool_id"], read_about(PATH, fs=left)["worker"])
    assert [PATH] == find_spools(ROOT, fs=left)


@pytest.mark.parametrize("step", ["open_new", "pwrite", "fdatasync", "fsync_dir", "rename"])
def test_a_spool_that_cannot_be_made_says_so_and_keeps_nothing_open(step: str) -> None:
    fs = ModelFs()
    fs.fault = failing(step, EIO)
    with pytest.raises(SpoolError, match=r"cannot make the spool .*planned failure"):
        a_spool(fs)
    open_still = {path.name for _, path in fs._open.values()}
    assert open_still <= ({"lock"} if step == "open_new" else set())      # the model gives the lock by open_new


def test_the_least_space_is_four_segments_of_each_log() -> None:
    least = 4 * (SEGMENT_BYTES + SEGMENT_BYTES + 1)
    a_spool(ModelFs(), max_bytes=least, journal_segment_bytes=SEGMENT_BYTES + 1).close()
    with pytest.raises(SpoolError, match=f"at least {least}"):
        a_spool(ModelFs(), max_bytes=least - 1, journal_segment_bytes=SEGMENT_BYTES + 1)


async def test_a_disk_too_full_for_the_first_segments_is_no_error() -> None:
    """The worker must answer, with ids that say "no row", and keep rows as soon as there is room."""
    fs = ModelFs()
    fs.fault = always("fallocate", errno.ENOSPC)
    spool = a_spool(fs)
    assert not spool.healthy
    fs.fault = failing("")
    for log in (spool.clicks, spool.journal):
        log._retry_at = 0.0      # a moment later
    await spool.sync()
    assert (True, 0) == (spool.healthy, spool.clicks.append([b"click"]))


def test_segments_have_the_sizes_and_the_columns_that_are_told() -> None:
    fs = ModelFs()
    spool = Spool.create(ROOT, spool_id=SPOOL_ID, worker=7, clicks=COLUMNS, max_bytes=2**30, sync="off", fs=fs, executor=Inline())
    assert (16 * 2**20, 2**20) == (spool.clicks.file_bytes, spool.journal.file_bytes)
    spool.close()
    found = dead(fs)
    assert (COLUMNS, (Column("message", 114),)) == (found.clicks.segments[0].header.columns, JOURNAL_COLUMNS)
    assert JOURNAL_COLUMNS == found.journal.segments[0].header.columns
    found.close()


@pytest.mark.parametrize(
    ("sync", "synced"), [("50ms", {"clicks", "journal"}), ("always", {"clicks", "journal"}), ("off", {"journal"})]
)
async def test_the_journal_is_always_synced_and_clicks_unless_switched_off(sync: str, synced: set[str]) -> None:
    fs = ModelFs()
    spool = a_spool(fs, sync=sync)
    spool.clicks.append([b"click"])
    spool.journal.append([b"message"])
    await spool.sync()
    left = after_a_power_cut(fs)
    found = {kind for kind in ("clicks", "journal") if read_all_of(left, kind)}
    assert synced == found


def read_all_of(fs: ModelFs, kind: Any) -> bool:
    reader = LogReader(PATH, kind, spool_id=SPOOL_ID, fs=fs)
    return reader.read(0, max_rows=9, max_bytes=999) is not None


async def test_one_log_that_cannot_be_synced_is_told_and_does_not_keep_the_other_from_it() -> None:
    fs = ModelFs()
    spool = a_spool(fs)
    assert spool.healthy
    spool.clicks.append([b"click"])
    spool.journal.append([b"message"])
    fs.fault = failing("fdatasync", EIO, EIO, path="clicks")
    with pytest.raises(SpoolUnavailable):
        await spool.sync()
    assert (0, 1, False) == (spool.clicks.synced_seq, spool.journal.synced_seq, spool.healthy)
    fs.fault = failing("fdatasync", EIO, EIO, path="journal")
    spool.journal.append([b"message"])
    with pytest.raises(SpoolUnavailable):
        await spool.sync()
    assert (1, 1, False) == (spool.clicks.synced_seq, spool.journal.synced_seq, spool.healthy)


async def test_shipped_clicks_stay_for_a_day_and_messages_for_a_week() -> None:
    """Longer than a database may be set back, and not longer."""
    fs = ModelFs()
    spool = a_spool(fs)
    for log in (spool.clicks, spool.journal):
        for _ in range(2):
            log.append([b"x" * 300])
        await log.sync()
        log.confirmed(2)
    gone = [await spool.prune(at * HOUR) for at in (0, 24 - 1 / HOUR, 24, 7 * 24 - 1 / HOUR, 7 * 24)]
    assert [0, 0, 1, 0, 1] == gone
    assert ["clicks-00000001.seg", "journal-00000001.seg", "lock", "spool.json"] == fs.listdir(PATH)


async def test_a_file_that_cannot_be_unlinked_stays_and_is_counted() -> None:
    fs = ModelFs()
    spool = a_spool(fs)
    for _ in range(4):
        spool.clicks.append([b"x" * 300])
    await spool.sync()
    spool.clicks.confirmed(4)
    syncs = fs.calls["fsync_dir"]
    assert 0 == await spool.prune(0.0)
    assert syncs == fs.calls["fsync_dir"]      # nothing went: nothing is made durable
    fs.fault = failing("unlink", EIO, None, EIO)
    assert 3 == await spool.prune(24 * HOUR)
    assert {"clicks-00000000.seg", "clicks-00000002.seg"} <= set(fs.listdir(PATH))
    assert "clicks-00000001.seg" not in fs.listdir(PATH)
    assert fs.used_bytes(ROOT) == spool.space.used_bytes
    assert syncs + 1 == fs.calls["fsync_dir"]
    for _ in range(2):
        spool.clicks.append([b"x" * 300])
    await spool.sync()
    spool.clicks.confirmed(6)
    assert 0 == await spool.prune(25 * HOUR)
    fs.fault = always("fsync_dir", errno.EIO)
    assert 2 == await spool.prune(49 * HOUR)      # names may come back with the power: they are shipped, and found again


def test_a_closed_spool_holds_nothing_and_belongs_to_whoever_comes() -> None:
    fs = ModelFs()
    spool = a_spool(fs)
    spool.clicks.append([b"click"])
    spool.journal.append([b"message"])
    assert DeadSpool.open(PATH, fs=fs) is None
    spool.close()
    assert {} == fs._open
    found = dead(fs)
    assert (SPOOL_ID, False, 1, 1) == (found.spool_id, found.copied, found.clicks.end_seq(), found.journal.end_seq())
    assert DeadSpool.open(PATH, fs=fs) is None
    found.close()
    assert {} == fs._open


def a_dead_spool(fs: ModelFs, rows: int = 3) -> None:
    spool = a_spool(fs)
    for _ in range(rows):
        spool.clicks.append([b"x" * 300])
        spool.journal.append([b"m" * 300])
    spool.close()


def write(fs: ModelFs, path: Path, data: bytes) -> None:
    fd = fs.open_new(path)
    fs.pwrite(fd, data, 0)
    fs.close(fd)


def test_a_removed_spool_does_not_come_back_with_the_power() -> None:
    fs = ModelFs()
    a_dead_spool(fs)
    fs.fsync_dir(PATH)
    dead(fs).remove(clicks=3, journal=3)
    assert ([], {}) == (fs.listdir(ROOT), fs._open)
    assert [] == after_a_power_cut(fs).listdir(ROOT)


def test_a_removal_that_was_cut_short_is_found_and_finished() -> None:
    fs = ModelFs()
    a_dead_spool(fs)
    found = dead(fs)
    fs.fault = failing("rmdir", EIO)
    found.remove(clicks=3, journal=3)
    assert [PATH.name] == fs.listdir(ROOT)
    write(fs, PATH / "lock", b"")
    assert [PATH] == find_spools(ROOT, fs=fs)
    assert DeadSpool.open(PATH, fs=fs) is None      # nothing is in it: it goes
    assert ([], {}) == (fs.listdir(ROOT), fs._open)


def test_somebodys_own_file_hides_no_spool_and_stays() -> None:
    fs = ModelFs()
    a_dead_spool(fs)
    write(fs, PATH / "note", b"do not touch")
    assert [PATH] == find_spools(ROOT, fs=fs)
    dead(fs).remove(clicks=3, journal=3)
    assert ["note"] == fs.listdir(PATH)
    assert [] == find_spools(ROOT, fs=fs)
    write(fs, PATH / "lock", b"")
    assert DeadSpool.open(PATH, fs=fs) is None
    assert (["note"], {}) == (fs.listdir(PATH), fs._open)
    assert DeadSpool.open(PATH / "note", fs=fs) is None      # no directory at all


def test_segments_of_either_log_go_when_they_are_shipped_also_those_that_went_already() -> None:
    fs = ModelFs()
    a_dead_spool(fs)
    found = dead(fs)
    assert 1 == found.drop_segments("journal", 1)
    fs.unlink(PATH / "clicks-00000000.seg")
    assert 1 == found.drop_segments("clicks", 2)
    assert ["clicks-00000002.seg", "journal-00000001.seg", "journal-00000002.seg", "lock", "spool.json"] == fs.listdir(PATH)
    found.close()


@pytest.mark.parametrize("about", [None, b"{", b"[]", b"{}", b'{"spool_id": null}', b'{"spool_id": 5}', b'{"spool_id": "zz"}'])
@pytest.mark.parametrize("kept", ["clicks", "journal"])
def test_a_spool_is_known_by_its_segments_whatever_became_of_its_description(about: bytes | None, kept: str) -> None:
    fs = ModelFs()
    a_dead_spool(fs)
    fs.unlink(PATH / "spool.json")
    if about is not None:
        write(fs, PATH / "spool.json", about)
    for name in fs.listdir(PATH):
        if name.endswith(".seg") and not name.startswith(kept):
            fs.unlink(PATH / name)
    assert (json.loads(about) if about and about[-1:] == b"}" else {}) == read_about(PATH, fs=fs)
    found = dead(fs)
    assert (SPOOL_ID, False) == (found.spool_id, found.copied)
    found.close()
    assert {} == fs._open
    (report,) = (one for one in verify(PATH, fs=fs) if one.kind == kept)
    assert (3, 3, 900) == (report.segments, report.rows, report.row_bytes)
    assert {} == fs._open


def test_a_spool_that_never_had_a_segment_is_known_by_its_description() -> None:
    """The disk was full from the start: its number must be given back all the same."""
    fs = ModelFs()
    fs.fault = always("fallocate", errno.ENOSPC)
    a_spool(fs).close()
    fs.fault = failing("")
    assert ["lock", "spool.json"] == fs.listdir(PATH)
    found = dead(fs)
    assert (SPOOL_ID, 7, 0) == (found.spool_id, found.about["worker"], found.clicks.end_seq())
    found.close()
    fs.unlink(PATH / "lock")
    assert [PATH] == find_spools(ROOT, fs=fs)


def test_verify_counts_no_segment_of_another_spool() -> None:
    fs = ModelFs()
    a_dead_spool(fs, rows=0)
    fs.unlink(PATH / "clicks-00000000.seg")
    write(fs, PATH / "clicks-00000000.seg", encode_header(SegmentHeader("clicks", SPOOL_ID + 1, 5, 0, COLUMNS)))
    clicks, journal = verify(PATH, fs=fs)
    assert (("clicks-00000000.seg",), 0, ()) == (clicks.unreadable, clicks.segments, journal.unreadable)


def test_a_spool_whose_files_cannot_be_read_is_let_go() -> None:
    """Else nobody could ship it until this process ends."""
    fs = ModelFs()
    a_dead_spool(fs)
    fs.fault = failing("open_read", EIO, path="clicks")
    with pytest.raises(OSError, match="planned failure"):
        DeadSpool.open(PATH, fs=fs)
    assert {} == fs._open
    dead(fs).close()


def test_a_copy_is_read_as_the_spool_it_was() -> None:
    """And segments of other spools in it are not."""
    fs = ModelFs()
    a_dead_spool(fs)
    copy = ROOT / "copy"
    fs.mkdir(copy)
    for name in fs.listdir(PATH):
        write(fs, copy / name, fs.pread(fs.open_read(PATH / name), 2 * DATA_START, 0))
    found = dead(fs, copy)
    assert (SPOOL_ID, True, 3) == (found.spool_id, found.copied, len(read_all(found.clicks)))

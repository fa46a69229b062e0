"""What the spool tests share: a log on the model file system, and the rows a reader finds."""

from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

from model_fs import Inline, ModelFs

from tracker.storage.spool.log import Log
from tracker.storage.spool.reader import Batch, Gap, LogReader
from tracker.storage.spool.segments import Column, Kind
from tracker.storage.spool.space import Space

ROOT = Path("/spool")
DIRECTORY = ROOT / "000000000000000b"
SPOOL_ID = 11
COLUMNS = (Column("click_id", 2950), Column("sub1", 25))
SEGMENT_BYTES = 8192 + 400


class Clock:
    """A steady clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def a_log(
    fs: ModelFs,
    *,
    segment_bytes: int = SEGMENT_BYTES,
    max_bytes: int = 2**40,
    durable: bool = True,
    kind: Kind = "clicks",
    clock: Clock | None = None,
    unsynced_max_bytes: int = 2**20,
    executor: Executor | None = None,
) -> Log:
    """A log in an empty directory of the model file system, which is durable before the log begins."""
    fs.mkdir(DIRECTORY, parents=True)
    for directory in (Path("/"), ROOT, DIRECTORY):
        fs.fsync_dir(directory)
    space = Space(fs, ROOT, max_bytes)
    return Log(
        fs,
        DIRECTORY,
        kind,
        spool_id=SPOOL_ID,
        columns=COLUMNS,
        segment_bytes=segment_bytes,
        durable=durable,
        space=space,
        executor=executor or Inline(),
        clock=clock or Clock(),
        unsynced_max_bytes=unsynced_max_bytes,
    )


def rows_of(batch: Batch) -> list[bytes]:
    """The rows of a batch, cut by its lengths, which must fit exactly."""
    rows, at = [], 0
    for length in batch.lengths:
        rows.append(batch.rows[at : at + length])
        at += length
    assert len(batch.rows) == at
    assert len(rows) == batch.next_seq - batch.first_seq
    return rows


def read_all(reader: LogReader, *, start: int = 0, max_rows: int = 1000, max_bytes: int = 2**20) -> dict[int, bytes]:
    """Every row from `start` on by its number; what gaps skip is missing. Fails when the reader does not move on."""
    rows: dict[int, bytes] = {}
    next_seq = start
    while (found := reader.read(next_seq, max_rows=max_rows, max_bytes=max_bytes)) is not None:
        assert found.next_seq > next_seq == found.first_seq
        if isinstance(found, Batch):
            assert found.columns == COLUMNS
            rows.update(enumerate(rows_of(found), found.first_seq))
        next_seq = found.next_seq
    return rows


def recover(fs: ModelFs, *, kind: Kind = "clicks") -> dict[int, bytes]:
    """Every row that a reader finds when the writer is gone."""
    return read_all(LogReader(DIRECTORY, kind, spool_id=SPOOL_ID, fs=fs))


def gaps(reader: LogReader, *, start: int = 0) -> list[tuple[int, int]]:
    """The spans of numbers a reader reports as lost."""
    found, next_seq = [], start
    while (item := reader.read(next_seq, max_rows=1000, max_bytes=2**20)) is not None:
        if isinstance(item, Gap):
            found.append((item.first_seq, item.next_seq))
        next_seq = item.next_seq
    return found


def failing(name: str, *steps: int | OSError | None, path: str = "") -> Callable[[str, Path], int | None]:
    """A fault for `ModelFs.fault`: the next calls of `name` end so (None: well, a number: short), later ones well."""
    plan = list(steps)

    def fault(called: str, at: Path) -> int | None:
        if called != name or path not in at.name or not plan:
            return None
        step = plan.pop(0)
        if isinstance(step, OSError):
            raise step
        return step

    return fault


def always(name: str, error: int) -> Callable[[str, Path], int | None]:
    def fault(called: str, _at: Path) -> int | None:
        if called == name:
            raise OSError(error, "planned failure")
        return None

    return fault

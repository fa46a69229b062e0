"""A real process writes a real spool and is killed; what it acknowledged must be there."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tracker.storage.spool.dead_spool import DeadSpool, find_spools
from tracker.storage.spool.reader import Batch

# Appends frames of 1 to 30 rows as fast as it can while a ticker syncs. A line goes out after each append, so whoever
# reads the line has an acknowledgement; each row says its own number and has a length that depends on it.
WRITER = """
import asyncio, os, random, sys
from pathlib import Path
from tracker.storage.spool.segments import Column
from tracker.storage.spool.spool import Spool

async def main():
    spool = Spool.create(Path(sys.argv[1]), spool_id=int(sys.argv[2]), worker=1, clicks=[Column("row", 17)],
                         max_bytes=2**30, sync="50ms", clicks_segment_bytes=256 * 1024)
    rng = random.Random(int(sys.argv[2]))
    log = spool.clicks
    async def tick():
        while True:
            await asyncio.sleep(0.01)
            await spool.sync()
    ticker = asyncio.create_task(tick())
    while True:
        first = log.next_seq
        log.append([b"%d " % n * (n % 40 + 1) for n in range(first, first + rng.randint(1, 30))])
        os.write(1, b"%d %d\\n" % (log.next_seq, log.synced_seq))
        await asyncio.sleep(0)

asyncio.run(main())
"""


def start_writer(root: Path, spool_id: int) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-c", WRITER, str(root), str(spool_id)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, env=environment)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_acknowledged_row_survives_kill_9(tmp_path: Path, seed: int) -> None:
    """The promise of the spool: an answer that went out means a click that is kept, however the process ends."""
    writer = start_writer(tmp_path, seed)
    assert writer.stdout is not None
    lines = random.Random(seed).randint(500, 4000)
    for _ in range(lines):
        acknowledged = int(writer.stdout.readline().split()[0])
    (path,) = find_spools(tmp_path)
    assert DeadSpool.open(path) is None, "the lock of a living writer was given away"
    os.kill(writer.pid, signal.SIGKILL)
    rest = writer.stdout.read().splitlines(keepends=True)  # what was acknowledged before the signal came
    whole = [line for line in rest if line.endswith(b"\n")]
    acknowledged = int(whole[-1].split()[0]) if whole else acknowledged
    assert writer.wait() == -signal.SIGKILL
    writer.stdout.close()

    dead = DeadSpool.open(path)
    assert dead is not None
    end_seq = dead.clicks.end_seq()
    assert end_seq >= acknowledged
    next_seq = 0
    while (batch := dead.clicks.read(next_seq, max_rows=5000, max_bytes=2**22)) is not None:
        assert isinstance(batch, Batch), f"{batch} in a spool that no disk damaged"
        at = 0
        for seq, length in enumerate(batch.lengths, next_seq):
            assert batch.rows[at : at + length] == b"%d " % seq * (seq % 40 + 1)
            at += length
        next_seq = batch.next_seq
    assert next_seq == end_seq
    assert end_seq - acknowledged <= 30, "more rows than were ever appended"
    dead.close()


def test_a_restart_makes_a_new_spool_and_leaves_the_old_one_as_it_was(tmp_path: Path) -> None:
    """A crash-looping worker must not touch what it left: each start only adds a directory."""
    found: dict[Path, int] = {}
    for spool_id in (11, 12, 13):
        writer = start_writer(tmp_path, spool_id)
        assert writer.stdout is not None
        for _ in range(200):
            writer.stdout.readline()
        writer.kill()
        writer.communicate()
        for path in find_spools(tmp_path):
            dead = DeadSpool.open(path)
            assert dead is not None
            end_seq = dead.clicks.end_seq()
            assert found.setdefault(path, end_seq) == end_seq
            dead.close()
    assert len(found) == 3

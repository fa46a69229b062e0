"""The parent of the edge workers: opens their sockets, starts them, replaces the dead, ends all of them in order.

It holds what must outlive a worker: the listening sockets (a dead worker's queue waits for its successor), the shared
memory of the metrics, and the write end of a pipe whose closing tells the workers that their parent is gone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence

from tracker.metrics import Page, Shared

log = logging.getLogger(__name__)

RESTART_SECONDS = 1.0         # pause before a worker that died within its first ten seconds is started again, doubled each time
RESTART_MAX_SECONDS = 30.0
QUICK_DEATH_SECONDS = 10.0
STOP_SECONDS = 40.0           # a worker that has not ended by then is killed; its spool is whole, the next start ships it

SETUP_FAILED = 78             # EX_CONFIG: a worker says that its settings cannot work


class Supervisor:
    """Runs `len(sockets)` workers until `stop`."""

    def __init__(self, sockets: Sequence[Sequence[socket.socket]], shared: Shared, environ: Mapping[str, str]) -> None:
        """Worker i takes sockets[i] and page i of `shared`; the parent's own page is the last."""
        self._sockets = [list(one) for one in sockets]
        self._shared = shared
        self._environ = dict(environ)
        self._life_read, self._life_write = os.pipe()
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._tasks: list[asyncio.Task[int]] = []
        self._stopping = asyncio.Event()
        self.failed = asyncio.Event()      # no worker has ever started, and none can
        self._proven = False               # a worker of these settings has been ready

    @property
    def page(self) -> Page:
        return self._shared.page(self._shared.pages - 1)

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._keep(index)) for index in range(len(self._sockets))]

    async def stop(self) -> bool:
        """Close our copies of the sockets, tell every worker to drain, wait for all; True when each ended with 0."""
        self._stopping.set()
        for one in self._sockets:
            for listening in one:
                listening.close()      # else connections would queue up at a door nobody answers any more
        self._signal(signal.SIGTERM)
        done, late = await asyncio.wait(self._tasks, timeout=STOP_SECONDS)
        if late:
            log.error("%d workers did not end within %s s and are killed; their spools are whole", len(late), STOP_SECONDS)
            self._signal(signal.SIGKILL)
            done |= (await asyncio.wait(late))[0]
        os.close(self._life_write)
        os.close(self._life_read)
        return not late and all(task.result() == 0 for task in done)

    def _signal(self, number: int) -> None:
        for process in list(self._processes.values()):
            if process.returncode is None:
                process.send_signal(number)

    async def _keep(self, index: int) -> int:
        """Start worker `index` again and again; its last exit code.

        A start that cannot work ends everything only while no worker has ever been ready: later it is the machine's
        trouble (a full disk, no descriptors, no memory), the other workers serve on, and it is tried again.
        """
        loop = asyncio.get_running_loop()
        pause = 0.0
        while True:
            started = loop.time()
            try:
                process = await self._start(index)
            except OSError as exc:
                log.error("worker %d cannot be started: %s", index, exc)  # noqa: TRY400 - the machine's trouble, not ours
                code: int | None = None
            else:
                code = await self._ended(index, process)
                if self._stopping.is_set():
                    return 0 if code == -signal.SIGTERM else code      # so ends who had not begun yet, and answered nobody
                if code == SETUP_FAILED and not self._proven:
                    self.failed.set()
                    return code
                log.error("worker %d (pid %d) ended with %s and is replaced", index, process.pid, code)
                self.page.add("tracker_worker_restarts_total")
            quick = code is None or loop.time() - started < QUICK_DEATH_SECONDS
            pause = min(RESTART_MAX_SECONDS, max(RESTART_SECONDS, 2 * pause)) if quick else 0.0
            try:
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
            except TimeoutError:
                continue
            return 0

    async def _ended(self, index: int, process: asyncio.subprocess.Process) -> int:
        """Wait for a worker's end, noting whether it ever was ready."""
        ending = asyncio.create_task(process.wait())
        while not (await asyncio.wait({ending}, timeout=0.5))[0]:
            self._proven = self._proven or self._shared.page(index).get("tracker_ready") > 0
        del self._processes[index]
        self._shared.page(index).clear_gauges()
        self.page.set("tracker_workers", len(self._processes))
        return ending.result()

    async def _start(self, index: int) -> asyncio.subprocess.Process:
        fds = [listening.fileno() for listening in self._sockets[index]]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tracker", "worker", "--sockets", ",".join(map(str, fds)), "--metrics", str(self._shared.fd),
            "--pages", str(self._shared.pages), "--page", str(index), "--life", str(self._life_read),
            pass_fds=[*fds, self._shared.fd, self._life_read], env=self._environ, stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,      # a Ctrl-C at the terminal reaches the parent only, which then ends us in order
        )
        self._processes[index] = process
        self.page.set("tracker_workers", len(self._processes))
        if self._stopping.is_set():
            process.send_signal(signal.SIGTERM)
        return process

"""A real `tracker` process for tests: started, watched until it answers, asked, killed, ended.

Everything a test wants to know comes from outside, as an operator would see it: standard error, the admin port, /proc.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tracker.domain.click_id import Keyring

SECRET = b"a secret of the tests, 32 bytes."
KEYRING = Keyring(((1, SECRET),))
ADMIN_TOKEN = "admin-token-of-the-end-to-end-tests"

START_SECONDS = 30.0
END_SECONDS = 60.0      # more than a drain takes at its longest: 2 s of serving on, 8 s for connections, 10 s to ship

_READY = re.compile(r"tracker is ready: (?:public port (\d+), )?admin port (\d+)")
_READY_DEV = re.compile(r"http://localhost:(\d+)/c/demo.*http://localhost:(\d+)/metrics", re.DOTALL)


def free_port() -> int:
    """A port nobody listens on just now: for a process that must come back on the same one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def tracker_environ(dsn: str, spool_dir: Path, **changed: str) -> dict[str, str]:
    """What a role needs to start, and nothing of this machine's own."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "PYTHONPATH": str(Path(__file__).parent.parent),
        "TRACKER_DATABASE_URL": dsn,
        "TRACKER_SECRET_KEYS": "1:" + base64.b64encode(SECRET).decode(),
        "TRACKER_ADMIN_TOKEN": ADMIN_TOKEN,
        "TRACKER_SPOOL_DIR": str(spool_dir),
        "TRACKER_HOST": "127.0.0.1",
        "TRACKER_PORT": "0",
        "TRACKER_ADMIN_PORT": "0",
        "TRACKER_WORKERS": "2",
        **changed,
    }


def children(pid: int) -> list[int]:
    """Process ids of a process's children, in order."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):      # it has ended while we looked
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if int(parent) == pid and state != "Z":
                    found.append(int(entry.name))
    return sorted(found)


def _command_line(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def run_tracker(arguments: Sequence[str], environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself."""
    command = [sys.executable, "-m", "tracker", *arguments]
    return subprocess.run(command, env=dict(environ), capture_output=True, text=True, timeout=END_SECONDS, check=False)


def forget_peak(pid: int) -> int:
    """Let a process's memory peak begin anew; returns its resident bytes now."""
    (Path("/proc") / str(pid) / "clear_refs").write_text("5")
    return memory_peak(pid)


def memory_peak(pid: int) -> int:
    """The most resident bytes a process has had since `forget_peak`."""
    found = re.search(r"VmHWM:\s+(\d+) kB", (Path("/proc") / str(pid) / "status").read_text())
    assert found
    return int(found[1]) * 1024


class TrackerProcess:
    """One `tracker serve | edge | control | dev`. Use `running`, which also ends it."""

    def __init__(self, arguments: Sequence[str], environ: Mapping[str, str]) -> None:
        self.public_port = self.admin_port = 0
        self._said: list[str] = []
        self._heard = threading.Condition()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tracker", *arguments], env=dict(environ), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        """What it has said so far, standard output and error together."""
        with self._heard:
            return "".join(self._said)

    def wait_until_ready(self, *, all_workers: bool = True) -> None:
        """Until it says that it answers; by default until every worker does, not only the first."""
        with self._heard:
            told = self._heard.wait_for(lambda: self._ports() or self._process.poll() is not None, START_SECONDS)
            assert told and self._ports(), f"not ready, exit code {self._process.poll()}:\n{''.join(self._said)}"
        self.public_port, self.admin_port = self._ports() or (0, 0)
        if all_workers:
            until(lambda: self.metric("tracker_ready") == self.metric("tracker_workers"), "every worker is ready")

    def workers(self) -> list[int]:
        """Process ids of the edge workers, oldest first."""
        return [pid for pid in children(self.pid) if b"\0worker\0" in _command_line(pid)]

    def admin(self, method: str, path: str, body: Any = None, *, token: str = ADMIN_TOKEN) -> tuple[int, Any]:
        """Ask the admin port: status, and the JSON or text of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=20)
        try:
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        return response.status, json.loads(text) if "json" in response.headers.get_content_type() else text

    def metrics(self) -> dict[tuple[str, str], float]:
        """Every sample of /metrics by (name, its label's value or '')."""
        status, text = self.admin("GET", "/metrics")
        assert 200 == status
        return {
            (sample.name, next(iter(sample.labels.values()), "")): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def metric(self, name: str, label: str = "") -> float:
        return self.metrics()[name, label]

    def kill_worker(self, pid: int) -> None:
        """SIGKILL one worker and wait for its end."""
        ended = os.pidfd_open(pid)
        try:
            os.kill(pid, signal.SIGKILL)
            assert select.select([ended], [], [], 20)[0]
        finally:
            os.close(ended)

    def kill_everything(self) -> None:
        """SIGKILL the parent and all workers, none of which gets a moment to tidy up after another."""
        if self._process.poll() is None:
            os.kill(self.pid, signal.SIGSTOP)      # else it could replace a worker while we kill
            for worker in self.workers():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
            self._process.kill()
        self._process.wait(20)
        self._listener.join(20)

    def terminate(self) -> None:
        """SIGTERM, as Kubernetes sends it."""
        self._process.terminate()

    def exit_code(self) -> int:
        """Wait for its end."""
        code = self._process.wait(END_SECONDS)
        self._listener.join(20)      # workers hold the same pipe: its end says that they are gone too
        return code

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def close(self) -> None:
        self.kill_everything()
        assert self._process.stdout is not None
        if not self._listener.is_alive():
            self._process.stdout.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._heard:
                self._said.append(line)
                self._heard.notify_all()
        with self._heard:
            self._heard.notify_all()

    def _ports(self) -> tuple[int, int] | None:
        text = "".join(self._said)
        found = _READY.search(text) or _READY_DEV.search(text)
        return (int(found[1] or 0), int(found[2])) if found else None


@contextlib.contextmanager
def running(role: str, environ: Mapping[str, str], *arguments: str, all_workers: bool = True) -> Iterator[TrackerProcess]:
    """A started process, killed at the end should it still run. Shows what it said when the test fails."""
    process = TrackerProcess([role, *arguments], environ)
    try:
        process.wait_until_ready(all_workers=all_workers)
        yield process
    except BaseException:
        print(f"tracker {role}, pid {process.pid}, said:\n{process.output}")
        raise
    finally:
        process.close()


def until(holds: Callable[[], Any], what: str, *, seconds: float = 30.0, every: float = 0.02) -> None:
    """Wait for what happens in another process; fails when it has not happened after so many seconds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"after {seconds:g} s it does not hold that {what}"
        time.sleep(every)


def within(seconds: float, begin: Callable[[int], Callable[[], Any]], what: str, *, tries: int = 3) -> None:
    """For promises with a time in them: `begin(n)` begins something and gives what must hold so many seconds later.

    One of three tries has to keep the promise: a machine that stumbles does so once, a tracker that is late is late each time.
    """
    for number in range(tries):
        holds = begin(number)
        try:
            until(holds, what, seconds=seconds)
        except AssertionError:
            if number == tries - 1:
                raise
        else:
            return

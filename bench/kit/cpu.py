"""How much CPU processes used, and how busy a core was: what decides a benchmark, and what makes its rates void."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cpu:
    """Seconds of CPU. Resolution 10 ms; the sum is exact, its split between the two is sampled by the kernel."""

    user: float = 0.0
    system: float = 0.0

    @property
    def total(self) -> float:
        return self.user + self.system

    def __add__(self, other: Cpu) -> Cpu:
        return Cpu(self.user + other.user, self.system + other.system)

    def __sub__(self, other: Cpu) -> Cpu:
        return Cpu(self.user - other.user, self.system - other.system)


def of_process(pid: int) -> Cpu:
    """A process with all its threads, and those of its children that have ended (proc(5), stat: utime to cstime)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    user, system, ended_user, ended_system = map(int, fields[11:15])
    return Cpu((user + ended_user) / _TICKS_PER_SECOND, (system + ended_system) / _TICKS_PER_SECOND)


def of_tree(pid: int) -> Cpu:
    """A process and all that descend from it. One that ends meanwhile counts with its parent."""
    used = Cpu()
    for child in children(pid):
        try:
            used += of_tree(child)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return used + of_process(pid)


def children(pid: int) -> list[int]:
    """Pids of the processes that the main thread of a process started."""
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in RAM, shared pages included (RSS)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class CoreWatch:
    """Share of time that a core was not idle since this was made, all processes of the machine included."""

    def __init__(self, core: int) -> None:
        self._name = f"cpu{core} "
        self._before = self._read()

    def busy(self) -> float:
        """0 to 1. Time that another guest of the host took counts as busy: the load generator did not have it."""
        idle, total = (now - before for now, before in zip(self._read(), self._before, strict=True))
        return 1 - idle / total if total else 0.0

    def _read(self) -> tuple[int, int]:
        line = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith(self._name))
        ticks = [int(one) for one in line.split()[1:9]]      # guest time is in user time already
        return ticks[3] + ticks[4], sum(ticks)               # idle and iowait

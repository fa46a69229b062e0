"""Leases: any number of control processes, and one of them runs each job. A hung holder loses its lease.

Time is the database's alone, so clocks of machines do not matter. Holding a lease is not proof enough when a process was
stopped and goes on later: whatever a job writes, it first calls `fence` in the same transaction.
"""

from __future__ import annotations

from typing import Final

from tracker.storage.postgres import Connection
from tracker.storage.spool.cursor import CursorMovedError

LEASE_SECONDS: Final = 10.0
"""How long a dead holder's job stands still. Renewed every second or so; at half, a slow server makes holders flap."""

_ACQUIRE: Final = """
    INSERT INTO job_leases AS l (job, holder, expires_at)
    VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3))
        ON CONFLICT (job) DO UPDATE SET holder = EXCLUDED.holder, expires_at = EXCLUDED.expires_at
           WHERE l.holder = EXCLUDED.holder OR l.expires_at <= clock_timestamp()
    RETURNING 1
"""
_FENCE: Final = "SELECT 1 FROM job_leases WHERE job = $1 AND holder = $2 AND expires_at > clock_timestamp() FOR UPDATE"
_RELEASE: Final = "DELETE FROM job_leases WHERE job = $1 AND holder = $2"


class LeaseLostError(CursorMovedError):
    """Another process runs the job now: nothing of the open transaction may be committed, as when it moves the cursor."""


class Lease:
    """One job's lease. `holder` names this process among all: host, pid and something random."""

    def __init__(self, job: str, holder: str, *, seconds: float = LEASE_SECONDS) -> None:
        self.job, self.holder, self._seconds = job, holder, seconds

    async def acquire(self, connection: Connection) -> bool:
        """Take or renew the lease; False while another holds it. Outside of a transaction."""
        return await connection.fetchval(_ACQUIRE, self.job, self.holder, self._seconds) is not None

    async def fence(self, connection: Connection) -> None:
        """Inside a transaction: still ours, and nobody takes it before the transaction ends. Raises LeaseLostError."""
        if await connection.fetchval(_FENCE, self.job, self.holder) is None:
            raise LeaseLostError(self.job)

    async def release(self, connection: Connection) -> None:
        """Give it back, so that the next process need not wait for it to expire."""
        await connection.execute(_RELEASE, self.job, self.holder)

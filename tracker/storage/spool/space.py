"""The disk space that the spools under one root may use, as every log of a process counts it.

It exists because a spool must stop itself before the volume does: in Kubernetes a volume over its limit is taken away
with the pod. Which file goes when space is short is decided by whoever owns the files, not here.
"""

import errno
from pathlib import Path

from tracker.storage.spool.fsops import FsOps


class Space:
    """`max_bytes` for all spools under `root`, other workers' included.

    Other processes' files count when `measure` looks (at every `Spool.prune`): between two looks they may overshoot by
    the segments they made meanwhile, which is why the setting should leave a fifth of the volume free.
    """

    def __init__(self, fs: FsOps, root: Path, max_bytes: int) -> None:
        self._fs, self._root, self.max_bytes = fs, root, max_bytes
        self.used_bytes = 0

    def measure(self) -> None:
        """Count what is on the disk. Walks the directories (2 µs a file): not for the event loop."""
        self.used_bytes = self._fs.used_bytes(self._root)

    def take(self, size: int) -> None:
        """Reserve `size` bytes; OSError ENOSPC beyond the limit, as a full disk would say."""
        if self.used_bytes + size > self.max_bytes:
            raise OSError(errno.ENOSPC, f"TRACKER_SPOOL_MAX_BYTES={self.max_bytes} is used up")
        self.used_bytes += size

    def give(self, size: int) -> None:
        """Return what was taken, after the file is gone."""
        self.used_bytes -= size

    @property
    def scarce(self) -> bool:
        """More than half is used: what is shipped and kept as insurance makes room for rows that are not."""
        return self.used_bytes > self.max_bytes // 2

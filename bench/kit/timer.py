"""A clock that rings: Linux's timerfd, which Python has from 3.13 on only. An epoll waits for it as for any answer."""

from __future__ import annotations

import ctypes
import os
from typing import Final

_CLOCK_MONOTONIC: Final = 1
_TFD_NONBLOCK: Final = os.O_NONBLOCK
_TFD_TIMER_ABSTIME: Final = 1


class _Time(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Times(ctypes.Structure):
    _fields_ = (("every", _Time), ("first", _Time))


def ring(first_ns: int, every_ns: int) -> int:
    """A file descriptor that becomes readable at that moment of time.monotonic_ns and then every so often; reading its
    8 bytes silences it until the next time."""
    library = ctypes.CDLL(None, use_errno=True)
    descriptor: int = library.timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK)
    times = _Times(_Time(*divmod(every_ns, 10**9)), _Time(*divmod(first_ns, 10**9)))
    if descriptor < 0 or library.timerfd_settime(descriptor, _TFD_TIMER_ABSTIME, ctypes.byref(times), None):
        raise OSError(ctypes.get_errno(), "no timerfd")
    return descriptor

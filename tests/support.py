"""What tests of every room share: today, what to do when the machine lacks something that a test needs."""

import os
import socket
from typing import NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    """Skip the test with the reason, or fail it where TRACKER_TEST_REQUIRE_ALL=1 says that nothing may be skipped."""
    if os.environ.get("TRACKER_TEST_REQUIRE_ALL") == "1":
        pytest.fail(f"missing, and TRACKER_TEST_REQUIRE_ALL=1: {reason}", pytrace=False)
    pytest.skip(reason)


def has_address(host: str) -> bool:
    """Whether this machine can listen there: some have no IPv6."""
    try:
        socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError:
        return False
    return True

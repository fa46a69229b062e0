"""What tests of every room share: today, what to do when the machine lacks something that a test needs."""

import os
from typing import NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    """Skip the test with the reason, or fail it where TRACKER_TEST_REQUIRE_ALL=1 says that nothing may be skipped."""
    if os.environ.get("TRACKER_TEST_REQUIRE_ALL") == "1":
        pytest.fail(f"missing, and TRACKER_TEST_REQUIRE_ALL=1: {reason}", pytrace=False)
    pytest.skip(reason)

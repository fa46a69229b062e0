"""What is mutated, and which tests must notice: the fast ones that judge just this module, cheapest first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Module:
    """`file` below tracker/, `tests` below tests/. `leave_out`: what pytest's -k shall pass over, for its time."""

    area: str
    file: str
    tests: tuple[str, ...]
    leave_out: str = ""
    postgres: bool = False       # its tests need a server: conftest.py is loaded, and each mutant costs seconds


IDS: Final = ("unit/test_click_id.py", "property/test_click_id_property.py")
CONVERSIONS: Final = ("unit/test_conversion.py", "property/test_order.py")
FORMAT: Final = ("unit/test_segments.py", "property/test_spool.py")
FRAMES: Final = ("property/test_frame_window.py", *FORMAT)
LOGS: Final = (
    "property/test_spool_reading.py", "property/test_spool_books.py", "property/test_spool_faults.py", "property/test_spool.py",
    "property/test_spool_damage.py",
)
DIRECTORIES: Final = ("property/test_spool_steps.py", "unit/test_spool_directories.py")
NUMBERS: Final = ("unit/test_worker_stock.py", "integration/test_worker_numbers.py")
SLOW_BITS: Final = "flipped_bit or cut_at_any_byte or live_reader_follows"     # seconds each

MODULES: Final = (
    Module("click id", "domain/click_id.py", IDS, "come_round or never_raises_another"),
    Module("money", "domain/money.py", ("unit/test_money.py",)),
    Module("matching", "domain/conversion.py", CONVERSIONS, "any_order_and_repetition"),
    Module("matching", "domain/conversion_id.py", ("unit/test_conversion_id.py",)),
    Module("matching", "domain/attribution.py", CONVERSIONS, "any_order_and_repetition"),
    Module("matching", "domain/commission.py", CONVERSIONS, "any_order_and_repetition"),
    Module("spool", "storage/spool/segments.py", (*FORMAT, "property/test_spool_damage.py"), SLOW_BITS),
    Module("spool", "storage/spool/frame_window.py", (*FRAMES, "property/test_spool_damage.py"), SLOW_BITS),
    Module("spool", "storage/spool/reader.py", (*LOGS, "unit/test_reader_seek.py", "property/test_spool_steps.py"), SLOW_BITS),
    Module("spool", "storage/spool/segment_file.py", LOGS, SLOW_BITS),
    Module("spool", "storage/spool/log.py", LOGS, SLOW_BITS),
    Module("spool", "storage/spool/space.py", (*LOGS, *DIRECTORIES), SLOW_BITS),
    Module("spool", "storage/spool/spool.py", DIRECTORIES),
    Module("spool", "storage/spool/dead_spool.py", DIRECTORIES),
    Module("spool", "storage/spool/fsops.py", ("unit/test_fsops.py", *DIRECTORIES, "property/test_spool_faults.py")),
    Module("spool", "storage/spool/cursor.py", ("integration/test_spool_cursor.py", "faults/test_claims.py"), "[15", postgres=True),
    Module("spool", "storage/spool/worker_numbers.py", NUMBERS, "[15", postgres=True),
)

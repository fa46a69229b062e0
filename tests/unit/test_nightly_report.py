"""The table of a nightly run says what pytest's report says."""

from pathlib import Path

from nightly_report import rows_of, table_of

REPORT = """<testsuites><testsuite timestamp="2026-11-22T01:00:00">
<testcase classname="tests.faults.test_a" name="test_x[1-18]" time="30.0">
<properties><property name="seed" value="77"/></properties></testcase>
<testcase classname="tests.faults.test_a" name="test_x[2-18]" time="60.0">
<properties><property name="seed" value="78"/></properties><failure message="m"/></testcase>
<testcase classname="tests.fuzz.test_fuzz" name="test_y" time="6.0"><skipped/></testcase>
</testsuite></testsuites>"""


def test_a_line_a_file_with_what_failed_and_what_was_said(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(REPORT)
    assert [
        "| `tests/faults/test_a.py` | 2 | 1 | 0 | 1.5 | seed: 1-18 77, 2-18 78 |",
        "| `tests/fuzz/test_fuzz.py` | 1 | 0 | 1 | 0.1 |  |",
        "| **all** | 3 | 1 | 1 | 1.6 | |",
    ] == table_of(rows_of([report]), "title").splitlines()[-3:]

"""The system calls behind the spool do what their names say: on the tests' own disk, or seen at the call."""

import os
from pathlib import Path

import pytest

from tracker.storage.spool.fsops import RealFs


def descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def test_space_is_given_to_a_file_at_once_and_no_byte_more(tmp_path: Path) -> None:
    fs = RealFs()
    fd = fs.open_new(tmp_path / "file")
    fs.fallocate(fd, 3 * 4096)
    assert 3 * 4096 == fs.file_size(fd)
    assert os.fstat(fd).st_blocks * 512 >= 3 * 4096
    fs.close(fd)
    with pytest.raises(FileExistsError):
        fs.open_new(tmp_path / "file")


def test_what_is_to_be_synced_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test can cut the power of its machine: that the kernel is asked must be seen here."""
    synced: list[str] = []
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda fd, name=name: synced.append(f"{name} {Path(f'/proc/self/fd/{fd}').readlink().name}"))
    fs, before = RealFs(), descriptors()
    fd = fs.open_new(tmp_path / "file")
    fs.fdatasync(fd)
    fs.close(fd)
    fs.fsync_dir(tmp_path)
    assert (["fdatasync file", f"fsync {tmp_path.name}"], before) == (synced, descriptors())
    with pytest.raises(NotADirectoryError):
        fs.fsync_dir(tmp_path / "file")


def test_a_directory_is_made_once_unless_its_parents_may_be_there(tmp_path: Path) -> None:
    fs = RealFs()
    with pytest.raises(FileNotFoundError):
        fs.mkdir(tmp_path / "a" / "b")
    for _ in range(2):
        fs.mkdir(tmp_path / "a" / "b", parents=True)
    with pytest.raises(FileExistsError):
        fs.mkdir(tmp_path / "a" / "b")
    fs.rmdir(tmp_path / "a" / "b")
    assert [] == fs.listdir(tmp_path / "a")


def test_used_space_is_what_files_of_the_directories_take_and_nothing_they_point_to(tmp_path: Path) -> None:
    """Other workers come and go meanwhile: what is no directory, or no more, is passed over."""
    for name, size in (("one/a", 10_000), ("one/b", 1), ("two/c", 5_000)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * size)
    expected = sum(file.stat().st_blocks * 512 for file in tmp_path.glob("*/*"))
    (tmp_path / "catalog.json").write_bytes(b"x" * 9_000)
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "two" / "link").symlink_to("../catalog.json")      # so short a link takes no block of its own
    assert 15_001 < expected == RealFs().used_bytes(tmp_path)

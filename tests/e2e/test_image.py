"""The image cannot be built here without a container engine; that its build stage copies all the package needs can be seen."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_package_builds_from_what_the_image_copies(tmp_path: Path) -> None:
    """A file that the build needs and the image lacks is noticed by whoever deploys, else."""
    stage = (ROOT / "k8s" / "Dockerfile").read_text().split("\nFROM ")[1]
    copied = [name for line in re.findall(r"^COPY (.+) \S+$", stage, re.MULTILINE) for name in line.split()]
    assert copied
    source = tmp_path / "src"
    source.mkdir()
    for name in copied:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(source)],
        capture_output=True, text=True, check=False,
    )
    assert done.returncode == 0, done.stderr
    [wheel] = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {"tracker/__main__.py", "tracker/schema.sql", "tracker/storage/roles.sql"} <= held
    compiled = any(re.fullmatch(r"tracker/_speedups\..*so", name) for name in held)
    assert compiled == (shutil.which("cc") is not None), "a compiler builds the twins, and only a compiler"

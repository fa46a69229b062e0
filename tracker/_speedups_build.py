"""Builds _speedups.c and the header beside it when the package is installed, where a C compiler is found. Without one, or
should it fail, all is whole the same: the twins in Python serve. A hook of hatchling (pyproject.toml); the program never
imports it, and wheels lack it."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sysconfig
import zlib
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Speedups(BuildHookInterface[Any]):
    """Asked for in pyproject.toml."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - the hook's shape
        source = Path(self.root, "tracker", "_speedups.c")
        built = source.with_name("_speedups" + (sysconfig.get_config_var("EXT_SUFFIX") or ".so"))
        built.unlink(missing_ok=True)
        compiler = shlex.split(sysconfig.get_config_var("CC") or "cc")
        if shutil.which(compiler[0]) is None:
            compiler = ["cc"]
        crc = 0
        for part in sorted(source.parent.glob("_speedups*.[ch]")):
            crc = zlib.crc32(part.read_bytes(), crc)
        command = [*compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", f"-DSOURCE_CRC={crc & 0x7FFFFFFF}"]
        command += ["-I" + sysconfig.get_paths()["include"], str(source), "-o", str(built)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            self.app.display_info(f"speedups are not built: {error}")
            return
        if done.returncode != 0:
            self.app.display_info(f"speedups are not built: {done.stderr}")
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["force_include"][str(built)] = f"tracker/{built.name}"

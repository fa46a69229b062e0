"""`python tests/mutation/run.py [FILE …]`: plant every mutant, see which survive. Exit code 1: one survived unexplained.

The danger is a suite that is green whatever the program does. Each mutant lives in a process forked for it, so nothing is
written into the tree and no start is paid twice; the compiled twins are hidden there, for they would answer in the place of
a mutated Python twin. Modules whose source and tests are as in results.json are not run again: a run that was cut short goes
on where it was. Why not mutmut: README.md here.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from datetime import UTC, datetime
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any, Final

import _hypothesis_pytestplugin
import hypothesis.stateful
import pytest
import pytest_asyncio.plugin
import pytest_timeout
from areas import MODULES, Module
from mutants import Mutant, mutants

HERE: Final = Path(__file__).parent
TESTS, ROOT = HERE.parent, HERE.parents[1]
RESULTS, SURVIVORS = HERE / "results.json", HERE / "survivors.toml"
PLUGINS: Final = (pytest_asyncio.plugin, pytest_timeout, _hypothesis_pytestplugin)
TEST_SECONDS = 60          # one test that waits for ever; the slowest takes 3
MUTANT_SECONDS = 240       # all its tests: what waits beyond pytest's own limit
ENDLESS_CPU = 2, 4         # a loop without end: so many times the CPU time the tests take without a mutant, and seconds more
MEMORY_BYTES = 4 * 2**30   # a loop that gathers for ever shall not take the machine with it


def fork(module: Module, code: CodeType | None, cpu_seconds: int, output: str = os.devnull) -> int:
    """Run the module's tests with `code` in its place, in a new process: its pid. It exits 0 when all are green."""
    if pid := os.fork():
        return pid
    try:
        ends = threading.Timer(MUTANT_SECONDS, os._exit, (1,))
        ends.daemon = True
        ends.start()
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
        os.dup2(os.open(output, os.O_RDWR), 1)
        os.dup2(1, 2)
        _plant(f"tracker.{module.file.removesuffix('.py').replace('/', '.')}", code)
        for plugin in ("tests", *{str(Path(test).parent) for test in module.tests}):
            sys.path.insert(0, str(TESTS if plugin == "tests" else TESTS / plugin))
        hypothesis.settings.register_profile(
            "mutation", max_examples=30, derandomize=True, database=None, deadline=None,
            phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate], suppress_health_check=list(hypothesis.HealthCheck),
        )
        hypothesis.settings.load_profile("mutation")
        options = ["-x", "-q", "--tb=short", "-p", "no:cacheprovider", f"--timeout={TEST_SECONDS}", f"--rootdir={ROOT}"]
        options += [] if module.postgres else ["--noconftest"]
        options += ["-k", f"not ({module.leave_out})"] if module.leave_out else []
        os._exit(int(pytest.main([*options, *(str(TESTS / test) for test in module.tests)], plugins=PLUGINS)))
    finally:
        os._exit(1)


def _plant(name: str, code: CodeType | None) -> None:
    """Have `name` imported from `code`, and no compiled twin of anything."""
    sys.modules["tracker._speedups"] = None  # type: ignore[assignment]
    genuine = SourceFileLoader.get_code
    SourceFileLoader.get_code = (  # type: ignore[method-assign]
        lambda self, fullname: code if code and fullname == name else genuine(self, fullname)
    )


def judge(module: Module, *, workers: int, every: int = 1, only: list[list[str]] | None = None) -> dict[str, Any]:
    """Try every mutant of the module, or each so-manieth, or `only` those and take all others for killed: what results.json
    keeps of it. SystemExit when its tests are red."""
    path, started = ROOT / "tracker" / module.file, time.monotonic()
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"     # a third of a second for each mutant
    with tempfile.NamedTemporaryFile("r") as said:
        _, status, used = os.wait4(fork(module, None, MUTANT_SECONDS, said.name), 0)
        if status:
            sys.exit(f"{module.file}: its tests are red, or hang, without a mutant:\n{said.read()[-3000:]}")
    cpu_seconds = round(ENDLESS_CPU[0] * (used.ru_utime + used.ru_stime) + ENDLESS_CPU[1])
    tried, running, survivors = 0, dict[int, Mutant](), list[Mutant]()

    def reap() -> None:
        pid, status = os.wait()
        mutant = running.pop(pid)
        if status == 0:
            survivors.append(mutant)
            print(f"  survived: {module.file}:{mutant.number}: {mutant.line}  ⟶  {mutant.became}", flush=True)

    for mutant in list(mutants(path.read_text(), str(path)))[::every]:
        tried += 1
        if only is not None and [mutant.line, mutant.became] not in only:
            continue
        while len(running) >= workers:
            reap()
        running[fork(module, mutant.code, cpu_seconds)] = mutant
    while running:
        reap()
    return {
        "area": module.area, "mutants": tried, "killed": tried - len(survivors), "seconds": round(time.monotonic() - started),
        "date": f"{datetime.now(UTC):%Y-%m-%d}", "commit": _commit(), "digest": digest(module),
        "survivors": sorted([mutant.line, mutant.became] for mutant in survivors),
    }


def read(results: Path) -> dict[str, Any]:
    """By file; nothing when there are none yet."""
    kept: dict[str, Any] = json.loads(results.read_text()) if results.exists() else {}
    return kept


def digest(module: Module) -> str:
    """Of all that decides the module's result."""
    files = [ROOT / "tracker" / module.file, *(TESTS / test for test in module.tests), HERE / "mutants.py"]
    text = b"".join(file.read_bytes() for file in files) + repr(module).encode()
    return hashlib.blake2b(text, digest_size=6).hexdigest()


def unexplained(results: dict[str, Any]) -> list[str]:
    """Survivors that survivors.toml does not explain."""
    explained = tomllib.loads(SURVIVORS.read_text())
    return [
        f"{file}: {line}  ⟶  {became}"
        for file, result in results.items() for line, became in result["survivors"]
        if not any((one["line"], became) == (line, each) for one in explained.get(file, ()) for each in one["became"])
    ]


def _commit() -> str:
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", metavar="FILE", help="like domain/money.py; all when none is named")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="mutants tried at once (cores)")
    parser.add_argument("--every", type=int, default=1, help="only each so-manieth mutant; nothing is kept")
    parser.add_argument("--survivors", action="store_true", help="only what survived last time: for whoever adds the tests")
    parser.add_argument("--again", action="store_true", help="also modules that are as in the results")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where results are kept")
    options = parser.parse_args()
    judged = {}
    for module in (one for one in MODULES if not options.files or one.file in options.files):
        kept = read(options.results).get(module.file, {})
        if options.again or options.every > 1 or kept.get("digest") != digest(module):
            only = kept.get("survivors") if options.survivors else None
            kept = judge(module, workers=options.workers, every=options.every, only=only)
        judged[module.file] = kept
        print(f"{module.file}: {kept['killed']} of {kept['mutants']} killed, {kept['seconds']} s", flush=True)
        if options.every == 1:
            results = {**read(options.results), module.file: kept}     # another run may have written meanwhile
            options.results.write_text(json.dumps(results, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
    sys.exit("\n".join(["", "Survived, and nobody said why (survivors.toml):", *lines]) if (lines := unexplained(judged)) else 0)


if __name__ == "__main__":
    main()

"""`python tests/fuzz/fuzz.py TARGET [--seconds 60]`: coverage-guided fuzzing of one target, by atheris (libFuzzer).

Ends after the time, or the runs, or at the first input that breaks a promise: then with an exception, exit code 77 and the
input, in a file of the temporary directory, and in base64 when it is short. Every branch taken in tracker/ guides it; the
compiled twins are judged, not guided by.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import atheris

TESTS = Path(__file__).parents[1]
LONGEST = 20_000         # bytes of an input: above every limit that is tested but the framing's 64 KiB
SLOW_SECONDS = 10        # one input: bounded time is a promise too


def main() -> None:
    sys.path[:0] = [str(TESTS / "property"), str(TESTS)]
    with atheris.instrument_imports(include=["tracker"]):
        from targets import TARGETS
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--runs", type=int, default=-1, help="inputs at most (no limit)")
    parser.add_argument("--seed", type=int, default=0, help="0: another each time; libFuzzer prints it")
    options = parser.parse_args()
    target = TARGETS[options.target]
    with tempfile.TemporaryDirectory(prefix="fuzz") as corpus:
        for number, seed in enumerate(target.seeds):
            (Path(corpus) / f"{number}").write_bytes(seed)
        limits = [f"-max_total_time={options.seconds}", f"-runs={options.runs}", f"-max_len={LONGEST}", f"-timeout={SLOW_SECONDS}"]
        told = [f"-seed={options.seed}", f"-artifact_prefix={tempfile.gettempdir()}/", "-print_final_stats=1"]
        child = os.fork()      # libFuzzer ends its process itself, and would leave the corpus behind
        if not child:
            atheris.Setup([sys.argv[0], *limits, *told, corpus], target.check)
            atheris.Fuzz()
        status = os.waitpid(child, 0)[1]
    sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()

"""Applies each mutant of the table to a copy of the package and runs the tests on it.

    python tests/mutants/run.py [--only NAME ...] [--list]

A mutant is one small mistake (table.py): killed if one of the tests that are named with
it fails, a survivor if all pass. Package and tests are copied to a temporary folder, so
the checkout is never touched; programs that a mutant leaves as they were come from a
compile cache that stays from run to run. First the tests run without any mutant and
must pass. Exit status: 0, or 1 if a mutant survives that the table does not explain, or
cannot be applied or imported.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from mutant import Mutant
from table import MUTANTS

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("sdsjax", "tests", "configs", "pyproject.toml")
COMPILED = Path(tempfile.gettempdir()) / "sdsjax-mutants-compiled"
# Seconds that the tests of one mutant may take; a loop without an end is killed too.
PATIENCE = 600
PYTEST = ("-m", "pytest", "-q", "-x", "-n", "0", "--tb=no", "-p", "no:cacheprovider")
# What a mutant can come to; the last two are faults of the table.
KILLED, SURVIVED, ABSENT, BROKEN = "killed", "survived", "not applicable", "broken"


def copy_checkout(folder: Path) -> None:
    """Copies what the tests need into an empty folder."""
    for name in COPIED:
        source, target = ROOT / name, folder / name
        if source.is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, target, ignore=ignore)
        else:
            shutil.copy(source, target)


def run_tests(folder: Path, tests: Sequence[str]) -> tuple[int, str]:
    """Runs tests in the copy; returns pytest's exit status and its output."""
    environment = os.environ | {
        "PYTHONPATH": str(folder),
        # a source changed within a second, to equal length, would pass for its bytecode
        "PYTHONDONTWRITEBYTECODE": "1",
        "JAX_COMPILATION_CACHE_DIR": str(COMPILED),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    try:
        done = subprocess.run(
            (sys.executable, *PYTEST, *tests),
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired:
        return 1, f"FAILED (more than {PATIENCE} s)"
    return done.returncode, done.stdout + done.stderr


def try_mutant(folder: Path, mutant: Mutant) -> tuple[str, str]:
    """Applies one mutant, runs its tests, takes it back: the outcome and the reason."""
    path = folder / "sdsjax" / mutant.file
    text = path.read_text(encoding="utf-8")
    found = text.count(mutant.old)
    if found != 1 or mutant.old == mutant.new:
        return ABSENT, f"the text occurs {found} times in {mutant.file}"
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        status, output = run_tests(folder, mutant.tests)
    finally:
        path.write_text(text, encoding="utf-8")
    if status == 0:
        return SURVIVED, mutant.explanation or "not explained"
    # 1: a test failed; anything else: nothing was tested
    failed = re.search(r"^FAILED (?:\S*::)?(\S+(?: \(.*\))?)", output, re.MULTILINE)
    if status != 1 or failed is None:
        return BROKEN, output.strip().splitlines()[-1]
    return KILLED, failed[1]


def chosen(names: Sequence[str] | None) -> list[Mutant]:
    """Returns the mutants of these names, or all; leaves on an unknown name."""
    if not names:
        return list(MUTANTS)
    unknown = set(names) - {m.name for m in MUTANTS}
    if unknown:
        sys.exit(f"no mutant is called {', '.join(sorted(unknown))}: see --list")
    return [m for m in MUTANTS if m.name in names]


def report(outcomes: dict[str, str], mutants: Sequence[Mutant]) -> int:
    """Prints the score and what is not killed; returns the exit status."""
    killed = sum(outcome == KILLED for outcome in outcomes.values())
    print(f"\n{killed} of {len(outcomes)} killed: {killed / len(outcomes):.3f}")
    faults = 0
    for mutant in mutants:
        outcome = outcomes[mutant.name]
        explained = outcome == SURVIVED and bool(mutant.explanation)
        if outcome != KILLED:
            print(f"{mutant.name}: {outcome}. {mutant.explanation}".rstrip())
        elif mutant.explanation:
            print(f"{mutant.name}: killed, so its explanation is wrong: remove it.")
        faults += not explained and outcome != KILLED
    return int(faults > 0)


def main() -> int:
    """Runs the chosen mutants; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="run these alone")
    parser.add_argument("--list", action="store_true", help="print the table, run none")
    arguments = parser.parse_args()
    mutants = chosen(arguments.only)
    if arguments.list:
        for m in mutants:
            print(f"{m.name:32} {m.file}: {m.old.strip()!r} -> {m.new.strip()!r}")
        return 0
    with tempfile.TemporaryDirectory(prefix="sdsjax-mutants-") as name:
        folder = Path(name)
        copy_checkout(folder)
        named = {test for mutant in mutants for test in mutant.tests}
        status, output = run_tests(folder, sorted(named))
        if status:
            print(output, file=sys.stderr)
            sys.exit("without a mutant the tests must pass")
        outcomes = {}
        for mutant in mutants:
            begun = time.monotonic()
            outcomes[mutant.name], reason = try_mutant(folder, mutant)
            took = time.monotonic() - begun
            outcome = outcomes[mutant.name]
            print(f"{mutant.name:32} {outcome:9} {took:4.0f} s  {reason}", flush=True)
    return report(outcomes, mutants)


if __name__ == "__main__":
    sys.exit(main())

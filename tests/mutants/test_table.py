"""The table of mutants follows the code: each text stands once, each test is there."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from mutant import EQUIVALENT
from table import MUTANTS

ROOT = Path(__file__).resolve().parents[2]


def faults(mutant):
    """What keeps a mutant from being applied or its tests from being run."""
    found = []
    text = (ROOT / "sdsjax" / mutant.file).read_text(encoding="utf-8")
    if text.count(mutant.old) != 1 or mutant.old == mutant.new:
        found.append(f"{mutant.old!r} in {mutant.file}")
    for node in mutant.tests:
        path, function = node.split("::")
        name = re.escape(re.sub(r"[[].*", "", function))
        text = (ROOT / path).read_text(encoding="utf-8")
        # what stands above a function up to an empty line: its decorators
        defined = re.search(rf"((?:^.+\n)*)^def {name}\(", text, re.MULTILINE)
        # run.py runs pytest as the README does, which leaves out what is slow
        if defined is None or "@pytest.mark.slow\n" in defined[1]:
            found.append(node)
    return found


def test_every_mutant_can_be_applied_and_its_tests_are_there():
    assert {m.name: found for m in MUTANTS if (found := faults(m))} == {}
    assert max(Counter(m.name for m in MUTANTS).values()) == 1
    assert {m.name for m in MUTANTS} >= set(EQUIVALENT)


@pytest.mark.slow
def test_every_case_that_is_named_is_collected():
    """A name with its parameters [...], which only pytest knows."""
    nodes = {node for mutant in MUTANTS for node in mutant.tests if "[" in node}
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n", "0"]
    done = subprocess.run(
        [*command, *sorted(nodes)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_what_cannot_be_applied_is_seen():
    first = MUTANTS[0]
    lost = "tests/test_cameras.py::test_nothing"
    broken = first._replace(old="no such text", tests=(*first.tests, lost))
    assert faults(broken) == [f"'no such text' in {first.file}", lost]
    assert faults(first._replace(new=first.old)) != []
    slow = "tests/training/test_resume.py::test_signals_checkpoint_and_say_so"
    assert faults(first._replace(tests=(slow,))) == [slow]

"""Situations of public bug reports: a script that has to know how a run ended."""

import ast
import importlib
import re
import signal

import pytest

from sdsjax.main import cli
from sdsjax.runs.exit_status import ExitStatus
from sdsjax.runs.signals import SIGNALS, Interrupted

pytestmark = pytest.mark.field
# What README and the scripts of users rely on, written out.
CODES = {0, 1, 2, 3, 4, 5, 6, 130, 143}


def classes_with_a_status(package):
    """Every class of the package that states an exit_code: (module, class)."""
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ClassDef):
                continue
            names = {
                target.id
                for one in node.body
                if isinstance(one, ast.Assign)
                for target in one.targets
                if isinstance(target, ast.Name)
            }
            if "exit_code" in names:
                parts = path.relative_to(package.parent).with_suffix("").parts
                yield ".".join(parts), node.name


def listed(capsys) -> dict[int, str]:
    """The exit statuses that --help lists, with what it says of them."""
    assert cli(["--help"]) == 0
    section = capsys.readouterr().out.split("exit status:\n")[1]
    return {int(n): text for n, text in re.findall(r"^ +(\d+)  (.+)$", section, re.M)}


def test_help_names_every_status(pytestconfig, capsys):
    named = listed(capsys)
    assert set(named) == CODES == set(map(int, ExitStatus))
    assert len(set(named.values())) == len(CODES)
    found = list(classes_with_a_status(pytestconfig.rootpath / "sdsjax"))
    assert len(found) >= 5
    for module, name in found:
        status = getattr(importlib.import_module(module), name).exit_code
        assert isinstance(status, ExitStatus), (module, name)
    for number in SIGNALS:
        assert Interrupted(number, 3).exit_code in named
    assert set(SIGNALS) == {signal.SIGINT, signal.SIGTERM}


def test_no_other_status_is_written_out(pytestconfig):
    """`return 3` or `sys.exit(3)` of the command line would pass the list by."""
    package = pytestconfig.rootpath / "sdsjax"
    for name in ("main.py", "__main__.py", "cli/devices.py", "runs/signals.py"):
        for node in ast.walk(ast.parse((package / name).read_text("utf-8"))):
            given = []
            if isinstance(node, ast.Return):
                given = [node.value]
            elif isinstance(node, ast.Call):
                ends = ast.unparse(node.func) in ("sys.exit", "os._exit", "SystemExit")
                given = node.args if ends else []
            numbers = [n.value for n in given if isinstance(n, ast.Constant)]
            assert not [n for n in numbers if type(n) is int], (name, node.lineno)


def test_readme_names_the_same(pytestconfig, capsys):
    text = (pytestconfig.rootpath / "README.md").read_text("utf-8")
    said = " ".join(text.split()).split("Exit status: ")[1].split(" From Python")[0]
    assert {int(n) for n in re.findall(r"\b\d+\b", said)} == set(listed(capsys))

"""Words and sizes: whole first sentences, functions of 60 lines, files of 400.

Read from the syntax trees alone.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "sdsjax"
FILES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
FUNCTION_LINES, FILE_LINES = 60, 400
# Called by flax.linen, which says what it is for.
FLAX_HOOKS = {"setup"}


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def is_public(node: ast.AST) -> bool:
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return isinstance(node, kinds) and not node.name.startswith("_")


def public(tree: ast.Module):
    """The module, its public functions and classes, and their public methods."""
    yield "the module", tree
    for node in filter(is_public, tree.body):
        yield node.name, node
        if isinstance(node, ast.ClassDef):
            for method in filter(is_public, node.body):
                if method.name not in FLAX_HOOKS:
                    yield f"{node.name}.{method.name}", method


def is_sentence(line: str) -> bool:
    return line[:1].isupper() and line.endswith(".") and len(line.split()) >= 3


def without_a_sentence(tree: ast.Module) -> list[str]:
    """What is public and whose docstring's first line is no sentence of its own."""
    found = []
    for name, node in public(tree):
        first, _, rest = (ast.get_docstring(node) or "").partition("\n")
        apart = not rest or rest.startswith("\n")
        if not (is_sentence(first) and apart):
            found.append(name)
    return found


def too_long(tree: ast.Module) -> list[str]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, kinds)
        and node.end_lineno - node.lineno + 1 > FUNCTION_LINES
    ]


def faults(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    tree, found = ast.parse(text), []
    found += [f"no sentence: {name}" for name in without_a_sentence(tree)]
    found += [f"too long: {name}" for name in too_long(tree)]
    if len(text.splitlines()) > FILE_LINES:
        found.append("too long: the file")
    return found


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_words_and_sizes(path):
    assert not faults(path)


def test_faults_are_seen(tmp_path):
    path = tmp_path / "x.py"
    long = "\n".join(["    a = 1"] * FUNCTION_LINES)
    path.write_text(
        '"""Says what the module is.\n\nAnd more.\n"""\n'
        "class Some:\n"
        '    """What it is: a sentence that goes on\n    to the second line."""\n'
        "    def setup(self):\n        pass\n"
        "    def method(self):\n        pass\n"
        f'def good():\n    """Does what it should."""\ndef _private():\n{long}\n'
        'def arrow():\n    """x -> y."""\n'
    )
    assert faults(path) == [
        "no sentence: Some",
        "no sentence: Some.method",
        "no sentence: arrow",
        "too long: _private",
    ]
    path.write_text('"""A file of too many lines."""\n' + "a = 1\n" * FILE_LINES)
    assert faults(path) == ["too long: the file"]


def test_what_only_the_oracle_stage_reads_holds_oracles_alone():
    """tests/conftest.py leaves files of that name unread elsewhere."""
    files = {path.name: path.read_text(encoding="utf-8") for path in TESTS}
    named = {name for name in files if name.startswith("test_oracle_")}
    marked = {
        name
        for name, text in files.items()
        if re.search(r"^pytestmark = pytest\.mark\.oracle$", text, re.MULTILINE)
    }
    assert named == marked
    assert len(named) > 5

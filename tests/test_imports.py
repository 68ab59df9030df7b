"""Imports go one way (see CONTRIBUTING): a room only knows the rooms below it."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "sdsjax"
GROUND = {
    *("backend", "math", "cameras", "losses", "types", "diffusion", "timesteps"),
    "files",
}
STANDALONE = {"distributed", "runs", "diagnostics"}
BELOW_TRAINING = {
    *(GROUND | STANDALONE),
    *("models", "priors", "render", "representations", "estimators"),
    *("toybox", "exports", "evaluation"),
}
BELOW = {
    **dict.fromkeys(GROUND, GROUND),
    "models": GROUND,
    "render": GROUND,
    "estimators": GROUND,
    "priors": GROUND | {"models"},
    "representations": GROUND | {"render"},
    **dict.fromkeys(STANDALONE, GROUND | STANDALONE),
    "toybox": GROUND | {"models", "diagnostics"},
    "evaluation": GROUND | STANDALONE | {"models", "toybox"},
    "exports": GROUND
    | STANDALONE
    | {"render", "representations", "toybox", "evaluation"},
    "training": BELOW_TRAINING,
    "train_step": {"training"},
    "live": BELOW_TRAINING | {"training"},
    "cli": BELOW_TRAINING | {"training", "live"},
    "studies": BELOW_TRAINING | {"training"},
    "main": BELOW_TRAINING | {"training", "cli"},
    "sample": BELOW_TRAINING | {"training", "cli"},
    "__main__": {"main"},
    "export": {"cli"},
    "compare": {"cli"},
    "evaluate": {"cli"},
    "view": {"cli"},
    "studio": {"cli"},
    "library": BELOW_TRAINING | {"training", "cli"},
    "__init__": {"cli", "library"},
}
# Where a config object may be seen.
SEE_CONFIGS = {"training", "cli", "main", "__main__", "__init__"}
CONFIG_LIBRARIES = {"ml_collections", "absl", "configs"}
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@cache
def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_imports_only_from_below(path):
    room, names = room_of(path), imported(path)
    rooms = {n.split(".")[1] for n in names if n.startswith("sdsjax.")} - {room}
    assert rooms - {"__version__"} <= BELOW[room]
    if room not in SEE_CONFIGS:
        assert not {n.split(".")[0] for n in names} & CONFIG_LIBRARIES


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def files_imported(path: Path, modules: set[str]) -> set[str]:
    """The modules of sdsjax that a file names; of `a.b.name`, a.b.name or a.b."""
    found = set()
    for name in imported(path):
        while name and name not in modules:
            name = name.rpartition(".")[0]
        found |= {name} - {"", module_of(path)}
    return found


def knots(graph: dict[str, set[str]]) -> set[str]:
    """The nodes of a graph that lie on a cycle."""

    def reach(start):
        seen, front = set(), [start]
        while front:
            for node in graph.get(front.pop(), set()) - seen:
                seen.add(node)
                front.append(node)
        return seen

    return {node for node in graph if node in reach(node)}


def test_no_two_files_import_each_other():
    modules = {module_of(path) for path in FILES}
    graph = {module_of(path): files_imported(path, modules) for path in FILES}
    del graph["sdsjax"]  # the version, and a lazy door to everything
    assert not knots(graph)


def test_a_cycle_is_seen():
    assert knots({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == {"a", "b", "c"}


def test_the_rule_sees_an_import_inside_a_function(tmp_path):
    path = tmp_path / "x.py"
    path.write_text("def f():\n    from sdsjax import train\n    import sdsjax.main\n")
    assert imported(path) == {"sdsjax.train", "sdsjax.main"}


def test_few_files_lie_on_the_top_floor_and_every_room_says_what_it_is():
    assert len(list(PACKAGE.glob("*.py"))) <= 10
    for folder in {path.parent for path in FILES}:
        assert len(list(folder.glob("*.py"))) <= 16, folder
        opening = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
        assert opening, folder
        assert len(opening) >= 80, folder

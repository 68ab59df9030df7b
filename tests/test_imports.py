"""Imports go one way (see CONTRIBUTING): a room only knows the rooms below it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
GROUND = {"math", "cameras", "diffusion", "timesteps", "losses", "prompts", "types"}
GROUND |= {"files"}
STEP = {"train_step", "encoding", "optimizers", "particles", "pullback"}
STEP |= {"sharding", "forward", "supervision", "reference"}
TOP = {"config", "overrides", "checks", "build", "describe", "budget", "devices"}
TOP |= {"arguments", "run_directory", "session", "train", "main"}
TOP |= {"__init__", "__main__", "build_supervision"}
BELOW = {
    "models": GROUND,
    "render": GROUND,
    "estimators": GROUND,
    "priors": GROUND | {"models"},
    "representations": GROUND | {"render"},
    **dict.fromkeys(GROUND, GROUND),
    **dict.fromkeys(STEP, GROUND | STEP),
}
CONFIG_LIBRARIES = {"ml_collections", "absl", "configs"}
FILES = sorted((ROOT / "sdsjax").rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "sdsjax").with_suffix("").parts[0]


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
    rooms -= {"__version__"}
    if room in BELOW:
        assert rooms <= BELOW[room]
    elif room not in TOP:
        assert not rooms & TOP
    assert room == "__main__" or "main" not in rooms
    if room not in TOP:
        assert not {n.split(".")[0] for n in names} & CONFIG_LIBRARIES


def test_the_rule_sees_an_import_inside_a_function(tmp_path):
    path = tmp_path / "x.py"
    path.write_text("def f():\n    from sdsjax import train\n    import sdsjax.main\n")
    assert imported(path) == {"sdsjax.train", "sdsjax.main"}

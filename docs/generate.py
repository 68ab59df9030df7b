"""Writes the reference pages that are made of the program: config keys, experiments.

    python docs/generate.py            # writes docs/reference/config.md, experiments.md

The tables are committed, so that a change of a key shows in a diff; a test compares
them with what this writes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from configs.base import base_config
from sdsjax.cli.checks import CHOICES
from sdsjax.cli.overrides import hyperparameters
from sdsjax.cli.ranges import ANY, RANGES
from sdsjax.training.build import FACTORIES
from sdsjax.training.config import flatten

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "reference"
HERE = "https://github.com/sdsjax/sdsjax/tree/main/experiments/"
# Units of the keys that have one; `*` stands for one or more parts of a key.
UNITS = {
    "steps": "steps",
    "checkpoint_every": "steps",
    "preview_every": "steps",
    "*.first_steps": "steps",
    "*.until_step": "steps",
    "*.anneal_steps": "steps",
    "diagnostics.*_every": "steps",
    "diagnostics.every": "steps",
    "representation.control_(every|start|stop|reset_every)": "steps",
    "batch_size": "views",
    "samples_per_view": "noises",
    "*.first_batch_size": "views",
    "prior.(views|group)": "views",
    "(resolution|*.first_resolution|prior.image_size)": "px",
    "representation.(tile_size)": "px",
    "*.(azimuth|elevation|elevations|fov|view_spread)": "degrees",
    "(camera|reference).distance": "world units",
    "representation.(init_radius|init_scale|bound)": "world units",
    "timesteps.t_*": "t",
    "estimator.(threshold|switch_time|stride|delta)": "t",
    "optimizer.lr.*": "per step",
    "estimator.*_lr": "per step",
    "prior.(means)": "rgb",
    "exports.mesh_resolution": "nodes a side",
    "exports.turntable_frames": "frames",
    "mesh.(data|model)": "devices",
}
SECTION = re.compile(r"^    (?:config: Config = )?([a-z_][\w.]*) = (.*)$")


def matching(key: str, table: dict[str, Any]) -> Any:
    """Returns the value of the first pattern that is all of a key, or None."""
    for pattern, value in table.items():
        if re.fullmatch(pattern.replace(".", r"\.").replace("*", r"[\w.]+"), key):
            return value
    return None


def comments() -> dict[str, str]:
    """Reads what configs/base.py says of each key, beside it or in lines before it."""
    found, before = {}, []
    text = (ROOT / "configs" / "base.py").read_text()
    for line in text[: text.index("def stable_diffusion_21")].splitlines():
        if line.strip().startswith("#"):
            before.append(line.strip(" #"))
            continue
        key = SECTION.match(line)
        beside = line.partition("  # ")[2]
        if key and (before or beside):
            name = key.group(1).removeprefix("config.")
            found[name] = " ".join([*before, beside]).strip()
        before = []
    return found


def _allowed(key: str) -> str:
    if key in CHOICES:
        return ", ".join(f"`{name}`" for name in CHOICES[key]())
    limits = matching(key, RANGES)
    if limits is None:
        return ""
    low, high = (f"{v:,}" if isinstance(v, int) else f"{v:g}" for v in limits)
    return f"{low} .. {high}" if limits[1] < ANY else f"at least {low}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _default(value: Any) -> str:
    return "required" if value is inspect.Parameter.empty else f"`{value!r}`"


def _row(key: str, value: Any, meaning: str) -> str:
    unit = matching(key, UNITS) or ""
    cells = (f"`{key}`", _default(value), unit, _allowed(key), meaning)
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _table(rows: Iterator[str] | list[str]) -> str:
    head = "| key | default | unit | allowed | |\n|---|---|---|---|---|\n"
    return head + "\n".join(rows) + "\n"


def _parts() -> Iterator[str]:
    said, flat = comments(), flatten(base_config())
    plain = {k: v for k, v in flat.items() if k.split(".")[0] not in FACTORIES}
    top = [k for k in plain if "." not in k]
    yield "## Top level\n\n" + _table(_row(k, plain[k], said.get(k, "")) for k in top)
    for section in dict.fromkeys(k.split(".")[0] for k in plain if "." in k):
        keys = [k for k in plain if k.startswith(f"{section}.")]
        rows = [_row(k, plain[k], said.get(k, "")) for k in keys]
        yield f"## {section}\n\n{_table(rows)}"
    for section, factories in FACTORIES.items():
        yield f"## {section}\n\n" + _table([_row(f"{section}.name", "", "")]).replace(
            "`''`", f"`{flat[f'{section}.name']}`"
        )
        for name, factory in factories.items():
            yield _factory(section, name, factory)


def _factory(section: str, name: str, factory: Callable) -> str:
    said = " ".join((inspect.getdoc(factory) or "").split())
    rows = [
        _row(f"{section}.{key}", parameter.default, "")
        for key, parameter in hyperparameters(factory).items()
    ]
    table = _table(rows) if rows else ""
    return f"### {section}.name = {name}\n\n{_cell(said)}\n\n{table}"


def config_page() -> str:
    """Makes the Markdown of every key of a config."""
    opening = (
        "<!-- written by docs/generate.py: change configs/base.py instead -->\n"
        "# Every key of a config\n\n"
        "Set any of them by `--config.KEY=VALUE`; `--dry_run` prints those of a run. "
        "The defaults are those of `configs/base.py`, from which each method's file "
        "differs in a few. `estimator`, `timesteps` and `representation` have the keys "
        "of what their `name` says. `t` counts the prior's noise levels, 0 .. 999.\n"
    )
    return "\n".join([opening, *_parts()]).rstrip() + "\n"


def _figures(name: str) -> list[str]:
    """Lists the committed figures of an experiment, from docs/reference on."""
    found = sorted((ROOT / "experiments" / name).glob("results/*.png"))
    kept = [path for path in found if not path.name.startswith("small")]
    return [f"../../{path.relative_to(ROOT).as_posix()}" for path in kept]


def _gallery(rows: list[list[str]]) -> Iterator[str]:
    """Makes a section an experiment that has a figure: claims, verdicts, figures."""
    by_name: dict[str, list[list[str]]] = {}
    for row in rows:
        name = re.match(r"\[(\w+)\]", row[0])
        assert name is not None, row[0]
        by_name.setdefault(name.group(1), []).append(row)
    for name, own in by_name.items():
        figures = _figures(name)
        if not figures:
            continue
        yield f"## {name}\n"
        for _, claim, command, _, verdict in own:
            yield f"**Claim:** {claim}. **Verdict:** {verdict}. ({command})\n"
        for path in figures:
            alt = f"{name}, {Path(path).stem.replace('-', ' ')}"
            yield f"```{{figure}} {path}\n:alt: {alt}\n:target: {HERE}{name}\n```\n"


def experiments_page() -> str:
    """Makes the Markdown gallery of the experiments, of experiments/README.md's table.

    The table has every one's claim, command and verdict; below it are the figures of
    those that have committed some.
    """
    text = (ROOT / "experiments" / "README.md").read_text()
    table = text[text.index("## The experiments") :]
    lines = [line for line in table.splitlines() if line.startswith("|")]
    linked = re.sub(r"\]\((?!https?:)([^)]+)\)", rf"]({HERE}\1)", "\n".join(lines))
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", x)[1:-1]] for x in lines]
    return (
        "<!-- written by docs/generate.py: change experiments/README.md instead -->\n"
        "# Experiments\n\n"
        "One folder a claim or a benchmark, with its rows, its table and its verdict. "
        "Commands are those of the full results, run in `experiments/`; without "
        "`--full` each is a look of minutes. A figure leads to its folder, whose "
        f"README says what was measured and how.\n\n{linked}\n\n"
        + "\n".join(_gallery(rows[2:]))
    ).rstrip() + "\n"


PAGES = {"config.md": config_page, "experiments.md": experiments_page}

if __name__ == "__main__":
    for name, make in PAGES.items():
        (FOLDER / name).write_text(make())
        print(FOLDER / name)

"""What the command line says of configs: `--list`, `--dry_run`, default folders."""

from __future__ import annotations

import inspect
import re
import shlex
import textwrap

from sdsjax.cli.budget import budget
from sdsjax.cli.config_files import config_folder, config_names, read_module
from sdsjax.cli.overrides import hyperparameters
from sdsjax.cli.prior_choice import NEEDS
from sdsjax.toybox.world.captions import vocabulary
from sdsjax.toybox.world.objects import BASES, COLORS, KINDS
from sdsjax.training.build import FACTORIES, PRIORS
from sdsjax.training.config import flatten


def _first_line(documented) -> str:
    # the first sentence, on one line
    text = " ".join((inspect.getdoc(documented) or "").split())
    return re.split(r"(?<=\.) ", text, maxsplit=1)[0]


def _wrapped(text: str, depth: int) -> str:
    return textwrap.fill(
        text,
        88,
        initial_indent="  " * depth,
        subsequent_indent="  " * (depth + 1),
        break_on_hyphens=False,  # names of repositories stay whole
    )


def listing() -> str:
    """Configs with their variants, every named factory, priors, the toybox's words."""
    lines = ["configs: --config=NAME or --config=NAME:VARIANT (by default the first)"]
    for name in config_names():
        module = read_module(config_folder() / f"{name}.py")
        lines.append(_wrapped(f"{name}: {_first_line(module)}", 1))
        for variant, make in getattr(module, "VARIANTS", {}).items():
            lines.append(_wrapped(f":{variant}  {_first_line(make)}", 2))
    for section, choices in FACTORIES.items():
        lines.append(f"{section}: --config.{section}.name=NAME, then its own keys")
        for name, factory in choices.items():
            lines.append(_wrapped(f"{name}: {', '.join(hyperparameters(factory))}", 1))
    lines.append("prior: --config.prior.name=NAME (a folder says its own); it needs")
    lines += [_wrapped(f"{name}: {NEEDS[name]}", 1) for name in PRIORS]
    rest = [w for w in vocabulary() if w not in {*COLORS, *KINDS}]
    lines += [
        "prompts for the toybox's priors: 'a red mug', or 'a red mug on a blue table'",
        _wrapped(f"colours: {' '.join(COLORS)}", 1),
        _wrapped(f"kinds: {' '.join(KINDS)}", 1),
        _wrapped(f"to stand on: {' '.join(BASES)}", 1),
        _wrapped(f"other words: {' '.join(rest)}", 1),
    ]
    return "\n".join(lines)


def dry_run_of_prompts(configs, folders, assets_per_device: int | None) -> str:
    """Every key but the prompt, every asset's directory, and what one run would need.

    How many assets a device takes is found when the components are there.
    """
    lines = [line for line in _flags(configs[0]) if "--config.prompt=" not in line]
    lines += ["", "run directories (nothing was written):"]
    lines += [
        f"  {folder}  {shlex.quote(config.prompt)}"
        for config, folder in zip(configs, folders)
    ]
    many = "as many as fit" if assets_per_device is None else assets_per_device
    lines.append(f"{len(configs)} asset(s), {many} at a time on a device; one of them:")
    return "\n".join([*lines, *budget(configs[0])])


def _flags(config) -> list[str]:
    return [
        f"--config.{key}={shlex.quote(str(value))}"
        for key, value in flatten(config).items()
    ]


def dry_run(config, workdir: str, compiled: bool = False) -> str:
    """Every key as the flag that sets it, then what the run would need.

    compiled: as of `budget`.
    """
    lines = [*_flags(config), "", f"run directory: {workdir} (nothing was written)"]
    lines += budget(config, compiled)
    return "\n".join(lines)

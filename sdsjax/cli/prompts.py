"""Reads `--prompts=FILE`, many assets of one config, and has them trained together.

A file is UTF-8, a prompt a line; blank lines and lines that begin with # say nothing,
but that ## begins the name of a group: the prompts below belong to it. Everything wrong
with it is one line with the number of its line, before anything is built or written.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from sdsjax.cli import checks
from sdsjax.cli.arguments import Arguments
from sdsjax.cli.config_files import default_workdir, locate
from sdsjax.distributed.launch import Part
from sdsjax.runs.exit_status import ExitStatus
from sdsjax.training.config import Config, ConfigError

ROOT = "runs"  # where run directories lie, and the index of all, without --workdir


class Line(NamedTuple):
    """A prompt of a file, the number of its line from 1, and its group or ""."""

    number: int
    prompt: str
    group: str = ""


def parse_prompts(text: str) -> list[Line]:
    """Reads prompts from a text, without the spaces around them, and skips comments.

    Lines end as in any editor; a mark of byte order at the start is no part of them. A
    line "## name" puts those after it into a group, a bare "##" into none.
    """
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").split("\n")
    found, group = [], ""
    for number, line in enumerate(map(str.strip, lines), 1):
        if line.startswith("##"):
            group = line.strip("#").strip()
        elif line and not line.startswith("#"):
            found.append(Line(number, line, group))
    return found


def read_prompts(path: Path, flag: str = "prompts") -> list[Line]:
    """Reads the prompts of a file. Raises ConfigError for one that has none.

    flag: the one that named the file, for messages.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(
            f"--{flag}={path} does not exist: pass a text file, a prompt a line"
        ) from None
    except OSError as error:
        raise ConfigError(f"--{flag}={path} cannot be read: {error.strerror}") from None
    try:
        lines = parse_prompts(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        number = data[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"{path}:{number}: not UTF-8 text: save the file as UTF-8"
        ) from None
    if not lines:
        raise ConfigError(
            f"--{flag}={path} holds no prompt: write one a line (blank lines and "
            "lines that begin with # are skipped)"
        )
    return lines


def resolve_each(
    path: Path, lines: Sequence[Line], config: str, overrides: Mapping[str, str]
) -> list[Config]:
    """Resolves a config for every prompt of a file.

    Raises ConfigError: of the config as `checks.resolve`, of a prompt with the number
    of its line. Two prompts that are read the same are one too many.
    """
    of_prompt = checks.resolver(locate(config), overrides)
    configs: list[Config] = []
    seen: dict[str, int] = {}
    for number, prompt, _ in lines:
        try:
            resolved = of_prompt(prompt)
        except checks.PromptError as error:
            raise ConfigError(f"{path}:{number}: {error}") from None
        if resolved.prompt in seen:
            raise ConfigError(
                f"{path}:{number}: {resolved.prompt!r} is in line "
                f"{seen[resolved.prompt]} already: leave one of them out"
            )
        seen[resolved.prompt] = number
        configs.append(resolved)
    return configs


def workdirs(root: Path, label: str, configs: Sequence[Config]) -> list[Path]:
    """Names each asset's run directory in `root`, as it would be called alone.

    Prompts that give the same name: all but the first get a digest of the prompt.
    """
    taken: set[str] = set()
    folders = []
    for config in configs:
        name = Path(default_workdir(label, config)).name
        if name.lower() in taken:
            name += "-" + hashlib.sha256(config.prompt.encode()).hexdigest()[:8]
        taken.add(name.lower())
        folders.append(root / name)
    return folders


def check_arguments(arguments: Arguments) -> None:
    """Raises ConfigError for flags that --prompts does not go with, or lacks."""
    if arguments.prompts is None:
        if arguments.assets_per_device is not None:
            raise ConfigError(
                "--assets_per_device goes with --prompts=FILE: leave it out"
            )
        return
    if "prompt" in arguments.overrides:
        raise ConfigError(
            "--config.prompt and --prompts both say what to make: leave one out"
        )
    if arguments.config is None:
        raise ConfigError("--prompts needs a config: pass --config=ssd")
    if arguments.view:
        raise ConfigError(
            "--view watches one run: leave it out with --prompts, and look at what is "
            "saved by python -m sdsjax.view RUN RUN ..."
        )


def run_file(arguments: Arguments, part: Part = Part()) -> int:
    """Trains a file's prompts, of several processes every so-manieth, or describes it.

    Returns the exit status: that of a run that diverged, if one did, else of the first
    that failed. Raises as `run_prompts`, and ConfigError for more processes than
    prompts.
    """
    assert arguments.config is not None
    assert arguments.prompts is not None
    path, label = Path(arguments.prompts), locate(arguments.config).label
    lines = read_prompts(path)
    if part.count > len(lines):
        raise ConfigError(
            f"{part.count} processes for the {len(lines)} prompt(s) of {path}: start "
            "at most one for each"
        )
    configs = resolve_each(path, lines, arguments.config, arguments.overrides)
    from sdsjax.cli import asset_memory, devices
    from sdsjax.training.prompts.job import Request, check_together, run_prompts

    check_together(configs[0])
    root = Path(arguments.workdir or ROOT)
    folders = workdirs(root, label, configs)
    if arguments.dry_run:
        from sdsjax.cli.listings import dry_run_of_prompts

        print(dry_run_of_prompts(configs, folders, arguments.assets_per_device))
        return ExitStatus.DONE
    devices.warn(configs[0], arguments.overrides)
    requests = [
        Request(
            config,
            folder,
            _alone(arguments, config, folder),
            f"{path}:{line.number}",
            line.group,
        )
        for config, folder, line in zip(configs, folders, lines)
    ]
    fits = partial(asset_memory.assets_that_fit, configs[0])
    with devices.memory_explained(configs[0], "--assets_per_device"):
        outcomes = run_prompts(
            requests,
            root,
            assets_per_device=arguments.assets_per_device or fits,
            part=part,
            allow_config_change=arguments.allow_config_change,
        )
    return report(outcomes)


def _alone(arguments: Arguments, config: Config, folder: Path) -> list[str]:
    # what asks for one of the assets by itself
    overrides = {**arguments.overrides, "prompt": config.prompt}
    one = arguments._replace(
        prompts=None, assets_per_device=None, num_processes=None, process_id=None,
        overrides=overrides, workdir=str(folder),
    )  # fmt: skip
    return one.command()


def report(outcomes) -> int:
    """Says on stderr what did not end well, and returns the exit status of all."""
    from sdsjax.cli.devices import exit_status

    bad = [outcome for outcome in outcomes if outcome.error is not None]
    for outcome in bad:
        text = " ".join(str(outcome.error).split())
        print(
            f"sdsjax: error: {outcome.request.place}: {outcome.status}: {text}",
            file=sys.stderr,
        )
    if not bad:
        return ExitStatus.DONE
    print(
        f"sdsjax: {len(outcomes) - len(bad)} of {len(outcomes)} assets are finished",
        file=sys.stderr,
    )
    found = [exit_status(outcome.error) or ExitStatus.MISTAKE for outcome in bad]
    return ExitStatus.DIVERGED if ExitStatus.DIVERGED in found else found[0]

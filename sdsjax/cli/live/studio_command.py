"""The command line of `python -m sdsjax.studio`: make assets from a page.

    python -m sdsjax.studio runs --config=ssd --config.batch_size=2

The folder's runs are the gallery, new ones are written into it. --config and
--config.KEY=VALUE are what the panel begins with. A mistake is one line and exit status
2, before a page is opened; one in the panel is said there.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import threading
from pathlib import Path
from typing import Any

from sdsjax.cli.export_command import Parser, run_command
from sdsjax.cli.live.addresses import add_address, stay_off_accelerators
from sdsjax.cli.live.stopping import stopped_by_signals
from sdsjax.runs.exit_status import ExitStatus
from sdsjax.training.config import ConfigError, one_of


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m sdsjax.studio",
        description="Opens a page that starts, stops and shows runs, until Ctrl-C.",
        epilog="--config=NAME, --config.KEY=VALUE: what the panel begins with",
    )
    parser.add_argument(
        "folder", nargs="?", default="runs", help="folder of runs; default runs"
    )
    add_address(parser)
    return parser


def config_choices() -> list[str]:
    """Lists the configs that come with sdsjax, and their variants: ssd, ssd:image."""
    from sdsjax.cli.config_files import config_folder, config_names, read_module

    found = []
    for name in config_names():
        module = read_module(config_folder() / f"{name}.py")
        variants = getattr(module, "VARIANTS", {})
        found += [name, *(f"{name}:{variant}" for variant in variants)]
    return found


def parse_settings(text: str) -> dict[str, str]:
    """Reads "key=value key=value" as a shell splits it. Raises ConfigError."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"settings: {error}: close every quote") from None
    found = {}
    for word in words:
        key, equals, value = word.removeprefix("--config.").partition("=")
        if not equals or not key:
            raise ConfigError(f"settings: {word!r} is not of the form key=value")
        found[key] = value
    return found


class Planner:
    """Makes jobs of what a panel says, for runs of a folder.

    choices: the configs that may be named: a page must not have other files executed.
    """

    def __init__(self, folder: Path, choices: list[str]):
        self.folder, self.choices = folder, choices

    def __call__(
        self, prompt: str, config: str, seed: int, steps: int, settings: str
    ) -> Any:
        """Checks a run as the command line does. Raises ConfigError in one line."""
        from sdsjax.cli.checks import resolve
        from sdsjax.cli.config_files import default_workdir, locate
        from sdsjax.live.jobs import Job

        if config not in self.choices:
            raise one_of("config", config, self.choices)
        said = {"prompt": prompt, "seed": str(seed), **parse_settings(settings)}
        if steps:
            said["steps"] = str(steps)
        source = locate(config)
        name = Path(default_workdir(source.label, resolve(source, said))).name
        folder = self.folder / name
        flags = [f"--config.{key}={value}" for key, value in said.items()]
        program = [sys.executable, "-m", "sdsjax.main", f"--config={config}"]
        return Job(folder, [*program, *flags, f"--workdir={folder}"])


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file: pass a folder of runs")
    if (folder / "run.json").exists():
        raise ConfigError(f"{folder} is one run: pass the folder above it")
    if not folder.exists() and not folder.absolute().parent.is_dir():
        raise ConfigError(f"{folder}: there is no folder {folder.absolute().parent}")


def studio(argv: list[str], stop: threading.Event | None = None) -> None:
    """Runs the command until `stop`, by default for ever.

    Raises what is one line for a user.
    """
    from sdsjax.cli.arguments import split_config

    config, overrides, words = split_config(argv)
    asked = _parser().parse_args(words)
    folder = Path(asked.folder)
    _check_folder(folder)
    environment = dict(os.environ)
    stay_off_accelerators()
    from sdsjax.live import server as pages
    from sdsjax.live.jobs import Jobs
    from sdsjax.live.studio import Studio, keep_fresh

    pages.require_viser()
    pages.check_address(asked.host, asked.port)
    choices = config_choices()
    plan = Planner(folder, choices)
    prompt, config = overrides.pop("prompt", "a red mug"), config or "ssd"
    settings = shlex.join(f"{key}={value}" for key, value in overrides.items())
    plan(prompt, config, 0, 0, settings)
    server = pages.open_server(asked.host, asked.port, label="sdsjax studio")
    begin = {"prompt": prompt, "config": config, "settings": settings}
    try:
        with Jobs(environment) as jobs:
            page = Studio(server, folder, jobs, plan, choices, **begin)
            page.refresh()
            print(f"sdsjax: {pages.address(server)} (Ctrl-C ends it)", flush=True)
            keep_fresh(page, stop or stopped_by_signals())
    finally:
        pages.close(server)


def cli(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status (runs/exit_status)."""
    return run_command(studio, argv, interrupted=ExitStatus.DONE)

"""The command line of `python -m sdsjax.view`: runs in a browser, side by side.

    python -m sdsjax.view runs/a runs/b

Finished runs, or those that train: their newest checkpoint, and each that follows.
Nothing of a run is changed. A mistake is one line and exit status 2, before a page is
opened.
"""

from __future__ import annotations

import argparse
import threading
from pathlib import Path

from sdsjax.cli.export_command import Parser, run_command
from sdsjax.cli.live.addresses import add_address, stay_off_accelerators
from sdsjax.cli.live.stopping import stopped_by_signals
from sdsjax.runs.exit_status import ExitStatus
from sdsjax.training.config import ConfigError

EVERY = 2.0  # seconds between two looks at the runs


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m sdsjax.view",
        description="Shows the assets of runs in a browser until Ctrl-C.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="directories of runs")
    add_address(parser)
    return parser


def view(argv: list[str], stop: threading.Event | None = None) -> None:
    """Runs the command until `stop`, by default for ever.

    Raises what is one line for a user.
    """
    asked = _parser().parse_args(argv)
    folders = [Path(run) for run in asked.runs]
    seen: set[Path] = set()
    for folder in folders:
        if folder.resolve() in seen:
            raise ConfigError(f"{folder} is named twice: name every run once")
        seen.add(folder.resolve())
    stay_off_accelerators()
    from sdsjax.live import server as pages
    from sdsjax.live.show_runs import follow, show_runs
    from sdsjax.training.build.finished_run import read_newest

    pages.require_viser()
    pages.check_address(asked.host, asked.port)
    runs = [(folder, read_newest(folder)) for folder in folders]
    server = pages.open_server(asked.host, asked.port, label="sdsjax")
    try:
        shown = show_runs(server, runs)
        print(f"sdsjax: {pages.address(server)} (Ctrl-C ends it)", flush=True)
        follow(shown, EVERY, stop or stopped_by_signals())
    finally:
        pages.close(server)


def cli(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status (runs/exit_status)."""
    return run_command(view, argv, interrupted=ExitStatus.DONE)

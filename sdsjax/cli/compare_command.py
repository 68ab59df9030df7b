"""The command line of `python -m sdsjax.compare`: several runs on one page.

    python -m sdsjax.compare runs/a runs/b --out=compare.html
    python -m sdsjax.compare LIST LIST --out=page.html
    python -m sdsjax.compare --gallery=runs

The first shows turntables side by side and a table of figures, in one offline file; the
second the assets of several `--prompts` jobs of the same prompts, prompt by prompt; the
third writes runs/index.html, thumbnails of all the runs in a folder with links to their
reports. Of the runs nothing is changed. A mistake is one line and exit status 2, before
anything is written.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from sdsjax.cli.export_command import Parser, run_command, say_written
from sdsjax.files.atomic import read_object
from sdsjax.training.config import ConfigError

INDEX = "index.html"


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m sdsjax.compare",
        description="Shows several runs, or lists of runs, on one page.",
    )
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help="directories of runs, or of lists"
    )
    parser.add_argument("--out", help="the page of the runs; default compare.html")
    parser.add_argument(
        "--gallery", metavar="FOLDER", help="write FOLDER/index.html of its runs"
    )
    return parser


def _check_runs(runs: Sequence[Path], out: Path) -> None:
    """Raises ConfigError for what is no comparison, or would replace another file."""
    from sdsjax.exports.compare import is_compare_page

    if not runs:
        raise ConfigError(
            "name at least two directories of runs, or --gallery=FOLDER for all in one"
        )
    if len(runs) < 2:
        raise ConfigError(f"one run alone ({runs[0]}): name another to compare it with")
    seen: set[Path] = set()
    for run in runs:
        if not run.is_dir():
            what = "is a file" if run.exists() else "does not exist"
            raise ConfigError(f"{run} {what}: pass directories of runs")
        if run.resolve() in seen:
            raise ConfigError(f"{run} is named twice: name every run once")
        seen.add(run.resolve())
    if out.is_dir():
        raise ConfigError(f"--out {out} is a folder: name a file, such as compare.html")
    if not is_compare_page(out):
        raise ConfigError(
            f"--out {out} is a file that this command did not write: choose another "
            "name"
        )
    if not out.parent.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {out.parent}")


def _entries(folder: Path) -> list:
    """Finds the runs that lie directly in a folder, by name."""
    from sdsjax.training.prompts.index_page import Entry

    found = []
    for run in sorted(folder.iterdir()):
        if not (run / "run.json").is_file():
            continue
        config, metrics = (
            read_object(run / "config.json"),
            read_object(run / "metrics.json"),
        )
        prompt = str(config.get("prompt") or metrics.get("prompt") or run.name)
        said = str(metrics.get("status") or "unfinished")
        done = (run / "finished.json").is_file()
        estimator = config.get("estimator")
        name = estimator.get("name", "") if isinstance(estimator, dict) else ""
        status = "finished" if done else said if said != "finished" else "unfinished"
        found.append(Entry(prompt, run, status, f"{run.name} ({name})".strip()))
    return found


def write_gallery(folder: Path) -> Path:
    """Writes index.html beside the runs of a folder. Raises ConfigError, OSError."""
    from sdsjax.training.prompts.index_page import is_index, write_index

    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ConfigError(f"--gallery {folder} {what}: pass a folder that holds runs")
    entries = _entries(folder)
    if not entries:
        raise ConfigError(
            f"--gallery {folder} holds no runs (directories with a run.json): pass the "
            "folder above them, such as runs"
        )
    if not is_index(folder / INDEX):
        raise ConfigError(
            f"{folder / INDEX} was not written by sdsjax: move it away, or pass "
            "another folder"
        )
    count = f"{len(entries)} run" + ("s" if len(entries) > 1 else "")
    return write_index(folder / INDEX, count, entries)


def compare(argv: list[str]) -> Path:
    """Runs the command; returns the page. Raises what is one line for a user."""
    asked = _parser().parse_args(argv)
    if asked.gallery is not None:
        if asked.runs or asked.out:
            raise ConfigError(
                "--gallery shows all runs of a folder, in its index.html: leave out "
                f"{asked.runs[0] if asked.runs else '--out'}"
            )
        return write_gallery(Path(asked.gallery))
    from sdsjax.exports.compare import write_compare

    runs, out = [Path(run) for run in asked.runs], Path(asked.out or "compare.html")
    _check_runs(runs, out)
    if _are_lists(runs):
        from sdsjax.cli.scores.compare_lists import compare_lists

        return compare_lists(runs, out)
    return write_compare(out, runs)


def _are_lists(folders: Sequence[Path]) -> bool:
    """Tells whether lists are compared, or runs. Raises ConfigError for some of both.

    What is neither is a run, whose files will be missed.
    """
    from sdsjax.cli.scores.lists import is_list

    kinds = {is_list(folder): folder for folder in folders}
    if len(kinds) > 1:
        raise ConfigError(
            f"{kinds[True]} is a folder of runs, and {kinds[False]} is none: compare "
            "runs with runs, or lists with lists"
        )
    return True in kinds


def cli(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status (runs/exit_status)."""
    return run_command(lambda words: say_written([compare(words)]), argv)

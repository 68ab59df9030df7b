"""The one runner of experiments: arguments, rows that are resumed, table and figure.

An experiment (experiments/<name>/run.py) is an `Experiment`: two plans, its jobs, what
measures a job, a table and a figure made of the rows alone. `run` reads the command
line, measures the jobs whose rows `results/<stem>.jsonl` lacks, and then writes
`<stem>.md` and whatever the figure function writes. `--only-report` measures nothing.
A benchmark has no rows to resume: `measure` gives one document, `<stem>.json`, anew.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sdsjax.files.atomic import read_rows, write_text
from sdsjax.studies.results import run_missing

FOREVER = 1e6  # minutes


class Option(NamedTuple):
    """A command-line option that replaces the plan's field of its name."""

    help: str
    choices: Iterable[str] | None = None


class Run(NamedTuple):
    """One invocation of an experiment, as its functions see it.

    plan: with what the command line changed; rows: those there are, by key, or the
    benchmark's document; results: the folder of rows, table and figure; stem: their
    name; workdir: the folder for what jobs leave besides their rows.
    """

    plan: Any
    rows: dict[str, Any]
    results: Path
    stem: str
    workdir: Path

    def file(self, suffix: str) -> Path:
        """Names a result's file, results/<stem><suffix>."""
        return self.results / f"{self.stem}{suffix}"


class Experiment(NamedTuple):
    """What an experiment is made of; its functions are called with the `Run`.

    folder: of its run.py; description: its first line is the command's help; small,
    full: the plans of --small (the default) and --full, NamedTuples.
    jobs: Run -> (key, job) in order, read lazily, so that later jobs may depend on the
    rows of earlier ones. worker: Run -> (job -> row), called where a row is missing.
    measure: Run -> a benchmark's document, in the place of both.
    table: Run -> Markdown, "" where there is nothing to report; None: rows alone.
    figure: Run -> None, writes `run.file(".png")`.
    flag: the word on the command line that asks for this one of a folder's experiments,
    "" for the one that is meant without any. stem: the name of its files. key: what a
    row's key is called. options: fields of the plan that the command line may change.
    """

    folder: Path
    description: str
    small: Any
    full: Any
    jobs: Callable[[Run], Iterable[tuple[str, Any]]] | None = None
    worker: Callable[[Run], Callable[[Any], dict]] | None = None
    measure: Callable[[Run], dict] | None = None
    table: Callable[[Run], str] | None = None
    figure: Callable[[Run], None] | None = None
    flag: str = ""
    stem: str = "{size}"
    key: str = "key"
    options: Mapping[str, Option] = {}


def run(argv: Sequence[str] | None, *experiments: Experiment) -> None:
    """Runs the experiment of a folder that the command line asks for.

    The last one whose flag is in argv (None: of the process), else the first. Raises
    SystemExit for a bad command line and for a report of nothing.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    asked = [one for one in experiments if one.flag and one.flag in argv]
    experiment = (asked or experiments)[-1 if asked else 0]
    options = _parser(experiment, experiments).parse_args(argv)
    size = "full" if options.full else "small"
    stem = experiment.stem.format(size=size)
    plan = _changed(getattr(experiment, size), options)
    current = Run(plan, {}, options.out, stem, options.runs)
    if experiment.measure is None:
        current = current._replace(rows=_resumed(experiment, current, options))
    else:
        current = current._replace(rows=_document(experiment, current, options))
    report(experiment, current)


def report(experiment: Experiment, current: Run) -> None:
    """Writes table and figure of the rows there are, and the README's first draft."""
    if experiment.table is None:
        return
    text = experiment.table(current)
    if not text:
        return
    current.results.mkdir(parents=True, exist_ok=True)
    current.file(".md").write_text(text)
    if experiment.figure is not None:
        experiment.figure(current)
    if not (experiment.folder / "README.md").exists():
        write_text(experiment.folder / "README.md", draft_readme(experiment, text))
    print(text)


def draft_readme(experiment: Experiment, table: str) -> str:
    """A README to fill in: claim, command and result are there, the verdict is asked.

    table: the Markdown of the results so far.
    """
    title, _, text = experiment.description.strip().partition("\n")
    command = f"python experiments/{experiment.folder.name}/run.py"
    said = f" {experiment.flag}" if experiment.flag else ""
    return (
        f"# {title.rstrip('.')}\n\n**Claim.** {text.strip() or title}\n\n**Command.**\n"
        f"\n    {command}{said}\n    {command}{said} --full\n\n**Result.**\n\n"
        f"{table.strip()}\n\n**Verdict.** Open: reproduces, does not, or not decided, "
        "and by how many standard errors.\n"
    )


def _resumed(experiment: Experiment, current: Run, options) -> dict[str, dict]:
    # The rows that are there, after those that were missing have been measured.
    path = current.file(".jsonl")
    if options.restart and not options.only_report:
        path.unlink(missing_ok=True)
    current = current._replace(rows=read_rows(path, experiment.key))
    jobs, worker = experiment.jobs, experiment.worker
    if not options.only_report and jobs and worker:
        made: list[Callable[[Any], dict]] = []

        def perform(job) -> dict:
            # made for the first missing row: what it compiles or reads may take minutes
            made[:] = made or [worker(current)]
            return made[0](job)

        ends = time.monotonic() + 60 * options.minutes
        by, rows = experiment.key, current.rows
        run_missing(jobs(current), perform, path, rows, by=by, ends=ends)
    if not current.rows:
        raise SystemExit(f"{path} holds no run yet: leave out --only-report")
    return current.rows


def _document(experiment: Experiment, current: Run, options) -> dict[str, Any]:
    path = current.file(".json")
    if not options.only_report and experiment.measure:
        found = experiment.measure(current)
        write_text(path, json.dumps(found, indent=1) + "\n")
    if not path.exists():
        raise SystemExit(f"{path} holds no run yet: leave out --only-report")
    return json.loads(path.read_text())


def _changed(plan, options):
    # The plan with what the command line says of its fields.
    given = {name: getattr(options, name, None) for name in plan._fields}
    given = {name: value for name, value in given.items() if value is not None}
    for name, value in given.items():
        if isinstance(getattr(plan, name), tuple):
            given[name] = tuple(range(value) if name == "seeds" else value)
    return plan._replace(**given)


def _parser(experiment: Experiment, experiments: Sequence[Experiment]):
    title = experiment.description.strip().splitlines()[0]
    parser = argparse.ArgumentParser(description=title)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--small", action="store_true", help="minutes (the default)")
    size.add_argument("--full", action="store_true", help="README.md's results")
    for other in experiments:
        if other.flag and other.flag != "--full":
            about = other.description.strip().splitlines()[0]
            parser.add_argument(other.flag, action="store_true", help=about)
    _add_options(parser, experiment)
    if experiment.measure is None:
        parser.add_argument(
            "--minutes", type=float, default=FOREVER, help="begin no job later"
        )
        parser.add_argument(
            "--restart", action="store_true", help="forget the rows there are"
        )
    parser.add_argument("--only-report", action="store_true", help="run nothing")
    folder = experiment.folder
    parser.add_argument("--runs", type=Path, default=Path("runs") / folder.name)
    parser.add_argument("--out", type=Path, default=folder / "results")
    return parser


def _add_options(parser: argparse.ArgumentParser, experiment: Experiment) -> None:
    options = dict(experiment.options)
    if hasattr(experiment.full, "seeds"):
        options.setdefault("seeds", Option("so many seeds"))
    for name, (text, choices) in options.items():
        values = [getattr(plan, name) for plan in (experiment.small, experiment.full)]
        flag, value = f"--{name}", values[-1]
        if isinstance(value, bool):
            parser.add_argument(flag, action="store_true", default=None, help=text)
        elif name == "seeds":
            parser.add_argument(flag, type=int, help=text)
        elif not isinstance(value, tuple):
            parser.add_argument(flag, type=type(value), choices=choices, help=text)
        else:
            kind = type(value[0])
            parser.add_argument(flag, nargs="+", type=kind, choices=choices, help=text)

"""The job of many prompts: look, build, train in chunks, export, and say how it went.

Each asset gets the run directory that it would have alone, with all that is in it. What
cannot work is refused before anything is written; what goes wrong with one asset stays
with it. The same command again skips what is finished and goes on with the rest.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from sdsjax.distributed.launch import Part
from sdsjax.exports import ExportError
from sdsjax.models.loading.weights import networks_kept
from sdsjax.runs.checkpoints import CheckpointError, Checkpoints
from sdsjax.runs.compile_cache import enable_compile_cache
from sdsjax.runs.disk_errors import in_words
from sdsjax.runs.logs import Log, QuietLog
from sdsjax.runs.run_directory import RunDirectory, RunError, inspect
from sdsjax.runs.signals import Interrupted, Stop
from sdsjax.training.build import RunComponents, build_source
from sdsjax.training.build.input_files import input_files
from sdsjax.training.config import ConfigError, in_short, to_json
from sdsjax.training.programs import Programs
from sdsjax.training.prompts.batch import Batch, Member, NoneLeft, Steps
from sdsjax.training.prompts.chunks import (
    Chunk,
    common_starts,
    into_chunks,
    width_of,
)
from sdsjax.training.prompts.index_page import Entry, is_index, write_index
from sdsjax.training.prompts.list_file import (
    LIST,
    ListedAsset,
    may_be_replaced,
    write_list,
)
from sdsjax.training.prompts.stacking import split_priors
from sdsjax.training.session import Session
from sdsjax.training.train import (
    build_aloud,
    optimise,
    outdated_exports,
    warnings_aloud,
    write_abort,
    write_exports,
)

INDEX = "index.html"


class Request(NamedTuple):
    """One asset that is asked for.

    config: resolved; workdir: its run directory; command: what asks for it alone;
    place: where its prompt is written, for messages; group: of the file, or "".
    """

    config: Any
    workdir: Path
    command: Sequence[str]
    place: str
    group: str = ""


class Outcome(NamedTuple):
    """How an asset ended: what went wrong, or None; whether it was finished before."""

    request: Request
    error: BaseException | None = None
    skipped: bool = False

    @property
    def status(self) -> str:
        """Says it in a word: "finished", "diverged", "not exported", "failed"."""
        if self.error is None:
            return "finished"
        words = {"Diverged": "diverged", "ExportError": "not exported"}
        return words.get(type(self.error).__name__, "failed")


def check_together(config) -> None:
    """Raises ConfigError for what only a run of one prompt can do.

    Everything that a step does is a function of its state, and maps; but where the
    prompt's scene itself is compiled into the step, prompts have no step in common.
    """
    prior, mesh = config.prior, config.mesh
    if mesh.model != 1 or mesh.data != -1:
        raise ConfigError(
            f"--prompts: mesh.data = {mesh.data}, mesh.model = {mesh.model}: each "
            "device makes whole assets there: leave both out"
        )
    if prior.name != "empirical":
        return
    if prior.view_spread == 0:
        raise ConfigError(
            "--prompts: with prior.view_spread = 0 the prompt's scene is compiled into "
            "the step, so that prompts have no step in common: run them one by one, or "
            "set prior.view_spread to degrees above 0"
        )
    if config.negative_prompt:
        raise ConfigError(
            "--prompts: of the prior empirical, negative_prompt chooses renders when "
            "the step is compiled: run the prompts one by one, or leave it out"
        )


def check_root(root: Path) -> None:
    """Raises RunError for a folder that cannot hold run directories and their index."""
    if root.exists() and not root.is_dir():
        raise RunError(f"--workdir {root} is a file: choose a directory")
    if (root / "run.json").exists():
        raise RunError(
            f"--workdir {root} is the directory of one run, and --prompts makes "
            "several in it: choose another"
        )
    if not is_index(root / INDEX):
        raise RunError(
            f"{root / INDEX} was not made by sdsjax and would be overwritten: choose "
            "another --workdir"
        )
    if not may_be_replaced(root):
        raise RunError(
            f"{root / LIST} was not made by sdsjax and would be overwritten: choose "
            "another --workdir"
        )


def is_done(request: Request, inputs, allow_config_change: bool) -> bool:
    """Tells whether a directory is finished as asked; touches nothing.

    Raises RunError as `inspect`.
    """
    config, frozen = request.config, to_json(request.config)
    options = {"inputs": inputs, "allow_config_change": allow_config_change}
    finished = inspect(request.workdir, frozen, **options).get("finished") or {}
    step = finished.get("step", -1)
    if step < config.steps:
        return False
    return step > config.steps or not outdated_exports(
        request.workdir, frozen, finished
    )


def build_all(
    requests: Sequence[Request],
) -> tuple[list[RunComponents], dict[int, list[str]]]:
    """Builds every asset's components: those of the first, with its own prior.

    Networks are read once. Returns with them the warnings by position. Raises
    ConfigError, with the prompt's place, for one that cannot be encoded.
    """
    notes: dict[int, list[str]] = {}
    with networks_kept():
        components, notes[0] = build_aloud(requests[0].config)
        every = [components]
        for index, request in enumerate(requests[1:], 1):
            try:
                with warnings_aloud(request.place) as notes[index]:
                    source = build_source(request.config, components.representation)
            except (ValueError, OSError) as error:
                raise ConfigError(f"{request.place}: {in_short(error)}") from error
            every.append(components._replace(source=source))
    return every, notes


class Job:
    """A job of many prompts, with what its chunks have in common.

    requests: those that are not finished; told: their warnings from building.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        assets_per_device: int | Callable[[RunComponents], int],
        **options,
    ):
        self.requests, self.options = requests, options
        self.components, self.told = build_all(requests)
        first = self.components[0]
        if callable(assets_per_device):
            assets_per_device = assets_per_device(first)
        found = [
            Checkpoints(request.workdir / "checkpoints").intact()
            for request in requests
        ]
        groups = common_starts(found)
        self.width = width_of(groups, assets_per_device, len(jax.devices()))
        self.chunks = into_chunks(groups, self.width)
        self.programs = Programs(requests[0].config, first)
        split = split_priors([one.source.params for one in self.components])
        self.steps = Steps(self.programs, split, self.width)

    def begin(self, stack: contextlib.ExitStack, index: int, last: int) -> Member:
        """Opens one asset's directory and restores it. Raises RunError, ..."""
        request = self.requests[index]
        directory = stack.enter_context(
            RunDirectory(
                request.workdir,
                to_json(request.config),
                command=request.command,
                **self.options,
            )
        )
        session = Session(
            request.config,
            self.components[index],
            directory,
            None,
            self.programs,
            last=last,
        )
        if session.step != last:
            raise CheckpointError(
                f"checkpoint {last} in {request.workdir} went away while it was "
                "looked at: the same command goes on from what is there"
            )
        folder = directory.folder / "tensorboard"
        log = QuietLog(request.workdir.name, folder, session.config.steps, last)
        stack.callback(log.close)
        for note in session.notes:
            log.say(note)
        session.notes += self.told.get(index, [])
        return Member(session, log)

    def run_chunk(self, chunk: Chunk) -> dict[int, BaseException | None]:
        """Trains and exports a chunk; returns what went wrong, by position.

        Raises Interrupted, with everything saved.
        """
        errors: dict[int, BaseException | None] = {}
        members: dict[int, Member] = {}
        with contextlib.ExitStack() as stack:
            for index in chunk.members:
                try:
                    members[index] = self.begin(stack, index, chunk.start)
                except (CheckpointError, RunError) as error:
                    errors[index] = error
            if members:
                self._train(list(members.values()), chunk.start)
            for index, member in members.items():
                errors[index] = member.error or self._export(member)
        return errors

    def _train(self, members: list[Member], start: int) -> None:
        batch = Batch(self.steps, members)
        with Log(None, batch.config.steps, start) as log, Stop() as stop:
            try:
                optimise(batch, log, stop)
            except Interrupted as error:
                for _, member in batch.active():
                    write_abort(member.session, member.log, error)
                raise
            except NoneLeft:
                return
        for index, _ in batch.active():
            batch.settle(index)

    def _export(self, member: Member) -> ExportError | None:
        try:
            write_exports(member.session, member.log)
        except ExportError as error:
            member.log.say(str(error))
            return error
        return None


def run_prompts(
    requests: Sequence[Request],
    root: Path,
    *,
    assets_per_device: int | Callable[[RunComponents], int],
    part: Part = Part(),
    allow_config_change: bool = False,
    say: Callable[[str], None] | None = None,
) -> list[Outcome]:
    """Distils every request into its directory; `root` gets an index of all.

    requests: of one config, whose prompts differ; assets_per_device: how many are
    trained together on a device, or how that is found; part: which of them are this
    process's; the index shows the others as their directories are. Returns an outcome
    of each of its own, in order. Raises, before anything is written, ConfigError,
    RunError or the rooms' own one-line errors for what cannot work; Interrupted,
    everything saved.
    """
    say = say or (lambda line: print(f"sdsjax: {line}", file=sys.stderr, flush=True))
    enable_compile_cache()
    check_together(requests[0].config)
    check_root(root)
    inputs = input_files(requests[0].config)
    every, requests = requests, [requests[i] for i in part.of(len(requests))]
    if part.count > 1:
        say(f"process {part.process} of {part.count}: {len(requests)} asset(s)")
    done = [is_done(one, inputs, allow_config_change) for one in requests]
    outcomes: list[Outcome | None] = [
        Outcome(one, skipped=True) if d else None for one, d in zip(requests, done)
    ]
    pending, chunks = [i for i, d in enumerate(done) if not d], []
    if len(pending) < len(requests):
        say(f"{len(requests) - len(pending)} of {len(requests)} are finished already")
    if pending:
        job = Job(
            [requests[i] for i in pending],
            assets_per_device,
            inputs=input_files(requests[0].config),  # building may have fetched weights
            allow_config_change=allow_config_change,
        )
        count = len(job.chunks)
        say(f"{len(pending)} asset(s) in {count} chunk(s) of at most {job.width}")
        chunks = job.chunks
    try:
        for chunk in chunks:
            write_page(root, every, outcomes, part, say)
            for index, error in job.run_chunk(chunk).items():
                outcomes[pending[index]] = Outcome(requests[pending[index]], error)
    finally:
        write_page(root, every, outcomes, part, say)
    say(f"{root / INDEX} shows all of them")
    return [outcome for outcome in outcomes if outcome is not None]


def _entry(request: Request, outcome: Outcome | None) -> Entry:
    # what another process makes is as finished as its directory says
    found = (request.workdir / "finished.json").is_file()
    status = outcome.status if outcome else "finished" if found else "waiting"
    note = str(outcome.error) if outcome and outcome.error else ""
    return Entry(request.config.prompt, request.workdir, status, note)


def write_page(
    root: Path,
    requests: Sequence[Request],
    own: Sequence[Outcome | None],
    part: Part,
    say: Callable[[str], None],
) -> None:
    """Writes the index of all, a page and a list for programs.

    own: how this process's part of the requests ended, None for what has not yet. A
    disk that does not take them is only a warning.
    """
    outcomes: list[Outcome | None] = [None] * len(requests)
    for position, outcome in zip(part.of(len(requests)), own):
        outcomes[position] = outcome
    entries = list(map(_entry, requests, outcomes))
    try:
        root.mkdir(parents=True, exist_ok=True)
        write_index(root / INDEX, f"{len(entries)} prompts", entries)
        write_list(
            root,
            [
                ListedAsset(one.prompt, request.group, one.folder, one.status, one.note)
                for request, one in zip(requests, entries)
            ],
        )
    except OSError as error:
        say(f"warning: {root / INDEX} was not written: {in_words(error)}")

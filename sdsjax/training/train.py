"""A run from config to asset: build, restore, step, watch, export.

`run` is the whole job and reads from top to bottom. The device is never waited for
between two logged steps, except that it is kept at most one step behind; what a step
reports stays on the device until it is due. Failing is part of the job: a signal, a
NaN, a full disk each end in one line, an exit status, and checkpoints that load; what
has been trained but not exported is exported when the same is asked for again.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax

from sdsjax.distributed import hosts
from sdsjax.distributed.sharding import describe
from sdsjax.exports import ExportError
from sdsjax.runs.checkpoints import CheckpointError, Checkpoints
from sdsjax.runs.compile_cache import enable_compile_cache
from sdsjax.runs.logs import Log
from sdsjax.runs.provenance import flatten
from sdsjax.runs.run_directory import (
    FollowedDirectory,
    RunDirectory,
    inspect,
    read_json,
)
from sdsjax.runs.signals import Interrupted, Stop
from sdsjax.training.build import RunComponents, build
from sdsjax.training.build.input_files import input_files
from sdsjax.training.config import to_json
from sdsjax.training.programs import first_state
from sdsjax.training.session import (
    Diverged,
    Event,
    Request,
    Session,
    export_settings,
)

PAUSE_SECONDS = 0.1  # between two questions whether a run that waits may go on


class Asset(NamedTuple):
    """An asset is what a run made.

    params: the representation's parameters, stacked where there are several particles;
    metrics: those of metrics.json; paths: name -> file (turntable, splats, ...).
    """

    workdir: Path
    params: Any
    metrics: dict
    paths: dict[str, Path]


def run(
    config,
    workdir: str | Path,
    *,
    allow_config_change: bool = False,
    command: Iterable[str] = (),
    on_event: Event | None = None,
) -> Asset:
    """Distils a validated config into `workdir`, continuing what is there.

    on_event(name, content): "step", "preview", "checkpoint", "finished", as they
    happen; "advance" after every step, which may be answered by "pause" (and is asked
    again), "save" or "stop"; its content["snapshot"]() is what can be shown. Raises
    RunError (the directory), CheckpointError, Diverged, Interrupted, ExportError
    (trained, but not all written: running it again writes the rest); each message is
    one line, each has an `exit_code` where it is not 2.
    """
    enable_compile_cache()
    workdir, frozen = Path(workdir), to_json(config)
    options = {"allow_config_change": allow_config_change}
    found = hosts.share(
        lambda: inspect(workdir, frozen, inputs=input_files(config), **options)
    )
    components, notes = build_aloud(config)
    finished = found.get("finished") or {}
    if finished.get("step", -1) >= config.steps:
        outdated = hosts.share(lambda: outdated_exports(workdir, frozen, finished))
        if outdated is None or finished["step"] > config.steps:
            return finished_asset(workdir, config, components, finished)
        notes.append(f"{workdir} is finished: {outdated}; the exports are made again")
        print(f"sdsjax: {notes[-1]}", file=sys.stderr)
    inputs = input_files(config)  # again: building may have fetched weights
    with run_directory(
        workdir, frozen, inputs=inputs, command=command, **options
    ) as directory:
        session = Session(config, components, directory, on_event)
        tensorboard = directory.folder / "tensorboard" if hosts.is_first() else None
        quiet = not hosts.is_first()
        with Log(tensorboard, config.steps, session.step, quiet=quiet) as log:
            for note in session.notes:
                log.say(note)
            session.notes += notes
            try:
                with Stop() as stop:
                    optimise(session, log, stop)
            except (Diverged, CheckpointError, Interrupted) as error:
                write_abort(session, log, error)
                raise
            finally:
                session.ahead.stop()
            paths = write_exports(session, log)
        return Asset(workdir, session.state.params, read_metrics(workdir), paths)


@contextlib.contextmanager
def run_directory(workdir: Path, frozen: dict, **options):
    """Opens a run's directory; processes other than the first follow what it holds.

    A context manager of RunDirectory or FollowedDirectory. Raises RunError in all.
    """
    with contextlib.ExitStack() as stack:
        held = RunDirectory(workdir, frozen, **options)
        hosts.share(lambda: stack.enter_context(held) and None)
        yield held if hosts.is_first() else FollowedDirectory(workdir)


def write_exports(session: Session, log: Log) -> dict[str, Path]:
    """Exports what has been trained, and marks it as done. Raises ExportError."""

    def export_and_finish() -> dict[str, Path]:
        paths = session.export("finished", log)
        session.finish(paths)
        return paths

    log.flush()
    log.say("writing turntable, mesh, scores and report")
    paths = hosts.share(export_and_finish)
    log.say(f"done: {paths.get('report', session.directory.folder)}")
    session.notify("finished", {"step": session.step, "paths": paths})
    return paths


def write_abort(session: Session, log: Log, error: BaseException) -> None:
    """Writes the report of a run that stops here, with what made it stop."""
    status = "stopped" if isinstance(error, Interrupted) else "aborted"
    # What the disk does not take is a warning: the error is the news.
    with contextlib.suppress(ExportError):
        if hosts.is_first():
            session.export(status, log, [str(error)])


def build_aloud(config) -> tuple[RunComponents, list[str]]:
    """Builds a run; returns with it the warnings that came up, which were printed."""
    with warnings_aloud() as lines:
        components = build(config)
    return components, lines


@contextlib.contextmanager
def warnings_aloud(about: str = "") -> Iterator[list[str]]:
    """Prints what is warned of inside, and keeps it in the list that it gives.

    A UserWarning is for the user, and said once, in the program's own words; those for
    programmers stay with Python. All come out before an error does. about: what the
    lines begin with, where several are built.
    """
    caught, lines = [], []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.filterwarnings("always", category=UserWarning)
            yield lines
    finally:
        for one in caught:
            line = " ".join(str(one.message).split())
            if not issubclass(one.category, UserWarning):
                place = one.filename, one.lineno
                warnings.warn_explicit(one.message, one.category, *place)
            elif line not in lines:
                lines.append(line)
                said = f"{about}: {line}" if about else line
                print(f"sdsjax: warning: {said}", file=sys.stderr)


def is_written(path: Path) -> bool:
    """Tells whether a file is there and holds something (not emptied by a crash)."""
    return path.is_file() and path.stat().st_size > 0


def outdated_exports(workdir: Path, frozen: dict, finished: dict) -> str | None:
    """Says why the exports of a finished run are to be made again; None: they are not.

    Files that were deleted or emptied, and settings other than those they were made
    with.
    """
    names = (finished.get("paths") or {}).values()
    missing = [name for name in names if not is_written(workdir / name)]
    if missing:
        return f"{', '.join(missing)} is missing"
    wanted = export_settings(frozen)
    before, now = dict(flatten(finished.get("made_with", wanted))), flatten(wanted)
    changed = [key for key, value in now if before.get(key) != value]
    return f"{', '.join(changed)} has changed" if changed else None


class Trained(Protocol):
    """What the loop drives: a Session, or several at once (prompts/batch)."""

    config: Any
    components: RunComponents
    step: int

    mesh_of: Callable
    begin_phase: Callable
    advance: Callable[..., dict]
    check_finite: Callable
    save: Callable
    report_step: Callable[[], Request | None]
    measure_variance: Callable[..., dict]
    record_metrics: Callable
    write_preview: Callable


def optimise(session: Trained, log: Log, stop: Stop) -> None:
    """Takes every step of all phases. Raises Diverged, CheckpointError, Interrupted."""
    for phase in session.components.phases:
        if session.step >= phase.last:
            continue
        log.say(describe(session.mesh_of(phase)))
        train_step = session.begin_phase(phase)
        log.timer.pause()
        while session.step < phase.last:
            metrics = session.advance(train_step)
            log.timer.lap(session.step)
            write_what_is_due(session, log, metrics)
            do_what_is_asked(session, log, stop)
            requested = hosts.agreed_signal(stop.requested, session.step)
            if requested:
                session.save(log)
                log.say(f"stopped: checkpoint {session.step} is written")
                raise Interrupted(requested, session.step)


def do_what_is_asked(session: Trained, log: Log, stop: Stop) -> None:
    """Asks the listener after a step: it may save, stop, or have the run wait.

    Only one that has it wait is asked again, and may then save as well.
    """
    waits = False
    while asked := session.report_step():
        waits = waits or asked == "pause"
        if asked == "save":
            session.save(log)
        elif asked == "stop":
            stop.requested = stop.requested or signal.SIGINT
        log.timer.pause()
        if stop.requested or not waits:
            return
        if asked == "pause":
            time.sleep(PAUSE_SECONDS)


def write_what_is_due(session: Trained, log: Log, metrics: dict) -> None:
    """Records, checks, saves and draws what is due after this step."""
    config, step = session.config, session.step

    def due(every: int) -> bool:
        return step == config.steps or (every > 0 and step % every == 0)

    variance_every = config.diagnostics.variance_every
    measured = variance_every and due(variance_every)
    if measured:
        metrics |= session.measure_variance(config.diagnostics.variance_samples)
        log.timer.pause()
    if measured or due(config.diagnostics.every):
        session.record_metrics(log, metrics)
    if due(config.diagnostics.nan_check_every):
        session.check_finite()
    if due(config.checkpoint_every):
        session.save(log)
        log.timer.pause()
    if config.preview_every and due(config.preview_every):
        session.write_preview(log)
        log.timer.pause()


def read_metrics(workdir: Path) -> dict:
    """Reads metrics.json; {} where there is none."""
    return read_json(workdir / "metrics.json") or {}


def finished_asset(
    workdir: Path, config, components: RunComponents, finished: dict
) -> Asset:
    """Loads the asset of a directory that is done; says so, and writes nothing."""
    if not hosts.is_first():
        return Asset(workdir, None, {}, {})
    step = finished["step"]
    news = f"is finished (step {step}): nothing to do; raise --config.steps to go on"
    if step > config.steps:
        news = (
            f"has {step} steps already, more than the {config.steps} asked for: its "
            f"files show step {step}, and stay as they are"
        )
    print(f"sdsjax: {workdir} {news}", file=sys.stderr)
    start, arguments = first_state(components, config)
    template = jax.eval_shape(start, *arguments)
    state = Checkpoints(workdir / "checkpoints").load(step, template)
    paths = {
        name: workdir / file
        for name, file in (finished.get("paths") or {}).items()
        if is_written(workdir / file)
    }
    return Asset(workdir, state.params, read_metrics(workdir), paths)

"""One run's state and all that happens to it.

Restored, stepped, checked for NaN, saved, drawn, recorded, exported;
`sdsjax.training.train` says when. Nothing here waits for the device but fetching what
is due; steps fold their number into the seed's key, the first state and previews
numbers that no step has.
"""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

import jax
from jax.tree_util import Partial

from sdsjax import exports
from sdsjax.distributed import hosts
from sdsjax.distributed.sharding import place_prior, replicate
from sdsjax.representations.gaussians import GaussianParams, as_gaussians
from sdsjax.runs.ahead import Ahead, shapes_of, worth_it
from sdsjax.runs.checkpoints import digest
from sdsjax.runs.disk_errors import in_words
from sdsjax.runs.exit_status import ExitStatus
from sdsjax.runs.logs import Log
from sdsjax.runs.provenance import PROGRAM, commands
from sdsjax.runs.run_directory import FollowedDirectory, RunDirectory, in_short
from sdsjax.training.build import Phase, RunComponents
from sdsjax.training.ceilings.known import ceiling_of_run
from sdsjax.training.config import to_json
from sdsjax.training.particles import state_of_particle
from sdsjax.training.previews import picture, write_preview
from sdsjax.training.programs import Programs
from sdsjax.training.snapshots import Snapshot, take_snapshot
from sdsjax.training.train_step import PREVIEW

# What a listener may answer after a step; other answers are not read.
Request = Literal["pause", "save", "stop"]
Event = Callable[[str, dict], Request | None]


class Diverged(RuntimeError):
    """A NaN or an infinity appeared; the message names the last good step."""

    exit_code = ExitStatus.DIVERGED


def preset_and_overrides(command: Iterable[str]) -> dict:
    """Reads what a command line said of the config, for the report's own commands."""
    pairs = [word[2:].split("=", 1) for word in command if word.startswith("--config")]
    said = dict(pair for pair in pairs if len(pair) == 2)
    preset = said.pop("config", None)
    overrides = {key.removeprefix("config."): value for key, value in said.items()}
    return {"config": preset, "overrides": overrides}


def asked_for(sessions: Iterable[Iterable[str]]) -> dict:
    """Merges the commands of a run's sessions into one that asks for all of it.

    One that names a config says everything anew; one without (a --workdir alone) goes
    on from what was said before.
    """
    preset, overrides = None, {}
    for command in sessions:
        said = preset_and_overrides(command)
        if said["config"] is not None:
            preset, overrides = said["config"], {}
        overrides |= said["overrides"]
    return {"config": preset, "overrides": overrides}


def export_settings(config: dict) -> dict:
    """Returns the sections of a nested config that decide what is exported."""
    return {name: config.get(name) for name in ("exports", "scoring")}


def _recoloured(render, rgb, camera):
    # a rendering of latents, with the picture that was decoded from them
    return render(camera)._replace(rgb=rgb)


def take_step(trained, train_step: Callable) -> dict:
    """Takes a step of a Session or a Batch; returns its metrics, left on the device.

    Waits for the step before, so that one is always queued.
    """
    trained.state, metrics = train_step(
        trained.state, trained.prior_params, trained.key
    )
    if trained.unchecked:
        trained.unchecked[-1][1].block_until_ready()
    trained.step += 1
    trained.unchecked.append((trained.step, metrics["finite"]))
    return metrics


class Session:
    """A session is what the loop carries along: the state, and what happens to it.

    programs: those that this asset shares with others, by default its own; last: the
    step of the newest checkpoint that may be gone on from, by default any.
    """

    def __init__(
        self,
        config,
        components: RunComponents,
        directory,
        on_event,
        programs: Programs | None = None,
        last: int | None = None,
    ):
        self.config, self.components = config, components
        self.programs = programs = programs or Programs(config, components)
        self.directory: RunDirectory | FollowedDirectory = directory
        self.mesh = components.phases[-1].mesh
        self.notify: Event = on_event or (lambda name, content: None)
        self.notes: list[str] = []
        self.prior_params = components.source.params
        self.key = jax.random.key(config.seed)
        arguments = self.prior_params, self.key
        template = jax.eval_shape(programs.start, *arguments)
        found = self._restored(template, last)
        if directory.changed_inputs:
            changed = in_short(directory.changed_inputs)
            self.notes.append(f"goes on with other files than before: {changed}")
        self.saved = None if found is None else found[0]
        self.state = programs.start(*arguments) if found is None else found[1]
        self.step = self.saved or 0
        if found is not None:
            self.notes.append(f"continuing from step {self.step}")
        rows = directory.load_history(self.step)
        if self.step > config.steps:
            self.notes.append(
                f"{directory.folder} has {self.step} steps already, more than the "
                f"{config.steps} asked for: its files show step {self.step}"
            )
        earlier = rows[-1].get("seconds", 0.0) if rows else 0.0
        self.began = time.perf_counter() - earlier
        self.unchecked: list[tuple[int, jax.Array]] = []
        self.draw, self.preview = programs.draw, programs.preview
        self.ahead = Ahead()

    def mesh_of(self, phase: Phase):
        """Returns the devices that a phase runs on, None for one."""
        return phase.mesh

    def _restored(self, template, last: int | None):
        # (step, state) of process 0's newest checkpoint, or None
        found: list = []

        def restore() -> int | None:
            restore = self.directory.checkpoints.restore
            newest = restore(template, self.notes.append, last)
            found.extend(newest or ())
            return newest and newest[0]

        step = hosts.share(restore)
        if step is None:
            return None
        return step, hosts.share_arrays(found[1] if found else None, template)

    def seconds(self) -> float:
        """Counts the wall clock of the run so far, all its sessions together."""
        return time.perf_counter() - self.began

    def begin_phase(self, phase: Phase) -> Callable:
        """Moves state and prior onto a phase's devices; returns its training step.

        The step is compiled when it is first called.
        """
        self.phase, self.mesh = phase, phase.mesh
        self.state = replicate(self.state, phase.mesh)
        self.prior_params = place_prior(self.prior_params, phase.mesh)
        return self.programs.train_step(phase, mesh=phase.mesh)

    def advance(self, train_step) -> dict:
        """Takes one step; after the first, has compiled what is called later."""
        metrics = take_step(self, train_step)
        left = self.config.steps - self.step
        if not self.ahead.begun and worth_it(left, self.mesh):
            # of shapes, as the steps that are taken meanwhile replace the state
            given = *self.particle(0), self.prior_params, self.key
            self.ahead.begin(self._later(*shapes_of(given)))
        return metrics

    def _later(self, params, rep_state, prior_params, key) -> Iterator[Callable]:
        if self.config.preview_every:
            yield lambda: self.preview.compile(params, rep_state, prior_params, key)
        config = to_json(self.config)
        yield from exports.tasks_ahead(self.draw, params, rep_state, config)

    def report_step(self) -> Request | None:
        """Tells the listener that a step was taken; returns what it asks for."""
        return self.notify("advance", {"step": self.step, "snapshot": self.snapshot})

    def snapshot(self) -> Snapshot:
        """Copies what is shown of this step, without waiting for it."""
        return take_snapshot(
            *self.particle(0),
            self.components.representation,
            phase=self.phase,
            key=self.key,
            step=self.step,
        )

    def measure_variance(self, samples: int) -> dict:
        """Measures the variance of the gradient that is due next; changes nothing."""
        if not hosts.is_first():
            return {}
        measure = self.programs.step_variance(self.phase, samples)
        return measure(
            *hosts.local((self.state, self.prior_params), self.mesh), self.key
        )

    def check_finite(self) -> None:
        """Fetches the flags of the steps since the last check. Raises Diverged."""
        flags = jax.device_get([flag for _, flag in self.unchecked])
        bad = [step for (step, _), good in zip(self.unchecked, flags) if not good]
        self.unchecked.clear()
        if bad:
            saved = "none was saved" if self.saved is None else f"step {self.saved}"
            raise Diverged(
                f"a NaN or infinity appeared at step {bad[0]}; step {bad[0] - 1} was "
                f"the last good one, the last checkpoint: {saved}; {self._advice()}"
            )

    def _advice(self) -> str:
        """Says what to type after a divergence, as it can be typed.

        A rate may change within a directory; a cap on the gradient's norm gives the
        optimizer another state, which needs a directory of its own.
        """
        optimizer, folder = self.config.optimizer, self.directory.folder
        rates = [
            f"--config.optimizer.lr.{name}={rate / 2:.6g}"
            for name, rate in optimizer.lr.items()
            if rate > 0
        ]
        slower = [*PROGRAM, f"--workdir={folder}", "--allow_config_change", *rates]
        start = "begin again" if self.saved is None else f"go on from {self.saved}"
        advice = f"to {start} with half the rates: {shlex.join(slower)}"
        asked = asked_for(self.directory.commands)
        if asked["config"] is None or optimizer.clip_norm:
            return advice
        anew, _ = commands(to_json(self.config), folder, asked)
        clipped = ["--config.optimizer.clip_norm=1", f"--workdir={folder}-clipped"]
        return f"{advice} or to begin anew, clipped: {anew} {shlex.join(clipped)}"

    def save(self, log: Log) -> None:
        """Writes a checkpoint of this step, never of a state with a NaN."""
        self.check_finite()
        if self.saved == self.step:
            return
        hosts.share(lambda: self.directory.checkpoints.save(self.step, self.state))
        self.saved = self.step
        log.flush()
        self.notify("checkpoint", {"step": self.step})

    def write_preview(self, log: Log) -> None:
        """Draws a preview: a file, a picture in TensorBoard, and an event."""
        if not hosts.is_first():
            return
        self.ahead.wait()
        key = jax.random.fold_in(self.key, PREVIEW)
        params, rep_state = self.particle(0)
        prior_params = hosts.local(self.prior_params, self.mesh)
        image = picture(*self.preview(params, rep_state, prior_params, key))
        log.image("preview", image, self.step)
        try:
            path = write_preview(self.directory.folder / "previews", self.step, image)
        except OSError as error:
            log.warn(f"preview {self.step} was not written: {in_words(error)}")
            return
        self.notify("preview", {"step": self.step, "path": path, "image": image})

    def record_metrics(self, log: Log, metrics: dict) -> None:
        """Writes one line of the history: this step's metrics, fetched now."""
        if not hosts.is_first():
            return
        row = {k: float(v) for k, v in jax.device_get(metrics).items()}
        row = {"step": self.step, **{k: row[k] for k in sorted(row) if k != "finite"}}
        row["seconds"] = round(self.seconds(), 3)
        if log.timer.mean is not None:
            row["seconds_per_step"] = round(log.timer.mean, 5)
        if all(math.isfinite(value) for value in row.values()):
            try:
                self.directory.append_history(row)
            except OSError as error:
                log.warn(
                    f"history.jsonl cannot be written ({in_words(error)}): its rows "
                    "are kept and written when that succeeds"
                )
        log.scalars(row)
        log.progress(self.step)
        self.notify("step", row)

    def particle(self, index: int):
        """Returns (parameters, representation's state) of a particle.

        The first is the one that is shown.
        """
        state = hosts.local(self.state, self.mesh)
        state = state_of_particle(state, index, self.config.particles)
        return state.params, state.rep_state

    def asset(self, index: int):
        """Returns what is exported of a particle, and camera -> Rendering.

        The first is Gaussians with their flags, a field as a function of points, or the
        parameters. Both functions are compiled, their parameters arguments.
        """
        params, rep_state = self.particle(index)
        representation = self.components.representation
        render = Partial(self.draw, params, rep_state)
        if representation.space == "latent":
            prior_params = hosts.local(self.prior_params, self.mesh)
            args = params, rep_state, prior_params, self.key
            render = Partial(_recoloured, render, self.preview(*args)[0][0])
        if isinstance(params, GaussianParams):
            return as_gaussians(params, rep_state), render
        if representation.field is not None:
            return Partial(jax.jit(representation.field), params, rep_state), render
        return params, render

    def export(
        self, status: str, log: Log, warnings: Iterable[str] = ()
    ) -> dict[str, Path]:
        """Writes all that a run leaves behind; after an abort, at least the report.

        Raises ExportError where something could not be written.
        """
        usable = status == "finished"
        others = range(1, self.config.particles) if usable else ()
        return exports.export_all(
            self.directory.folder,
            *(self.asset(0) if usable else (None, None)),
            to_json(self.config),
            self.directory.history,
            others=[self.asset(index) for index in others],
            status=status,
            ceiling=ceiling_of_run(
                self.config,
                self.components.representation,
                hosts.local(self.state.params, self.mesh),
            )
            if usable
            else None,
            warnings=(*self.notes, *log.warnings, *warnings),
            announce=log.warn,
            provenance_of_run={
                **asked_for(self.directory.commands),
                "steps": self.step,
                "seconds": round(self.seconds(), 2),
            },
        )

    def finish(self, paths: dict[str, Path]) -> None:
        """Marks the directory as done. Raises ExportError where that fails."""
        directory = self.directory
        try:
            directory.complete_history()
            directory.finish(
                {
                    "step": self.step,
                    "state_sha256": digest(self.state),
                    "paths": {name: path.name for name, path in paths.items()},
                    "made_with": export_settings(to_json(self.config)),
                }
            )
        except OSError as error:
            raise exports.ExportError(
                f"{directory.folder} could not be marked as finished "
                f"({in_words(error)}); its files are there: the same command marks it, "
                "without training again"
            ) from error

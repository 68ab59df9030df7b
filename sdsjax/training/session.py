"""One run's state and all that happens to it: restored, stepped, checked for NaN,
saved, shown, recorded, exported. `sdsjax.training.train` says when.

Nothing here waits for the device but fetching what is due; steps fold their number into
the seed's key, the first state and previews numbers that no step has.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import jax

from sdsjax import exports
from sdsjax.distributed.sharding import replicate
from sdsjax.representations.gaussians import GaussianParams, as_gaussians
from sdsjax.runs.checkpoints import digest
from sdsjax.runs.logs import Log
from sdsjax.runs.run_directory import RunDirectory
from sdsjax.toybox.world.captions import CaptionError
from sdsjax.training.build import Pieces
from sdsjax.training.ceiling import ceiling as fit_ceiling
from sdsjax.training.ceiling import settings_for
from sdsjax.training.config import to_json
from sdsjax.training.gradient_variance import make_step_variance
from sdsjax.training.particles import take
from sdsjax.training.previews import make_previews, picture, write_preview
from sdsjax.training.train_step import INIT, PREVIEW, init_state

Event = Callable[[str, dict], None]


class Diverged(RuntimeError):
    """A NaN or an infinity appeared; the message names the last good step."""

    exit_code = 3


def first_state(pieces: Pieces, config):
    """(function, arguments) that make the state before the first step."""

    @jax.jit
    def start(prior_params, key):
        return init_state(
            pieces.source,
            pieces.representation,
            pieces.estimator,
            pieces.optimizer,
            pieces.phases[-1].cameras,
            prior_params,
            key,
            config.particles,
        )

    key = jax.random.fold_in(jax.random.key(config.seed), INIT)
    return start, (pieces.source.params, key)


def preset_and_overrides(command: Iterable[str]) -> dict:
    """What a command line said of the config, for the report's own commands."""
    pairs = [word[2:].split("=", 1) for word in command if word.startswith("--config")]
    said = dict(pair for pair in pairs if len(pair) == 2)
    preset = said.pop("config", None)
    overrides = {key.removeprefix("config."): value for key, value in said.items()}
    return {"config": preset, "overrides": overrides}


class Session:
    """What the loop carries along: the state, and all that happens to it."""

    def __init__(self, config, pieces: Pieces, directory: RunDirectory, on_event):
        self.config, self.pieces, self.directory = config, pieces, directory
        self.tell: Event = on_event or (lambda name, content: None)
        self.notes: list[str] = []
        self.key = jax.random.key(config.seed)
        self.prior_params = pieces.source.params
        start, arguments = first_state(pieces, config)
        template = jax.eval_shape(start, *arguments)
        found = directory.checkpoints.restore(template, self.notes.append)
        self.saved = None if found is None else found[0]
        self.state = start(*arguments) if found is None else found[1]
        self.step = self.saved or 0
        if found is not None:
            self.notes.append(f"continuing from step {self.step}")
        rows = directory.load_history(self.step)
        earlier = rows[-1].get("seconds", 0.0) if rows else 0.0
        self.began = time.perf_counter() - earlier
        self.unchecked: list[tuple[int, jax.Array]] = []
        self.preview = make_previews(
            pieces.source, pieces.representation, pieces.orbit, config.resolution
        )

    def seconds(self) -> float:
        """Wall clock of the run so far, all its sessions together."""
        return time.perf_counter() - self.began

    def place(self, mesh, cameras) -> None:
        """State and prior onto the devices of a phase, whose views `cameras` draws."""
        self.cameras, self.study = cameras, None
        self.state = replicate(self.state, mesh)
        self.prior_params = replicate(self.prior_params, mesh)

    def advance(self, train_step) -> dict:
        """One step; waits for the one before it, so that one is always queued."""
        self.state, metrics = train_step(self.state, self.prior_params, self.key)
        if self.unchecked:
            self.unchecked[-1][1].block_until_ready()
        self.step += 1
        self.unchecked.append((self.step, metrics["finite"]))
        return metrics

    def measure(self, samples: int) -> dict:
        """The variance of the gradient that is due next; changes nothing."""
        if self.study is None:  # compiled where it is asked for, and only there
            pieces = self.pieces
            self.study = make_step_variance(
                pieces.source,
                pieces.representation,
                pieces.estimator,
                pieces.sampler,
                self.cameras,
                total=self.config.steps,
                samples=samples,
                particles=self.config.particles,
            )
        return self.study(self.state, self.prior_params, self.key)

    def check_finite(self) -> None:
        """Fetch the flags of the steps since the last check. Raises Diverged."""
        flags = jax.device_get([flag for _, flag in self.unchecked])
        bad = [step for (step, _), good in zip(self.unchecked, flags) if not good]
        self.unchecked.clear()
        if bad:
            saved = "none was saved" if self.saved is None else f"step {self.saved}"
            raise Diverged(
                f"a NaN or infinity appeared at step {bad[0]}; step {bad[0] - 1} was "
                f"the last good one, the last checkpoint: {saved}; lower "
                "--config.optimizer.lr or set --config.optimizer.clip_norm"
            )

    def save(self, log: Log) -> None:
        """A checkpoint of this step, never of a state with a NaN."""
        self.check_finite()
        if self.saved == self.step:
            return
        self.directory.checkpoints.save(self.step, self.state)
        self.saved = self.step
        log.flush()
        self.tell("checkpoint", {"step": self.step})

    def show(self, log: Log) -> None:
        """A preview as a picture, in TensorBoard and for whoever listens."""
        key = jax.random.fold_in(self.key, PREVIEW)
        params, rep_state = self.particle(0)
        image = picture(*self.preview(params, rep_state, self.prior_params, key))
        path = write_preview(self.directory.folder / "previews", self.step, image)
        log.image("preview", image, self.step)
        self.tell("preview", {"step": self.step, "path": path, "image": image})

    def record(self, log: Log, metrics: dict) -> None:
        """One line of the history: this step's metrics, fetched now."""
        row = {k: float(v) for k, v in jax.device_get(metrics).items()}
        row = {"step": self.step, **{k: row[k] for k in sorted(row) if k != "finite"}}
        row["seconds"] = round(self.seconds(), 3)
        if log.timer.mean is not None:
            row["seconds_per_step"] = round(log.timer.mean, 5)
        if all(math.isfinite(value) for value in row.values()):
            self.directory.append_history(row)
        log.scalars(row)
        log.progress(self.step)
        self.tell("step", row)

    def particle(self, index: int):
        """(parameters, representation's state) of one particle; the first is shown."""
        state = take(self.state, index, self.config.particles)
        return state.params, state.rep_state

    def asset(self, index: int):
        """What is exported of a particle: Gaussians with their flags, a field as a
        function of points, or the parameters; and camera -> Rendering."""
        params, rep_state = self.particle(index)
        representation, decoded = self.pieces.representation, None
        if representation.space == "latent":
            decoded = self.preview(params, rep_state, self.prior_params, self.key)[0][0]

        def render(camera):
            rendering = representation.render(params, rep_state, camera, None)
            return rendering if decoded is None else rendering._replace(rgb=decoded)

        if isinstance(params, GaussianParams):
            return as_gaussians(params, rep_state), render
        if representation.field is not None:
            return jax.jit(partial(representation.field, params, rep_state)), render
        return params, render

    def export(self, status: str, warnings: Iterable[str] = ()) -> dict[str, Path]:
        """Everything a run leaves behind; after an abort, at least the report."""
        usable = status == "finished"
        others = range(1, self.config.particles) if usable else ()
        return exports.export_all(
            self.directory.folder,
            *(self.asset(0) if usable else (None, None)),
            to_json(self.config),
            self.directory.history,
            others=[self.asset(index) for index in others],
            status=status,
            ceiling=self.ceiling() if usable else None,
            warnings=(*self.notes, *warnings),
            provenance_of_run={
                **preset_and_overrides(self.directory.command),
                "steps": self.step,
                "seconds": round(self.seconds(), 2),
            },
        )

    def ceiling(self) -> dict | None:
        """What this representation scores when fitted to true renders; None where
        there is no truth to fit."""
        scoring = self.config.scoring
        if not (scoring.truth and scoring.ceiling):
            return None
        settings = settings_for(self.state.params)
        if settings is None:
            return None
        try:
            return fit_ceiling(
                self.config.prompt, self.pieces.representation, **settings
            )
        except CaptionError:
            return None  # a prompt outside the toybox has no truth

    def finish(self, paths: dict[str, Path]) -> None:
        """Mark the directory as done."""
        self.directory.finish(
            {
                "step": self.step,
                "state_sha256": digest(self.state),
                "paths": {name: path.name for name, path in paths.items()},
            }
        )

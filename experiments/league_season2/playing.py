"""Makes the runs of the second season, with one compiled step for each kind of prior.

All estimators are in it (sdsjax/studies/switched.py), at any setting and of any length.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from dial import Seen, dial_source, of_prompt
from season import COLUMNS, SPREADS, Job, Plan, Price, steps_of

from sdsjax.cli.checks import resolve
from sdsjax.diffusion.timesteps import Sampler
from sdsjax.studies.contestants import ENTRIES, Entry
from sdsjax.studies.flops import program_flops
from sdsjax.studies.report import save_picture
from sdsjax.studies.switched import switched
from sdsjax.studies.toybox_run import ToyboxRuns, drawn_times, from_table
from sdsjax.training.build import RunComponents, build
from sdsjax.training.build.optimizer import build_optimizer
from sdsjax.training.build.representation import background_of
from sdsjax.training.train_step import INIT, init_state, make_train_step
from sdsjax.types import Array, Estimator, PriorSource

CONFIGS = {"exact": "sds:exact", "toybox-mv": "sds:mv"}


class Settings(NamedTuple):
    """What a compiled step is told: who works, at what setting, and its times.

    times: t [n views or groups], of which a run of fewer steps reads the first ones.
    """

    place: Array
    value: Array
    times: Array


def places() -> dict[tuple[str, float | None], int]:
    """The place of each estimator in the switch; of one for each setting that cannot
    be traced."""
    named = [
        (name, setting)
        for name, entry in ENTRIES.items()
        for setting in (entry.candidates if entry.static else (None,))
    ]
    return {each: place for place, each in enumerate(named)}


PLACES = places()


def place_of(name: str, setting: float) -> int:
    """The place of an estimator with that setting."""
    return PLACES[name, setting if ENTRIES[name].static else None]


def make(schedule, settings: Settings) -> Estimator:
    """All estimators as one, at the traced setting."""

    def one(entry: Entry, setting: float | None) -> Estimator:
        return entry.make(schedule, settings.value if setting is None else setting)

    each = [one(ENTRIES[name], setting) for name, setting in PLACES]
    return switched(each, settings.place)


def times_of(settings: Settings) -> Sampler:
    """The sampler that reads the settings' table."""
    return from_table(settings.times)


class Stage:
    """One kind of prior ("exact" or "toybox-mv") and its compiled step.

    longest: the most steps of any run, the length of what is drawn beforehand.
    """

    def __init__(self, kind: str, plan: Plan):
        self.kind, self.plan = kind, plan
        self.given = {"batch_size": plan.views}
        self.config = resolve(CONFIGS[kind], self.given)
        self.longest = plan.sds_steps

    @cached_property
    def parts(self) -> tuple[RunComponents, PriorSource]:
        """The components of the first prompt, and their source."""
        if self.kind == "exact":
            return dial_source(self.given)
        built = build(self.config)
        return built, built.source

    @cached_property
    def runs(self) -> ToyboxRuns:
        share = self.config.optimizer.lr_final_factor
        constant = resolve(
            CONFIGS[self.kind], {**self.given, "optimizer.lr_final_factor": 1.0}
        )

        def build_run(prompt: str, steps: int) -> RunComponents:
            del steps  # whose rates are constant
            built, source = self.parts
            params = jax.eval_shape(built.representation.init, jax.random.key(0))[0]
            optimizer, _ = build_optimizer(constant, params)
            if self.kind != "exact":
                source = build(
                    resolve(CONFIGS[self.kind], {**self.given, "prompt": prompt})
                ).source
            return built._replace(source=source, optimizer=optimizer)

        return ToyboxRuns(build_run, falls_to=share)

    @cached_property
    def seen(self) -> Seen:
        background = background_of(self.config.background)
        return Seen(self.parts[0], background, self.longest)

    def tell(self, job: Job) -> None:
        """Sets what the exact prior is told for that run."""
        built, source = self.parts
        told = self.runs.built(job.prompt)[1]
        if SPREADS[job.prior] == 0:
            matrices, pictures = self.seen.at(job.prompt, job.seed)
        else:  # nobody looks
            many = self.longest * job.views
            matrices = jnp.zeros((many, 4, 4))
            pictures = jnp.zeros((many, *source.params.pictures.shape[1:]))
        self.runs.prior_params[job.prompt] = told._replace(
            renders=of_prompt(built.source.params, job.prompt),
            matrices=matrices,
            pictures=pictures,
            place=jnp.int32([*SPREADS].index(job.prior)),
        )

    def perform(self, job: Job, root: Path) -> dict:
        """Makes one run and returns its row; a strip of views goes to `root`."""
        if self.kind == "exact":
            self.tell(job)
        built, _ = self.runs.built(job.prompt)
        samples = job.views // built.group
        times = drawn_times(built.sampler, job.seed, job.steps, samples)
        blank = jnp.zeros((self.longest - job.steps, samples), times.dtype)
        settings = Settings(
            jnp.int32(place_of(job.estimator, job.setting)),
            jnp.float32(job.setting),
            jnp.concatenate([times, blank]),
        )
        found = self.runs.run(
            "all", make, settings, prompt=job.prompt, seed=job.seed, steps=job.steps,
            rate=job.rate, sampler=times_of,
        )  # fmt: skip
        save_picture(found.strip, job.picture(root))
        return {
            **job._asdict(),
            "finite": found.finite,
            "truth": found.truth,
            "cpu_seconds": found.cpu_seconds,
        }

    def price(self, name: str) -> dict:
        """The operations of a step of one estimator alone, without the switch."""
        built, source = self.parts
        entry = ENTRIES[name]
        estimator = entry.make(built.schedule, entry.candidates[0])
        cameras = built.phases[-1].cameras
        state = jax.eval_shape(
            lambda params, key: init_state(
                source, built.representation, estimator, built.optimizer, cameras,
                params, jax.random.fold_in(key, INIT),
            ),
            source.params, jax.random.key(0),
        )  # fmt: skip
        step = make_train_step(
            source, built.representation, estimator, built.optimizer, built.sampler,
            cameras, total=self.plan.sds_steps,
        )  # fmt: skip
        found = program_flops(step, state, source.params, jax.random.key(0))
        return {"flops": found.whole, "xla": found.once}


class Stages:
    """The stages of a plan, each built when it is first asked for."""

    def __init__(self, plan: Plan, rows: dict):
        self.plan, self.rows = plan, rows
        self.made: dict[str, Stage] = {}

    def of(self, kind: str) -> Stage:
        """The stage of a kind of prior."""
        if kind not in self.made:
            self.made[kind] = Stage(kind, self.plan)
        return self.made[kind]

    def perform(self, asked: Job | Price, root: Path) -> dict:
        """The row of a run, or of a count of operations."""
        if isinstance(asked, Price):
            return {**asked._asdict(), **self.of(asked.price).price(asked.estimator)}
        stage = self.of(asked.prior if asked.prior == "toybox-mv" else "exact")
        stage.longest = self._longest(asked.prior)
        return stage.perform(asked, root)

    def _longest(self, prior: str) -> int:
        # over all columns of the stage, whether they play or not: one compilation
        alike = [c for c, of in COLUMNS.items()
                 if (of.prior == "toybox-mv") == (prior == "toybox-mv")]  # fmt: skip
        return max(
            steps_of(self.plan, column, name, self.rows)
            for column in alike
            for name in self.plan.only
        )

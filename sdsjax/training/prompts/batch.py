"""Several sessions trained side by side, as the loop of one run sees them.

`train.optimise` drives a `Batch` as it drives a Session. The states lie stacked on the
devices; what is due is done for each asset by its own session, from its slice. An asset
that fails is dropped: its slice is computed on and looked at no more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from sdsjax.distributed.assets import map_assets, place_assets
from sdsjax.distributed.sharding import data_mesh, replicate
from sdsjax.runs.checkpoints import CheckpointError
from sdsjax.runs.logs import Log
from sdsjax.training.build import Phase
from sdsjax.training.programs import Programs
from sdsjax.training.prompts.stacking import (
    STATE_AXES,
    PriorSplit,
    make_spread,
    stack_states,
    state_of_asset,
)
from sdsjax.training.session import Diverged, Request, Session, take_step
from sdsjax.training.train import write_abort

Failure = Diverged | CheckpointError


class NoneLeft(RuntimeError):
    """Every asset of a batch has failed; each says why."""


class Steps:
    """The compiled steps of a job, one a phase, for every batch of it.

    split: of the priors; width: assets of a step.
    """

    def __init__(self, programs: Programs, split: PriorSplit, width: int):
        self.programs, self.split, self.width = programs, split, width
        self.mesh = data_mesh(width)
        self._made: dict[Phase, Callable] = {}

    def of_phase(self, phase: Phase) -> Callable:
        """Returns the phase's step, compiled when it is first called."""
        if phase not in self._made:

            def mapped(function, in_axes, out_axes):
                return map_assets(function, self.mesh, in_axes, out_axes)

            spread = make_spread(self.split, mapped)
            self._made[phase] = self.programs.train_step(phase, spread=spread)
        return self._made[phase]


class Member:
    """One asset of a batch: its session, its log, and what ended it early, or None."""

    def __init__(self, session: Session, log: Log):
        self.session, self.log = session, log
        self.error: Failure | None = None


class Batch:
    """A batch is what the loop carries along: many states, one step.

    members: at most `steps.width`, all at the same step.
    """

    def __init__(self, steps: Steps, members: Sequence[Member]):
        self.steps, self.members = steps, list(members)
        sessions = [member.session for member in members]
        first = sessions[0]
        self.config, self.components = first.config, first.components
        self.key, self.step = first.key, first.step
        # the last one again, so that the step is that of a full batch
        rows = sessions + sessions[-1:] * (steps.width - len(sessions))
        parts = [steps.split.parts(one.prior_params) for one in rows]
        own = [jnp.stack(column) for column in zip(*(part[1] for part in parts))]
        mesh = steps.mesh
        self.state = place_assets(
            stack_states([one.state for one in rows]), mesh, STATE_AXES
        )
        self.prior_params = (
            place_assets(parts[0][0], mesh, None),
            place_assets(own, mesh, 0),
        )
        self.unchecked: list[tuple[int, jax.Array]] = []

    def active(self) -> list[tuple[int, Member]]:
        """Lists those that have not failed, with their places."""
        return [pair for pair in enumerate(self.members) if pair[1].error is None]

    def mesh_of(self, phase: Phase):
        """The devices that the assets are spread over, the same in every phase."""
        del phase
        return self.steps.mesh

    def begin_phase(self, phase: Phase):
        """Returns the phase's step of all assets; they are where it wants them."""
        for member in self.members:
            # each asset's own slice lies on one device
            member.session.phase, member.session.mesh = phase, None
        return self.steps.of_phase(phase)

    def advance(self, train_step) -> dict:
        """Takes one step of all."""
        return take_step(self, train_step)

    def report_step(self) -> Request | None:
        """Tells nobody: several assets have no listener."""
        return None

    def settle(self, index: int) -> Session:
        """Gives a session its slice of the state, and returns it."""
        session = self.members[index].session
        session.state = replicate(state_of_asset(self.state, index), None)
        session.step = self.step
        return session

    def drop(self, index: int, error: Failure) -> None:
        """Marks an asset as failed: its report says so, the others go on."""
        member = self.members[index]
        member.error = error
        member.session.step = self.step
        member.log.warn(str(error))
        member.log.flush()
        write_abort(member.session, member.log, error)

    def check_finite(self) -> None:
        """Drops those with a NaN since the last check. Raises NoneLeft."""
        flags = jax.device_get([flag for _, flag in self.unchecked])
        for index, member in self.active():
            session = member.session
            session.unchecked = [
                (step, row[index]) for (step, _), row in zip(self.unchecked, flags)
            ]
            try:
                session.check_finite()
            except Diverged as error:
                self.drop(index, error)
        self.unchecked.clear()
        self._go_on()

    def _go_on(self) -> None:
        if not self.active():
            raise NoneLeft("none of the assets is left")

    def save(self, log: Log) -> None:
        """Writes a checkpoint of every asset, never of a state with a NaN."""
        del log
        self.check_finite()
        for index, member in self.active():
            try:
                self.settle(index).save(member.log)
            except CheckpointError as error:
                self.drop(index, error)
        self._go_on()

    def measure_variance(self, samples: int) -> dict:
        """Measures the variance of every asset's gradient, one after the other."""
        rows = [self.settle(i).measure_variance(samples) for i, _ in self.active()]
        found = dict(zip((i for i, _ in self.active()), rows))
        blank = dict.fromkeys(rows[0], jnp.nan)
        columns = [found.get(i, blank) for i in range(len(self.members))]
        return {name: jnp.stack([c[name] for c in columns]) for name in rows[0]}

    def write_preview(self, log: Log) -> None:
        """Draws a preview of every asset."""
        del log
        for index, member in self.active():
            self.settle(index).write_preview(member.log)

    def record_metrics(self, log: Log, metrics: dict) -> None:
        """Writes a line of every asset's history."""
        columns = jax.device_get(metrics)
        for index, member in self.active():
            member.session.step, member.log.timer = self.step, log.timer
            row = {name: column[index] for name, column in columns.items()}
            member.session.record_metrics(member.log, row)
        log.progress(self.step)

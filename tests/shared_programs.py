"""Runs of one config that share their programs, as assets made together do.

Not a test. A session traces and lowers its programs anew, two thirds of what a run of
five steps takes; tests of the loop, the disk and the exports run the same few steps
again and again. Where a run is anew in everything: training/test_resume.
"""

import contextlib
import json

import pytest

from sdsjax.training import programs, session
from sdsjax.training.config import to_json

# What says when something is written: no program is made of these.
UNREAD = ("checkpoint_every", "preview_every", "diagnostics", "exports", "scoring")
PROGRAMS, STEPS = {}, {}


class Shared(programs.Programs):
    """Programs of the components that were built first; phases are known by place."""

    def train_step(self, phase, **how):
        return super().train_step(self._own(phase), **how)

    def step_variance(self, phase, samples):
        return super().step_variance(self._own(phase), samples)

    def _own(self, phase):
        return next(own for own in self.components.phases if own[:4] == phase[:4])


def of_config(config, components) -> Shared:
    """The programs of the first run of an equal config, or this one's."""
    read = {key: value for key, value in to_json(config).items() if key not in UNREAD}
    key = json.dumps(read, sort_keys=True)
    if key not in PROGRAMS:
        PROGRAMS[key] = Shared(config, components)
    return PROGRAMS[key]


@contextlib.contextmanager
def shared_programs():
    """Lets sessions in this process share programs.

    A training step is made by `programs.make_train_step` all the same: what a test puts
    in its place, such as `poison`, wraps the shared one. Not for configs that name
    files which change: contents may be part of a program.
    """
    make = programs.make_train_step

    def make_once(*parts, **how):
        key = tuple(map(id, parts)), repr(how)
        if key not in STEPS:
            # what was given is kept, so that no other object has its place in memory
            STEPS[key] = make(*parts, **how), parts, how
        return STEPS[key][0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "Programs", of_config)
        patch.setattr(programs, "make_train_step", make_once)
        yield

"""The config of every estimator that has one: it resolves, and a whole training step of
it traces, from the cameras to what the estimator learns."""

from functools import partial

import jax
import pytest

from sdsjax.cli.checks import resolve
from sdsjax.training.build import build
from sdsjax.training.config import ConfigError
from sdsjax.training.train_step import init_state, make_train_step

CONFIGS = ("csd", "nfsd", "stein", "vsd", "sds_plus", "denoised_l2", "ism", "sdi")
MIXTURE = {
    "prior.name": "gaussian_mixture",
    "resolution": 8,
    "batch_size": 2,
    "camera.first_batch_size": 2,
    "camera.first_resolution": 8,
}
OTHERS = [
    pytest.param(  # the fit is the next one's, of one number in the place of many
        "stein", {"estimator.fit_space": "theta"}, marks=pytest.mark.slow
    ),
    ("stein", {"estimator.fit": "element", "estimator.fit_space": "theta"}),
    ("sds", {"estimator.name": "mode_seeking_adaptive"}),
]


def traced(name, **overrides):
    config = resolve(name, {**MIXTURE, **overrides})
    pieces = build(config)
    parts = (pieces.source, pieces.representation, pieces.estimator, pieces.optimizer)
    phase, key = pieces.phases[-1], jax.random.key(0)
    start = partial(init_state, *parts, phase.cameras)
    state = jax.eval_shape(start, pieces.source.params, key)
    step = make_train_step(*parts, pieces.sampler, phase.cameras, total=config.steps)
    return state, *jax.eval_shape(step, state, pieces.source.params, key)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_variant_resolves_and_names_its_estimator(name):
    for variant in ("toybox", "sd21", "image"):
        config = resolve(f"{name}:{variant}", {"resolution": 64})
        assert config.estimator.name == name


@pytest.mark.parametrize(("name", "overrides"), [(n, {}) for n in CONFIGS] + OTHERS)
def test_a_training_step_of_it_traces(name, overrides):
    image = {} if overrides.get("estimator.fit_space") else {"variant": ":image"}
    if not image:
        overrides = {**overrides, "representation.count": 5}
    before, after, metrics = traced(name + image.get("variant", ""), **overrides)
    assert jax.tree.structure(before) == jax.tree.structure(after)
    assert {"grad_z", "estimate/direction_norm", "finite"} <= set(metrics)


@pytest.mark.parametrize(
    ("name", "overrides", "word"),
    [
        ("stein", {"estimator.baseline": "depth"}, "monocular"),
        ("stein", {"estimator.baseline": "edges"}, "normal"),
        ("ism", {"estimator.steps": -1}, "steps"),
        ("vsd", {"estimator.drop_camera": 1.5}, "drop_camera"),
        ("vsd:image", {"estimator.drop_camera": 0.1}, "camera.*gaussians"),
        ("ssd:image", {"estimator.name": "vsd"}, "drop_camera=1"),
    ],
)
def test_what_cannot_work_is_one_line_before_anything_is_compiled(
    name, overrides, word
):
    with pytest.raises(ConfigError, match=word) as caught:
        build(resolve(name, {**MIXTURE, **overrides}))
    assert "\n" not in str(caught.value)

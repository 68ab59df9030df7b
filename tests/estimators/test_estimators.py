"""One contract for every estimator of the dict, on an exact prior: shape, dtype, one
trace, vmap = loop, the same noise from the same key, nothing used without need. All of
it twice: variance preserving and with flow matching (tests/conftest.py)."""

import inspect
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdsjax.diffusion import NoiseSchedule
from sdsjax.estimators import ESTIMATORS, image_space
from sdsjax.priors import gaussian_mixture
from sdsjax.types import Estimate, Linear, Source

SCHEDULE = NoiseSchedule.scaled_linear()
SHAPE = (4, 4, 3)
KEY, T = jax.random.key(1), jnp.int32(300)
Z = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
# Every name once with its defaults, then the forms that are other programs.
CASES = {name: (name, {}) for name in ESTIMATORS}
CASES["ssd"] = ("ssd", {"threshold": 400})
CASES["ism"] = ("ism", {"steps": 2})
CASES["sdi"] = ("sdi", {"steps": 2})
CASES |= {
    "csd:annealed": ("csd", {"negative": -1.0}),
    "stein:element": ("stein", {"fit": "element"}),
    "denoised_l2:4": ("denoised_l2", {"steps": 4}),
    "image_space(vsd)": (image_space(ESTIMATORS["vsd"]), {}),
}
NEEDS = {"decode": ("sds_plus", "image_space(vsd)"), "adapter": ("vsd",)}
NEEDS["adapter"] += ("image_space(vsd)",)
NEEDS["source"] = ("dds", "pds")


def make(case, schedule=None, **extra):
    name, hyper = CASES[case]
    factory = ESTIMATORS[name] if isinstance(name, str) else name
    return factory(schedule or SCHEDULE, **(hyper | extra))


def prior(schedule=None, shape=SHAPE):
    """N(1, .3) with the prompt, N(-1, .2) with the negative one, else both.

    What is edited: -.5, whose prompt keeps the other one."""
    schedule = schedule or SCHEDULE
    means, kept = np.stack([np.ones(shape), -np.ones(shape)]), [True, False]

    def of(kept):
        return gaussian_mixture(
            schedule, [1.0, 1.0], means, [0.3, 0.2], kept, negative=[False, True]
        )

    edited = Source(of(kept[::-1]).noise, lambda view: jnp.full(shape, -0.5))
    return of(kept)._replace(source=edited)


@cache
def made_prior():
    """The prior of this pass's schedule, for those that ask for shapes: what it says is
    traced once a shape and type, not once an estimator."""
    p = prior()

    def once(noise):
        whole = jax.jit(noise, static_argnums=2, static_argnames="branches")
        return lambda z_t, t, view, branches: whole(z_t, t, view, branches=branches)

    source = p.source._replace(noise=once(p.source.noise))
    return p._replace(noise=once(p.noise), source=source)


# of w(t) = a alpha + c: the weight of tests that ask for none, and one of every t's own
ONE, OF_T = (0.0, 1.0), (1.0, 0.5)
# Each program runs a few times: compiled in a hurry.
HURRY = {"xla_backend_optimization_level": 0}


# Where the noise that is added is not what the prior is shown first: what is asked in
# the place of these, and which of its calls is.
PLAIN = {
    "ism": ({"steps": 0}, 0),
    "sdi": ({"eta": 1.0, "steps": 1}, -1),
    "denoised_l2:4": ({"steps": 1}, 0),
}


def spied(case, schedule, weights, key, z, t, **extra):
    """The estimate by the weight a alpha + c, and every (z_t, t) the prior is shown."""
    exact, calls, (a, c) = prior(schedule), [], weights

    def spy(z_t, t, view, branches=("cond", "uncond")):
        calls.append((z_t, t))
        return exact.noise(z_t, t, view, branches)

    extra["weighting"] = lambda alpha, _: a * alpha + c
    estimator, p = make(case, schedule, **extra), exact._replace(noise=spy)
    state = estimator.init(p, jax.random.key(9), z)
    return estimator.estimate(p, key, state, z, t, None), calls


# estimators that make tables of a schedule when they are made: none that is traced
WITH_TABLES = ("pds",)
# Several cases are one program: what they have in common is compiled once.
TRACED = [case for case in CASES if case not in WITH_TABLES]
PROGRAMS = [TRACED[i : i + 5] for i in range(0, len(TRACED), 5)]


def compiled(case):
    """(one, batch, traces) of a case, of the program it is in."""
    if case in WITH_TABLES:
        programs = compiled_for((case,), float(SCHEDULE.alphas[500]))
    else:  # one program for all schedules
        together = next(cases for cases in PROGRAMS if case in cases)
        programs = compiled_for(tuple(together), 0)
    one, batch, traces = programs
    return lambda *at: one(*at)[case], lambda *at: batch(*at)[case], traces


@cache
def compiled_for(cases, own):
    """(one, batch, traces), functions of a schedule and of the weight's (a, c). one:
    the estimate of one view, and what the prior was shown; batch: the estimates of
    several; by case. own: tells schedules that are not traced from one another, 0 for
    one that is."""
    traces = []

    def alone(case, *at):
        found, shown = spied(case, *at)
        extra, call = PLAIN.get(case, ({}, 0))
        if extra:  # ... and in a loop it is not to be had
            _, shown = spied(case, *at, **extra)
        return found, shown[call]

    def one(*at):
        traces.append("one")
        return {case: alone(case, *at) for case in cases}

    def batch(schedule, weights, *each):
        traces.append("batch")
        of = {case: partial(spied, case, schedule, weights) for case in cases}
        return {
            case: jax.vmap(lambda *at, f=f: f(*at)[0])(*each) for case, f in of.items()
        }

    if own:
        own_one = jax.jit(partial(one, SCHEDULE), compiler_options=HURRY)
        own_batch = jax.jit(partial(batch, SCHEDULE), compiler_options=HURRY)
        return lambda _, *at: own_one(*at), lambda _, *at: own_batch(*at), traces
    jitted = (jax.jit(f, compiler_options=HURRY) for f in (one, batch))
    return *jitted, traces


# One program for every schedule.
SHARED = (compiled_for,)


def shapes_of(case, p, dtype=jnp.float32):
    estimator = make(case)

    def whole(key, z, t):
        state = estimator.init(p, key, z)
        return estimator.estimate(p, key, state, z, t, None)

    return jax.eval_shape(whole, KEY, jax.ShapeDtypeStruct(SHAPE, dtype), T)


@pytest.mark.parametrize("case", CASES)
def test_contract_vmap_is_the_loop_and_traces_once(case):
    one, batch, traces = compiled(case)
    zs = np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float32)
    keys, ts = jax.random.split(jax.random.key(1), 3), np.int32([20, 400, 980])
    together, again = (batch(SCHEDULE, OF_T, keys, zs + shift, ts) for shift in (0, 1))
    alone = [one(SCHEDULE, OF_T, *each)[0] for each in zip(keys, zs, ts)]
    assert traces == ["batch", "one"]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *alone)
    scale = 1e-5 * (1.0 + float(np.abs(stacked.grad).max()))
    np.testing.assert_allclose(together.grad, stacked.grad, rtol=1e-4, atol=scale)
    for name, values in stacked.aux.items():
        np.testing.assert_allclose(
            together.aux[name], values, rtol=1e-3, atol=1e-3, err_msg=name
        )
    assert not np.allclose(again.grad, together.grad)


@pytest.mark.parametrize("case", CASES)
def test_contract_equal_keys_equal_estimates_and_equal_noise(case):
    """eps = normal(split(key)[0]) is what the prior is shown."""
    one, _, _ = compiled(case)
    estimate, (z_t, t) = one(SCHEDULE, ONE, KEY, Z, T)
    keys = KEY, jax.random.key(2)
    again, other = (one(SCHEDULE, ONE, key, Z, T)[0] for key in keys)
    jax.tree.map(np.testing.assert_array_equal, estimate, again)
    assert not np.allclose(estimate.grad, other.grad)
    eps = jax.random.normal(jax.random.split(KEY)[0], SHAPE)
    noised = SCHEDULE.alphas[t] * Z + SCHEDULE.sigmas[t] * eps
    np.testing.assert_allclose(z_t, noised, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_contract_the_weight_multiplies_the_direction(case):
    one, alpha = compiled(case)[0], SCHEDULE.alphas[T]
    by_one, by_alpha, by_two = (
        one(SCHEDULE, weights, KEY, Z, T)[0].grad
        for weights in (ONE, (3.0, 0.0), (0.0, 2.0))
    )
    np.testing.assert_allclose(by_alpha, 3 * alpha * by_one, rtol=1e-5)
    np.testing.assert_allclose(by_two, 2 * by_one, rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_contract_shape_and_dtype_under_strict_promotion(case):
    """No silent widening of types or ranks anywhere between z and the gradient."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        for dtype in (jnp.float32, jnp.bfloat16):
            estimate = shapes_of(case, made_prior(), dtype)
            assert isinstance(estimate, Estimate)
            assert (estimate.grad.shape, estimate.grad.dtype) == (SHAPE, dtype)
            for name, value in estimate.aux.items():
                assert value.shape in ((), SHAPE), name
                assert value.dtype == dtype, name
            if estimate.image_grad is not None:
                assert estimate.image_grad.dtype == dtype


@pytest.mark.parametrize("case", CASES)
def test_contract_only_what_is_needed_is_used(case):
    """A prior without a decoder, an adapter or a depth estimate serves the estimators
    that need none, and branches that were not asked for are not there."""

    def honest(z_t, t, view, branches=("cond", "uncond")):
        assert branches, "an estimate asks for at least one branch"
        return made_prior().noise(z_t, t, view, branches)

    bare = made_prior()._replace(noise=honest, monocular=None)
    for part, cases in NEEDS.items():
        if case not in cases:
            bare = bare._replace(**{part: None})
    assert shapes_of(case, bare).grad.shape == SHAPE


@pytest.mark.parametrize("case", CASES)
def test_contract_learn_keeps_the_states_structure(case):
    """One training step's call, with every argument of the contract."""
    estimator, p = make(case), made_prior()

    def step(key):
        zs, ts = np.stack([Z, Z + 1]), np.int32([20, 900])
        keys = jax.random.split(key)
        state = estimator.init(p, key, Z)

        def one(key, z, t):
            return estimator.estimate(p, key, state, z, t, None)

        estimates = jax.vmap(one)(keys, zs, ts)
        linear = Linear(lambda g: (g.sum(0),), lambda d: jnp.stack([d[0], d[0]]))
        return state, estimator.learn(p, key, state, zs, ts, None, estimates, linear)

    before, after = jax.eval_shape(step, KEY)
    assert jax.tree.structure(before) == jax.tree.structure(after)
    # weak types count as well: a change would trace the training step twice
    kinds = [
        jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.weak_type), state)
        for state in (before, after)
    ]
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused_before_anything_is_compiled(case):
    with pytest.raises(ValueError, match="sigma2"):
        make(case, weighting="sigma")
    with pytest.raises(TypeError, match="scale_of_guidance"):
        make(case, scale_of_guidance=3.0)
    estimator = make(case)
    for t in (-1, 1000):
        with pytest.raises(ValueError, match=r"0\.\.999"):
            estimator.estimate(made_prior(), KEY, (), Z, jnp.int32(t), None)


@pytest.mark.parametrize("part", NEEDS)
def test_a_prior_that_lacks_something_is_refused(part):
    for case in NEEDS[part]:
        with pytest.raises(ValueError, match=part[:4]) as caught:
            make(case).init(prior()._replace(**{part: None}), KEY, Z)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("case", "bad", "word"),
    [
        ("ssd", {"threshold": -1}, "threshold"),
        ("ssd", {"reduction": "half"}, "adaptive"),
        ("csd", {"negative": 0.5}, "negative"),
        ("csd", {"anneal_steps": 0}, "anneal_steps"),
        ("nfsd", {"switch_time": -1}, "switch_time"),
        ("stein", {"baseline": "edges"}, "normal"),
        ("stein", {"fit": "pixel"}, "element"),
        ("stein", {"fit_space": "x"}, "theta"),
        ("stein", {"decay": 1.0}, "decay"),
        ("vsd", {"drop_camera": 2.0}, "drop_camera"),
        ("denoised_l2", {"steps": 0}, "steps"),
        ("denoised_l2", {"eta": -0.1}, "eta"),
        ("sds_plus", {"lambda_rgb": -1.0}, "lambda_rgb"),
        ("sds_plus", {"lambda_rgb": 0.0, "lambda_latent": 0.0}, "both 0"),
        ("ism", {"delta": 0}, "delta"),
        ("sdi", {"eta": 1.5}, "eta"),
        ("pds", {"stride": 0}, "stride"),
    ],
)
def test_bad_hyperparameters_are_named(case, bad, word):
    with pytest.raises(ValueError, match=word) as caught:
        make(case, **bad)
    assert "\n" not in str(caught.value)


def test_the_threshold_of_ssd_has_no_default():
    with pytest.raises(TypeError, match="threshold"):
        ESTIMATORS["ssd"](SCHEDULE)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_hyperparameters_are_keyword_only_and_weighting_is_one(name):
    first, *others = inspect.signature(ESTIMATORS[name]).parameters.values()
    assert first.name == "schedule"
    assert all(p.kind is p.KEYWORD_ONLY for p in others)
    assert "weighting" in [p.name for p in others]

"""The proposal: its bound and loss by a loop, and whom the loss moves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jitted import orbit_camera
from small_field import KEY, SMALL, blob, in_a_hurry

from sdsjax.render.raymarching import importance_sampling as steps
from sdsjax.representations.radiance_field.representation import nerf


def histograms(seed=0):
    rng = np.random.default_rng(seed)
    inner = np.sort(rng.random((4, 8)), axis=-1)
    edges = np.sort(rng.random((4, 6)), axis=-1)
    edges[:, 0], edges[:, -1] = 0, 1
    return inner, rng.random((4, 7)), edges, 0.3 * rng.random((4, 5))


def test_bound_and_loss_equal_their_definition():
    inner, seen, edges, weights = histograms()
    edges[2, 1] = inner[2, 3]  # bins that touch do not overlap
    bound, loss = np.zeros((4, 7)), np.zeros(4)
    for ray in range(4):
        for i in range(7):
            for j in range(5):
                low = max(inner[ray, i], edges[ray, j])
                if low < min(inner[ray, i + 1], edges[ray, j + 1]):
                    bound[ray, i] += weights[ray, j]
            excess = max(0.0, seen[ray, i] - bound[ray, i])
            loss[ray] += excess**2 / (seen[ray, i] + 1e-7)
    assert (loss > 0).all()
    assert (bound > seen).any()
    arguments = [np.float32(a) for a in (inner, seen, edges, weights)]
    got = jax.jit(steps.outer_bound)(arguments[0], *arguments[2:])
    np.testing.assert_allclose(got, bound, rtol=1e-5)
    got = jax.jit(steps.interlevel_loss)(*arguments)
    np.testing.assert_allclose(got, loss, rtol=1e-5)


def test_what_bounds_itself_costs_nothing():
    inner, seen, edges, weights = map(np.float32, histograms())
    loss = jax.jit(steps.interlevel_loss)
    np.testing.assert_array_equal(loss(inner, seen, inner, seen), 0)
    # a coarser histogram of the same weights is a bound too
    coarser, pairs = inner[:, ::2][:, :4], seen[:, :6].reshape(4, 3, 2).sum(axis=-1)
    covered = loss(inner[:, :7], seen[:, :6], coarser, pairs)
    np.testing.assert_allclose(covered, 0, atol=1e-12)
    total = lambda *a: steps.interlevel_loss(*a).sum()  # noqa: E731
    slope = jax.jit(jax.grad(total, argnums=(0, 1, 2, 3)))
    slopes = jax.device_get(slope(inner, seen, edges, weights))
    assert [bool(a.any()) for a in slopes] == [False, False, False, True]
    nothing = slope(inner, 0 * seen, edges, 0 * weights)
    assert all(np.isfinite(a).all() for a in nothing)


@pytest.mark.slow
def test_each_loss_moves_its_own_parameters_and_the_proposal_learns():
    representation = nerf(
        **SMALL, proposal=1, losses={"interlevel": 1.0}, blob_scale=0.0, chunk=20
    )
    params, state = jax.jit(representation.init)(KEY)
    # a field with walls, of which the proposal knows nothing
    params = params._replace(tables=tuple(3e5 * t for t in params.tables))
    camera = orbit_camera(30.0, 20.0, 3.0, width=6, height=6)

    def losses(params):
        drawn = representation.render(params, state, camera, KEY)
        total, _ = representation.regularize(params, state, drawn, 0)
        return jnp.stack([total, jnp.sum(drawn.rgb**2)])

    def pulled(params, weights):
        values, pull = jax.vjp(losses, params)
        return values, pull(weights)[0]

    params = jax.device_get(params)
    penalty, picture = np.eye(2, dtype=np.float32)
    step = in_a_hurry(jax.jit(pulled), params, penalty)
    (first, _), of_penalty = jax.device_get(step(params, penalty))
    _, of_picture = jax.device_get(step(params, picture))
    assert first > 1e-3
    for name, leaves in of_penalty._asdict().items():
        moved = [bool(a.any()) for a in jax.tree.leaves(leaves)]
        assert moved == [name == "proposal"] * len(moved), name
    for name, leaves in of_picture._asdict().items():
        moved = [bool(a.any()) for a in jax.tree.leaves(leaves)]
        assert moved == [name != "proposal"] * len(moved), name
    optimizer = optax.adam(0.02)
    moments = optimizer.init(params.proposal)

    @jax.jit
    def learn(proposal, slope, moments):
        change, moments = optimizer.update(slope, moments)
        return optax.apply_updates(proposal, change), moments

    for _ in range(20):
        slope = step(params, penalty)[1].proposal
        proposal, moments = learn(params.proposal, slope, moments)
        params = params._replace(proposal=proposal)
    assert step(params, penalty)[0][0] < 0.5 * first


@pytest.mark.slow
def test_points_of_a_proposal_see_no_more_haze_than_many_points_do():
    """Their outermost bins do not reach to the ends of the way."""
    camera = orbit_camera(30.0, 20.0, 3.0, width=6, height=6)
    guided = {"proposal": 1, "losses": {"interlevel": 1.0}, "kernel": 1}
    opacities = []
    for settings in ({"coarse": 16, "fine": 64}, {"coarse": 16, "fine": 16, **guided}):
        representation, params, state = blob(
            blob_scale=4.0, blob_radius=0.6, **settings
        )
        draw = jax.jit(
            lambda p, r=representation, s=state: r.render(p, s, camera, None)
        )
        opacities.append(in_a_hurry(draw, params)(params).opacity)
    assert opacities[0].min() < 0.7
    np.testing.assert_allclose(*opacities, atol=0.03)

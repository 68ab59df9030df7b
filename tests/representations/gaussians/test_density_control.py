"""Density control's rules, each by hand on few rows, and on the picture they leave."""

import jax
import numpy as np
import pytest
from few_rows import (
    KEY,
    OFTEN,
    adapted,
    logit,
    nothing_seen,
    params_of,
    relocated,
    seen,
    sigmoid,
)
from jitted import orbit_camera

from sdsjax.render.splatting.rasterize import rasterize_reference
from sdsjax.representations.gaussians import (
    GaussianParams,
    GaussianState,
    as_gaussians,
    gaussians,
)
from sdsjax.representations.gaussians.density_control import (
    CONTROLS,
    make_density_control,
)
from sdsjax.representations.gaussians.density_control.edits import is_due
from sdsjax.training.optimizers import edit_moments, grouped_adam


def test_a_small_gaussian_with_a_high_gradient_is_cloned():
    params = params_of([0.5, 0.4, 0.3, 0.2])
    got, alive, tally, edit = adapted(
        params, [1, 1, 1, 0], [0.5, 0.9, 0.1, 5.0], threshold=0.5
    )
    for name in params._fields:
        before, after = getattr(params, name), getattr(got, name)
        np.testing.assert_array_equal(after[3], before[1], err_msg=name)
        np.testing.assert_array_equal(after[:3], before[:3], err_msg=name)
    assert alive.tolist() == [True] * 4
    assert edit.source.tolist() == [0, 1, 2, 1]
    assert edit.reset.tolist() == [False, False, False, True]
    assert (int(tally.counts.cloned), int(tally.counts.split)) == (1, 0)
    assert np.abs(tally.gradient).sum() + tally.seen.sum() == 0
    assert int(edit.aux["alive"]) == 4
    assert int(edit.aux["shortfall"]) == 0  # row 0 is at the threshold, not above


def test_a_large_one_is_split_into_two_draws_of_itself():
    n = 4001
    params = params_of(np.full(n, 0.5), 0.2)
    params = jax.tree.map(lambda a: np.repeat(a[:1], n, 0), params)
    params = params._replace(
        log_scales=np.log(np.tile(np.float32([0.3, 0.2, 0.1]), (n, 1)))
    )
    alive = np.arange(n) < 2001
    got, alive, tally, edit = adapted(
        params, alive, np.ones(n), threshold=0.5, clone_scale=0.1
    )
    assert int(tally.counts.split) == 2000
    assert int(edit.aux["shortfall"]) == 1  # 2001 wanted, 2000 rows were free
    parted = edit.reset
    assert parted.sum() == 4000
    np.testing.assert_allclose(
        got.log_scales[parted], params.log_scales[parted] - np.log(1.6), rtol=1e-6
    )
    offset = (got.means - params.means)[parted]
    from sdsjax.render.splatting.project import rotation_columns

    rotation = np.array(jax.jit(rotation_columns)(params.quats[:1]))[..., 0]
    own = offset @ rotation  # R^T offset: along the Gaussian's own axes
    # five standard errors of a standard deviation of 4000 draws
    np.testing.assert_allclose(own.std(axis=0), [0.3, 0.2, 0.1], rtol=0.06)
    assert np.abs(np.corrcoef(own.T) - np.eye(3)).max() < 0.08


def test_the_faint_and_the_large_die_and_make_room():
    params = params_of([0.004, 0.5, 0.006, 0.5], [0.05, 0.05, 0.05, 2.0])
    got, alive, tally, edit = adapted(
        params, [1] * 4, [9.0, 9.0, 0.0, 9.0], threshold=0.5, prune_scale=1.0
    )
    # rows 0 and 3 died; row 1 moved into the first free one
    assert alive.tolist() == [True, True, True, False]
    np.testing.assert_array_equal(got.means[0], params.means[1])
    assert edit.reset.tolist() == [True, False, False, True]
    assert int(tally.counts.pruned) == 2
    assert int(edit.aux["alive"]) == 3


def test_capacity_falls_to_the_highest_gradients_and_the_rest_is_reported():
    params = params_of([0.5] * 4)
    _, _, tally, edit = adapted(
        params, [1, 1, 1, 0], [0.6, 0.8, 0.7, 0.0], threshold=0.5
    )
    assert edit.source.tolist() == [0, 1, 2, 1]
    assert int(tally.counts.shortfall) == int(edit.aux["shortfall"]) == 2


def test_gradients_are_means_over_the_views_that_saw_the_gaussian():
    """0.3 a view over two views; hidden in one of them the mean is 0.6."""
    params = params_of([0.5] * 4)
    _, _, tally, edit = adapted(
        params, [1, 1, 0, 0], [0.3, 0.3, 0.0, 0.0], threshold=0.5, hidden=[(1, 1)]
    )
    assert edit.source.tolist() == [0, 1, 1, 3]
    assert int(tally.counts.cloned) == 1
    # the report is the mean over alive rows, of what was gathered before the edit
    np.testing.assert_allclose(edit.aux["gradient"], (0.3 + 0.6) / 2, rtol=1e-6)


def test_views_add_up_until_an_edit_is_due():
    control = make_density_control(
        "3dgs", {**OFTEN, "every": 3, "start": 6, "reset_every": 0}
    )
    params, alive = params_of([0.5] * 3), np.ones(3, bool)
    state = (params, alive, nothing_seen(3))
    edit = jax.jit(control.edit)
    for step in range(6):
        made = edit(KEY, np.int32(step), *state, seen([1.0, 2.0, 0.0]))
        *state, moved = jax.device_get(made)
        if step < 5:
            np.testing.assert_allclose(state[2].seen, 2.0 * (step + 1))
            # two views a step, each of gradient 1, 2 and 0
            np.testing.assert_allclose(
                state[2].gradient, 2.0 * (step + 1) * np.array([1.0, 2.0, 0.0])
            )
            assert not bool(moved.reset.any())
    np.testing.assert_array_equal(state[2].seen, 0.0)
    assert int(state[2].counts.shortfall) == 2


def test_edits_are_due_from_their_start_to_their_stop():
    """Every 3 updates; the first after 6 of them, the last after 9."""
    due = [s for s in range(20) if is_due(np.int32(s), 3, 6, 9)]
    assert due == [5, 8]
    assert [s for s in range(12) if is_due(np.int32(s), 3, 6, None)] == [5, 8, 11]


def test_opacities_are_lowered_when_a_reset_is_due():
    params = params_of([0.5, 0.005, 0.9])
    got, *_, edit = adapted(
        params, [1] * 3, [0.0] * 3, prune=0.001, reset_every=1, reset_opacity=0.01
    )
    opacity = sigmoid(got.opacity_logits)
    np.testing.assert_allclose(opacity, [0.01, 0.005, 0.01], rtol=1e-5)
    assert edit.reset.tolist() == [True, False, True]


def test_stabledreamer_decays_opacities_at_each_edit_only():
    params = params_of([0.5, 0.1])
    for step, want in ((1, [0.5, 0.1]), (3, [0.45, 0.09])):
        got, *_ = adapted(
            params, [1, 1], [0.0, 0.0], "stabledreamer", np.int32(step),
            every=4, decay=0.9,
        )  # fmt: skip
        np.testing.assert_allclose(sigmoid(got.opacity_logits), want, rtol=1e-5)


def test_dead_ones_move_onto_the_living():
    params = params_of([0.8, 0.001, 0.002, 0.5])
    got, alive, counts, edit = relocated(params, [1, 1, 1, 0])
    source = edit.source.tolist()
    assert source == [0, 0, 0, 3]  # row 3 is not alive: neither source nor target
    assert alive.tolist() == [True, True, True, False]
    assert edit.reset.tolist() == [True, True, True, False]
    assert int(counts.relocated) == 2
    shared = 1 - (1 - 0.8) ** (1 / 3)
    np.testing.assert_allclose(sigmoid(got.opacity_logits[:3]), shared, rtol=1e-5)
    np.testing.assert_array_equal(got.means[1], params.means[0])
    np.testing.assert_array_equal(got.log_scales[0], got.log_scales[2])
    np.testing.assert_array_equal(got.means[3], params.means[3])


def test_no_more_than_51_share_a_place():
    """arXiv 2404.09591's code: 59 dead move onto one, as if they were 50."""
    got, *_ = relocated(params_of([0.8] + [0.001] * 59), [1] * 60)
    want = 1 - (1 - 0.8) ** (1 / 51)
    np.testing.assert_allclose(sigmoid(got.opacity_logits), want, rtol=1e-4)


def test_free_rows_are_filled_by_the_share_asked_for():
    params = params_of([0.5] * 60)
    alive = np.arange(60) < 5
    _, after, counts, edit = relocated(params, alive, growth=0.4)
    assert after.tolist() == [True] * 7 + [False] * 53
    assert int(counts.cloned) == 2
    assert all(edit.source[i] < 5 for i in (5, 6))
    _, after, _, _ = relocated(params, alive, growth=10.8)
    assert after.tolist() == [True] * 59 + [False]
    _, after, _, _ = relocated(params, alive, growth=90.0)
    assert all(after.tolist())


def test_without_the_living_nothing_moves_and_that_is_said():
    _, alive, counts, edit = relocated(params_of([0.001] * 3), [1, 1, 0])
    assert alive.tolist() == [True, True, False]
    assert not bool(edit.reset.any())
    assert int(counts.shortfall) == 2


def test_noise_moves_the_faint_along_their_covariance():
    n = 4000
    params = params_of(np.full(n, 0.005))
    params = params._replace(
        log_scales=np.tile(np.log(np.float32([0.4, 0.2, 0.1])), (n, 1)),
        quats=np.tile(np.float32([1.0, 0, 0, 0]), (n, 1)),
    )
    settings = {"noise": lambda step: 2.0 + 0 * step, "every": 100}
    got, *_ = relocated(params, [1] * n, **settings)
    offset = got.means - params.means
    # sigmoid(0) = 1/2 at the opacity where Gaussians die; Sigma = diag(s^2)
    np.testing.assert_allclose(offset.std(axis=0), [0.16, 0.04, 0.01], rtol=0.06)
    # the same eps at an opacity of 0.01 more: sigmoid(-1) in the place of 1/2
    fainter = params._replace(opacity_logits=logit(np.full(n, 0.015)))
    less, *_ = relocated(fainter, [1] * n, **settings)
    share = np.std(less.means - params.means) / np.std(offset)
    np.testing.assert_allclose(share, 2 / (1 + np.e), rtol=1e-3)
    solid, *_ = relocated(
        params._replace(opacity_logits=logit(np.full(n, 0.5))), [1] * n, **settings
    )
    assert np.abs(solid.means - params.means).max() < 1e-6
    dead, *_ = relocated(params, [0] * n, **settings)
    np.testing.assert_array_equal(dead.means, params.means)


@pytest.fixture(scope="module")
def cloud():
    """40 of 60 rows alive, large enough to touch, and their pictures."""
    rng = np.random.default_rng(3)
    direction = rng.normal(size=(60, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    params = GaussianParams(
        means=0.6 * rng.random((60, 1)) ** (1 / 3) * direction,
        log_scales=np.log(0.14) + rng.normal(0, 0.3, (60, 3)),
        quats=rng.normal(size=(60, 4)),
        opacity_logits=np.full(60, logit(0.6)),
        sh=rng.normal(size=(60, 1, 3)),
    )
    params = jax.tree.map(np.float32, params)
    state = GaussianState(np.arange(60) < 40)
    cameras = [orbit_camera(a, 15.0, width=48, height=48) for a in (0.0, 100.0)]

    @jax.jit
    def picture(params, state, camera):
        return rasterize_reference(
            as_gaussians(params, state), camera, background=np.ones(3, np.float32)
        ).rgb

    def pictures(params, state):
        return np.stack([picture(params, state, camera) for camera in cameras])

    return params, state, pictures


@pytest.mark.slow
def test_the_picture_survives_relocation(cloud):
    params, state, pictures = cloud
    before = pictures(params, state)
    got, alive, counts, _ = relocated(params, state.alive, growth=0.5)
    assert int(counts.cloned) == 20
    after = pictures(got, state._replace(alive=alive))
    naive = pictures(
        got._replace(
            opacity_logits=np.full(60, logit(0.6)),
            log_scales=params.log_scales[
                relocated(params, state.alive, growth=0.5)[3].source
            ],
        ),
        state._replace(alive=alive),
    )
    error, without = (np.abs(a - before).mean() for a in (after, naive))
    assert error < 0.004
    assert error < 0.4 * without


def test_a_shared_clone_leaves_the_centre_as_it_was(cloud):
    params, state, pictures = cloud
    before = pictures(params, state)
    errors = {}
    for shared in (True, False):
        got, alive, tally, _ = adapted(
            params, state.alive, np.ones(60), threshold=0.5, shared=shared,
            clone_scale=10.0,
        )  # fmt: skip
        assert int(tally.counts.cloned) == 20
        after = pictures(got, state._replace(alive=alive))
        errors[shared] = np.abs(after - before).mean()
    assert errors[True] < 0.01
    assert errors[True] < 0.6 * errors[False]


def test_moments_of_moved_rows_are_zeroed_and_others_kept():
    params = params_of([0.8, 0.001, 0.5, 0.6])
    optimizer = grouped_adam(dict.fromkeys(params._fields, 0.1), fields=params._fields)
    grads = jax.tree.map(lambda p: 1 + p, params)
    begin = jax.jit(lambda g, p: optimizer.update(g, optimizer.init(p), p)[1])
    opt_state = jax.device_get(begin(grads, params))
    *_, edit = adapted(params, [1, 1, 1, 0], [9.0, 0, 0, 0], threshold=0.5)
    # row 0 is cloned, row 1 dies and takes the copy, row 3 stays free
    assert edit.reset.tolist() == [False, True, False, False]
    after = jax.device_get(jax.jit(edit_moments)(params, opt_state, edit))
    moments = [
        (a, b)
        for a, b in zip(jax.tree.leaves(opt_state), jax.tree.leaves(after))
        if a.ndim and a.shape[0] == 4
    ]
    assert len(moments) == 10
    for old, new in moments:
        np.testing.assert_array_equal(new[1], 0)
        np.testing.assert_array_equal(new[0], old[0])
        np.testing.assert_array_equal(new[2], old[2])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"control": "3dsg"}, "'3dsg'.*none, 3dgs"),
        ({"control": "mcmc", "control_threshold": 0.1}, "control_threshold.*_growth"),
        ({"control_every": 5}, "'none' does not take control_every"),
        ({"control": "3dgs", "control_every": 0}, "at least 1"),
        ({"control": "3dgs", "control_decay": 1.5}, r"in 0\.001\.\.1"),
        ({"init_count": 0}, "init_count=0: at least one"),
    ],
)
def test_bad_settings_are_one_clear_line(settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        gaussians(**{"count": 5, **settings})
    assert "\n" not in str(caught.value)


def test_every_rule_takes_the_settings_that_the_factory_offers():
    import inspect

    offered = {
        name.removeprefix("control_")
        for name in inspect.signature(gaussians).parameters
        if name.startswith("control_")
    }
    taken = {
        name
        for factory in CONTROLS.values()
        if factory
        for name in inspect.signature(factory).parameters
    }
    assert offered == taken

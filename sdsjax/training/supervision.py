"""What a run asks of its renderings besides the estimator: penalties of a step.

A penalty is `seen -> {name: weighted scalar}`, pure, added to the regulariser;
`PenaltyInputs` is what it may look at. Renderings and images carry a leading axis of
the step's n views; rgb and opacity in [0, 1], x in [-1, 1], disparity 1 / depth up to
scale and shift. A penalty's arrays travel with the prior's parameters (`attach`):
closed over, they would become constants.
Sources: HiFA (arXiv 2305.18766), eq. 6 and sec. 5.4.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sdsjax import losses as loss
from sdsjax.files.reference_images import Reference
from sdsjax.types import Array, Prior, PriorSource, PyTree, Rendering, Representation


class PenaltyInputs(NamedTuple):
    """What a penalty may look at, of one step.

    prior, bound; prior_params, what it was bound from; params and rep_state of the
    representation; x [n h w 3] or None and renderings [n ...] of the step's views;
    step; key, of this step alone."""

    prior: Prior
    prior_params: PyTree
    params: PyTree
    rep_state: PyTree
    x: Array | None
    renderings: Rendering
    step: Array
    key: Array | None


Penalty = Callable[[PenaltyInputs], dict[str, Array]]


def combine_penalties(*penalties: Penalty) -> Penalty | None:
    """Combines penalties into one, None without any; each draws from its own key."""

    def all_of(seen: PenaltyInputs) -> dict[str, Array]:
        assert seen.key is not None
        keys = jax.random.split(seen.key, len(penalties))
        terms: dict[str, Array] = {}
        for penalty, key in zip(penalties, keys):
            terms |= penalty(seen._replace(key=key))
        return terms

    return all_of if penalties else None


class Attached(NamedTuple):
    """A prior's own parameters, and a reference that travels with them."""

    prior: PyTree
    reference: Reference


def attach(source: PriorSource, reference: Reference) -> PriorSource:
    """Attaches a reference to a prior, whose parameters then carry it."""
    return source._replace(
        params=Attached(source.params, reference),
        bind=lambda params: source.bind(params.prior),
    )


def fit_size(picture: Array, size: tuple[int, ...]) -> Array:
    """Resizes a picture [h w] or [h w c], smoothed where it shrinks."""
    if picture.shape[:2] == size:
        return picture
    shape = (*size, *picture.shape[2:])
    return jax.image.resize(picture, shape, "bilinear", antialias=True)


def depth_penalty(weight: float, total: int) -> Penalty:
    """Makes `depth`, the mismatch of rendered and estimated disparity.

    The mean over views of the mismatch between rendered disparity and the prior's
    monocular estimate of the rendered image, its weight falling linearly to 0 over the
    `total` steps of the run (HiFA, eq. 6).
    """

    def penalty(seen: PenaltyInputs) -> dict[str, Array]:
        assert seen.prior.monocular is not None
        monocular = seen.prior.monocular

        def one(x, depth, opacity):
            disparity, _ = monocular(x)
            disparity = fit_size(disparity.astype(depth.dtype), depth.shape)
            return loss.disparity_mismatch(depth, opacity, disparity)

        drawn = seen.renderings
        x = jax.lax.stop_gradient(seen.x)
        each = jax.vmap(one)(x, drawn.depth, drawn.opacity)
        left = jnp.maximum(1.0 - seen.step / total, 0.0)
        return {"depth": weight * left * jnp.mean(each)}

    return penalty


def one_view(reference: Reference, index: Array, size: tuple[int, ...]) -> Reference:
    """Picks view `index`, without the leading axis, at another height and width."""
    view: Any = jax.tree.map(lambda leaf: leaf[index], reference)
    height, width = size
    scale = jnp.array([width / view.cameras.width, height / view.cameras.height])
    camera = dataclasses.replace(
        view.cameras,
        focal=view.cameras.focal * scale,
        principal=view.cameras.principal * scale,
        width=width,
        height=height,
    )
    disparity = None if view.disparity is None else fit_size(view.disparity, size)
    return Reference(
        fit_size(view.rgb, size), fit_size(view.mask, size), camera, disparity
    )


def reference_terms(view: Reference, drawn: Rendering, background: Array):
    """Returns {rgb, mask, depth: scalars} of a rendering against a given view.

    The rendering is on white. Mean squared differences of the pictures, both over
    `background` [3], and of the masks, and the mismatch of disparities within the given
    mask.
    """
    uncovered = 1.0 - drawn.opacity[..., None]
    # over any background: what was drawn on white, less that white
    ours = drawn.rgb + uncovered * (background - 1.0)
    theirs = view.rgb + (1.0 - view.mask[..., None]) * background
    terms = {
        "rgb": jnp.mean((ours - theirs) ** 2),
        "mask": jnp.mean((drawn.opacity - view.mask) ** 2),
    }
    if view.disparity is not None:
        inside = jnp.where(view.mask > loss.OPAQUE, drawn.opacity, 0.0)
        terms["depth"] = loss.disparity_mismatch(drawn.depth, inside, view.disparity)
    return terms


def reference_penalty(
    representation: Representation, weights: Mapping[str, float], until_step: int = 0
) -> Penalty:
    """Makes the penalties of one given view a step.

    `reference_rgb`, `reference_mask`, `reference_depth`: a view drawn from the key
    against the asset at its camera and the step's resolution. weights: of rgb, mask and
    depth, 0 leaves one out; until_step: steps with the reference, after which the
    estimator is alone (HiFA's image-guided hallucination, app. A.5) and nothing is
    drawn; 0: all of them.
    """
    wanted = {name: weight for name, weight in weights.items() if weight}

    def penalty(seen: PenaltyInputs) -> dict[str, Array]:
        assert seen.key is not None
        reference = seen.prior_params.reference
        key_view, key_background = jax.random.split(seen.key)
        index = jax.random.randint(key_view, (), 0, reference.mask.shape[0])
        view = one_view(reference, index, seen.renderings.opacity.shape[-2:])
        background = jax.random.uniform(key_background, (3,))

        def compare(params):
            # no key: on white, from the middle of every stratum, as it is exported
            drawn = representation.render(params, seen.rep_state, view.cameras, None)
            terms = reference_terms(view, drawn, background)
            return {name: weight * terms[name] for name, weight in wanted.items()}

        def nothing(params):
            del params
            return dict.fromkeys(wanted, jnp.zeros(()))

        if not until_step:
            terms = compare(seen.params)
        else:
            early = seen.step < until_step
            terms = jax.lax.cond(early, compare, nothing, seen.params)
        return {f"reference_{name}": value for name, value in terms.items()}

    return penalty

"""The contracts between the rooms: pairs of pure functions and the pytrees they pass.

Shapes: z `[h w c]` (or any shape for exact priors), x `[h w 3]` in [-1, 1], rgb in
[0, 1], t a scalar int32, theta any pytree. Priors, representations and estimators never
import each other; what crosses between them is defined here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from sdsjax.cameras import Camera
from sdsjax.diffusion import NoiseSchedule

Array = jax.Array
PyTree = Any


class NoisePrediction(NamedTuple):
    """Noise predictions, z's shape; None for a branch that was not asked for."""

    cond: Array | None = None
    uncond: Array | None = None
    negative: Array | None = None


class Rendering(NamedTuple):
    """One view as a representation renders it.

    rgb [h w 3] in [0, 1]; opacity [h w]; depth [h w] (camera z, normalised by opacity);
    normal [h w 3] (world); aux: anything else.
    """

    rgb: Array
    opacity: Array
    depth: Array
    normal: Array
    aux: PyTree = None


class View(NamedTuple):
    """One view: its camera and its rendering (None where nothing was rendered)."""

    camera: Camera | None
    rendering: Rendering | None = None


class Adapter(NamedTuple):
    """VSD's second network: init: key -> psi; noise: (psi, z_t, t, view) -> eps."""

    init: Callable[[Array], PyTree]
    noise: Callable[[PyTree, Array, Array, View | None], Array]


class Source(NamedTuple):
    """What is edited, in a prior bound for editing.

    noise: as `Prior.noise`, of the source prompt; latent: view -> z of the source asset
    as that view shows it (of a group: [g h w c]).
    """

    noise: Callable[..., NoisePrediction]
    latent: Callable[[View | None], Array]


class Prior(NamedTuple):
    """A diffusion model with parameters and prompt already bound, inside jit.

    noise: (z_t, t, view, branches=("cond", "uncond")) -> NoisePrediction, for ONE z_t;
    `branches` is static. encode: x -> z. decode: z -> x. monocular: x -> (disparity
    [h w], normal [h w 3]).
    group: how many views one call of `noise` sees together, static. Where it is g > 1
    a sample is z [g h w c] with one scalar t, and `view` has a leading axis g on its
    camera and rendering; encode and decode take one view, or map over that axis.
    source: what is edited, None where nothing is.
    """

    schedule: NoiseSchedule
    noise: Callable[..., NoisePrediction]
    encode: Callable[[Array], Array]
    decode: Callable[[Array], Array] | None = None
    monocular: Callable[[Array], tuple[Array, Array]] | None = None
    adapter: Adapter | None = None
    group: int = 1
    source: Source | None = None


class Estimate(NamedTuple):
    """An estimator's gradient for one view.

    grad: descent direction in z, times w(t). aux: what a person wants to see (a dict of
    scalars or z-shaped arrays). image_grad: the same on the image x.
    """

    grad: Array
    aux: dict[str, Array]
    image_grad: Array | None = None


class Linear(NamedTuple):
    """The renderer linearised: pullback g_z -> g_theta, pushforward d_theta -> d_z."""

    pullback: Callable[[Array], PyTree]
    pushforward: Callable[[PyTree], Array]


def keep_state(prior, key, state, zs, ts, views, estimates, linear):
    """Returns the state as it was: the default `learn` of an estimator."""
    del prior, key, zs, ts, views, estimates, linear
    return state


class Estimator(NamedTuple):
    """A score-distillation estimator.

    init: (prior, key, z_spec) -> state; estimate: (prior, key, state, z, t, view) ->
    Estimate, pure, ONE sample (a view, or a group of them; vmap outside), reads state;
    learn: (prior, key, state, zs, ts, views, estimates, linear) -> state.
    """

    init: Callable[..., PyTree]
    estimate: Callable[..., Estimate]
    learn: Callable[..., PyTree] = keep_state


class RowEdit(NamedTuple):
    """What density control did to the rows of the parameters.

    Row i now holds what row source[i] held, and its optimizer moments are zeroed where
    reset[i] is true. aux: scalars by name, for a person to see (a dict or nothing).
    """

    source: Array
    reset: Array
    aux: PyTree = ()


class Representation(NamedTuple):
    """A thing that is optimised and rendered.

    init: key -> (params, state); render: (params, state, camera, key) -> Rendering;
    space: "image" (rgb is an image) or "latent" (rgb is a latent z); regularize:
    (params, state, renderings, step) -> (scalar, dict of terms); control: (key, step,
    params, state, aux) -> (params, state, RowEdit) or None; aux has the step's `grads`
    and `renderings` [n ...]. probe: params -> zeros that `render` takes as a fifth
    argument, or None; their gradient, summed over the views of a step, comes to
    `control` as aux["probe"]. field: (params, state, points [n 3]) -> (density [n] per
    world unit, rgb [n 3]), or None; for a mesh.
    """

    init: Callable[[Array], tuple[PyTree, PyTree]]
    render: Callable[..., Rendering]
    space: str
    regularize: Callable[[PyTree, PyTree, Rendering, Array], tuple[Array, dict]]
    control: Callable[..., tuple[PyTree, PyTree, RowEdit]] | None = None
    probe: Callable[[PyTree], PyTree] | None = None
    field: Callable[..., tuple[Array, Array]] | None = None


class PriorSource(NamedTuple):
    """A prior before it is bound.

    params travel into the jitted step as an argument (closed over, they would become
    constants); bind: params -> Prior runs inside. image_shape: the (h, w, c) that
    `encode` takes, None if it takes any.
    """

    params: PyTree
    bind: Callable[[PyTree], Prior]
    image_shape: tuple[int, ...] | None = None

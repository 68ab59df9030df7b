"""Any estimator, pulled towards its denoised image as well: `image_space(base)`.

With d the base's unweighted direction in noise space, zhat = z - (sigma_t / alpha_t) d;
grad = w lambda_latent (z - zhat) and image_grad = w lambda_rgb (x - D(zhat)), D the
prior's decoder, stop-gradient. `sds_plus` is image_space(denoised_l2): HiFA eqs. 2-5,
alg. 1 (arXiv 2305.18766); around vsd it is figs. 19-20.
x = 2 rgb - 1: HiFA's lambda_rgb = .1 for rgb in [0, 1] is .025 for x in [-1, 1].
Losses are sums / 2. Without a rendering (exact priors) x is D(z).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import jax

from sdsjax.diffusion import (
    WEIGHTINGS,
    NoiseSchedule,
    Weighting,
    alpha_sigma,
    weight_function,
)
from sdsjax.estimators.denoised_l2 import denoised_l2
from sdsjax.math import norm
from sdsjax.types import Estimate, Estimator

# The weighting at which a base returns its noise-space direction; others: "one".
NOISE_SPACE = {denoised_l2: "alpha_over_sigma"}


def image_of(prior, z, view, shape) -> jax.Array:
    """Returns x [h w 3] of `shape` in z's dtype: the rendering, or D(z) without one."""
    if view is None or view.rendering is None:
        return prior.decode(z)
    rgb = view.rendering.rgb
    if rgb.shape == z.shape != shape:  # a latent representation renders z itself
        return prior.decode(z)
    x = (2.0 * rgb - 1.0).astype(z.dtype)
    if x.shape != shape:
        x = jax.image.resize(x, shape, "bilinear", antialias=True)
    return x


def check_decoder(prior) -> None:
    """Raises ValueError for a prior that cannot decode."""
    if prior.decode is None:
        raise ValueError(
            "this prior has no decoder, which the image-space loss needs: set "
            "lambda_rgb to 0 or choose a prior with one"
        )


def _check_lambdas(lambda_rgb: float, lambda_latent: float) -> None:
    if lambda_rgb < 0 or lambda_latent < 0 or lambda_rgb + lambda_latent == 0:
        raise ValueError(
            f"image_space: lambda_rgb = {lambda_rgb} and lambda_latent = "
            f"{lambda_latent} must be >= 0 and not both 0"
        )


def image_space(base: Callable[..., Estimator]) -> Callable[..., Estimator]:
    """Makes a factory with base's keyword arguments, `lambda_rgb` and `lambda_latent`.

    base: a factory of this room, such as `vsd`: not the estimator that it makes, and
    not one with an image-space loss already. The new factory's weighting is that of an
    L2 form, "sigma_alpha" by default. lambda_rgb 0 decodes nothing and leaves
    image_grad None. Its estimators raise ValueError in `init` for a prior without a
    decoder.
    """
    if not callable(base):
        raise TypeError("image_space takes an estimator's factory: image_space(vsd)")
    noise_space = NOISE_SPACE.get(base, "one")

    def factory(
        schedule: NoiseSchedule,
        *,
        weighting: Weighting = "sigma_alpha",
        lambda_rgb: float = 0.025,
        lambda_latent: float = 1.0,
        **hyperparameters,
    ) -> Estimator:
        _check_lambdas(lambda_rgb, lambda_latent)
        weight = weight_function(schedule, weighting)
        unweighted = base(schedule, weighting=noise_space, **hyperparameters)
        outer_weight = (
            WEIGHTINGS[weighting] if isinstance(weighting, str) else weighting
        )
        # what the base learns from is weighted as the gradient that is applied
        inner_weight = WEIGHTINGS[noise_space]
        weighted = base(
            schedule,
            weighting=lambda a, s: (
                lambda_latent * outer_weight(a, s) * inner_weight(a, s) * s / a
            ),
            **hyperparameters,
        )

        def init(prior, key, z_spec):
            if lambda_rgb:
                check_decoder(prior)
            return unweighted.init(prior, key, z_spec)

        def estimate(prior, key, state, z, t, view) -> Estimate:
            inner = unweighted.estimate(prior, key, state, z, t, view)
            alpha, sigma = alpha_sigma(schedule, t, z.dtype)
            residual = sigma / alpha * inner.grad
            w = weight(t).astype(z.dtype)
            aux = {**inner.aux, "direction_norm": norm(residual)}
            grad = w * lambda_latent * residual
            if not lambda_rgb:
                return Estimate(grad, aux)
            xhat = jax.lax.stop_gradient(prior.decode(z - residual))
            difference = image_of(prior, z, view, xhat.shape) - xhat
            aux["image_norm"] = norm(difference)
            return Estimate(grad, aux, w * lambda_rgb * difference)

        return Estimator(init, estimate, weighted.learn)

    return _as_though_written_out(factory, base)


def _as_though_written_out(factory: Callable, base: Callable) -> Callable:
    # configs read an estimator's keys from its signature
    own = inspect.signature(factory).parameters
    added = {name: own[name] for name in ("lambda_rgb", "lambda_latent", "weighting")}
    taken = {**inspect.signature(base).parameters, **added}
    signature = inspect.Signature(list(taken.values()))
    factory.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess]
    factory.__name__ = f"image_space({getattr(base, '__name__', base)})"
    return factory


def sds_plus(
    schedule: NoiseSchedule,
    *,
    guidance_scale: float = 100.0,
    guidance_rescale: float = 0.0,
    away_from: str = "uncond",
    weighting: Weighting = "sigma_alpha",
    steps: int = 1,
    stride: int = 250,
    eta: float = 1.0,
    lambda_rgb: float = 0.025,
    lambda_latent: float = 1.0,
) -> Estimator:
    """Makes HiFA's SDS+, which is image_space(denoised_l2).

    steps, stride, eta: the denoising (HiFA: 4, 250, 1), and guidance_rescale,
    away_from: see `denoised_l2`; lambda_latent 0 leaves the image alone, lambda_rgb 0
    the latent alone (fig. 5). aux: denoised_l2's and the norm of x - D(zhat). Raises
    ValueError for values outside their ranges, in `init` for a prior without a decoder.
    """
    return image_space(denoised_l2)(
        schedule,
        guidance_scale=guidance_scale,
        guidance_rescale=guidance_rescale,
        away_from=away_from,
        weighting=weighting,
        steps=steps,
        stride=stride,
        eta=eta,
        lambda_rgb=lambda_rgb,
        lambda_latent=lambda_latent,
    )

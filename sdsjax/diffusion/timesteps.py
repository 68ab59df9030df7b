"""Timestep samplers: functions (key, step, total, shape) -> int32 diffusion times t.

Each has `quantile(u, step, total)`, its inverse distribution function: of a u that is
uniform in [0, 1) it makes a t distributed as the sampler's own, so that strata of u are
strata of t.
`step` counts from 0 and `total` is the run's number of steps (there is no second
number that could disagree with it); i/N below is step / total. Every sampler is pure
and traceable in `key` and `step`. Intervals [low, high] include both ends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Sampler(NamedTuple):
    """A timestep sampler: call it to draw, or ask for its quantiles.

    draw: (key, step, total, shape) -> int32 t of that shape, what a call does;
    quantile: (u, step, total) -> int32 t of u's shape, u in [0, 1), non-decreasing.
    """

    draw: Callable[[jax.Array, jax.Array, int, tuple[int, ...]], jax.Array]
    quantile: Callable[[jax.Array, jax.Array, int], jax.Array]

    def __call__(self, key, step, total, shape) -> jax.Array:
        """Draws int32 times of `shape`."""
        return self.draw(key, step, total, shape)


def _check(**times: int) -> None:
    for name, t in times.items():
        if not 0 <= t <= 999:
            raise ValueError(f"timesteps: {name} = {t} is outside 0..999")
    if times["t_min"] > times["t_max"]:
        raise ValueError(
            f"timesteps: t_min = {times['t_min']} is above t_max = {times['t_max']}"
        )


def _fraction(step: jax.Array, total: int) -> jax.Array:
    return jnp.clip(jnp.asarray(step, jnp.float32) / max(total, 1), 0.0, 1.0)


def evenly(ends: Callable) -> Sampler:
    """Samples evenly the integers of ends(step, total) -> (low, high), both included.

    The ends may be traced.
    """

    def quantile(u, step, total):
        low, high = ends(step, total)
        # Traced ends: randint would recompile nothing but refuses float bounds.
        t = low + jnp.floor(u * (high - low + 1.0))
        return jnp.clip(t, low, high).astype(jnp.int32)

    def draw(key, step, total, shape):
        return quantile(jax.random.uniform(key, shape), step, total)

    return Sampler(draw, quantile)


def _constant(level: Callable[[jax.Array], jax.Array]) -> Sampler:
    # One t a step: all its quantiles.
    def broadcast(step, total, shape):
        t = jnp.round(level(_fraction(step, total))).astype(jnp.int32)
        return jnp.broadcast_to(t, shape)

    return Sampler(
        lambda key, step, total, shape: broadcast(step, total, shape),
        lambda u, step, total: broadcast(step, total, jnp.shape(u)),
    )


def uniform(*, t_min: int = 20, t_max: int = 980) -> Sampler:
    """Samples U[t_min, t_max] throughout (DreamFusion, arXiv 2209.14988)."""
    _check(t_min=t_min, t_max=t_max)
    return evenly(lambda step, total: (t_min, t_max))


def two_phase(
    *, t_min: int = 20, t_max: int = 980, t_end: int = 500, switch: float = 1 / 3
) -> Sampler:
    """Samples U[t_min, t_max] for the first `switch` of the run, then U[t_min, t_end].

    SSD's (sec. 5): 5 000 of 15 000 steps, then [20, 500]; the paper says "anneal" for
    what is a switch.
    """
    _check(t_min=t_min, t_max=t_max, t_end=t_end)

    def ends(step, total):
        late = _fraction(step, total) >= switch
        return t_min, jnp.where(late, t_end, t_max)

    return evenly(ends)


def annealed_window(*, t_min: int = 20, t_max: int = 980, t_end: int = 500) -> Sampler:
    """Samples U[t_min, hi], hi falling linearly from t_max to t_end over the run.

    StableDreamer's annealed noise level, arXiv 2312.02189.
    """
    _check(t_min=t_min, t_max=t_max, t_end=t_end)

    def ends(step, total):
        high = t_max + (t_end - t_max) * _fraction(step, total)
        return t_min, jnp.round(high)

    return evenly(ends)


def falling_window(
    *, t_min: int = 20, t_max: int = 980, t_end: int = 500, until: float = 0.8
) -> Sampler:
    """Samples U[lo, hi], both falling linearly from t_max in the first `until`.

    lo falls to t_min and hi to t_end, where they stay: nothing but coarse shape is
    asked for at first (MVDream's code, arXiv 2308.16512). Raises ValueError for an
    `until` outside 0..1.
    """
    _check(t_min=t_min, t_max=t_max, t_end=t_end)
    if not 0 < until <= 1:
        raise ValueError(f"timesteps: until = {until} must be in 0..1, and not 0")

    def ends(step, total):
        done = jnp.minimum(_fraction(step, total) / until, 1.0)
        low, high = (jnp.round(t_max + (end - t_max) * done) for end in (t_min, t_end))
        return low, high

    return evenly(ends)


def sqrt(*, t_min: int = 20, t_max: int = 980) -> Sampler:
    """Lets t fall as t_max - (t_max - t_min) sqrt(i/N) (HiFA, arXiv 2305.18766)."""
    _check(t_min=t_min, t_max=t_max)
    return _constant(lambda u: t_max - (t_max - t_min) * jnp.sqrt(u))


def linear(*, t_min: int = 20, t_max: int = 980) -> Sampler:
    """Lets t fall linearly from t_max to t_min."""
    _check(t_min=t_min, t_max=t_max)
    return _constant(lambda u: t_max - (t_max - t_min) * u)


def cosine(*, t_min: int = 20, t_max: int = 980) -> Sampler:
    """Lets t fall as t_min + (t_max - t_min) (1 + cos(pi i/N)) / 2."""
    _check(t_min=t_min, t_max=t_max)
    return _constant(
        lambda u: t_min + (t_max - t_min) * 0.5 * (1 + jnp.cos(jnp.pi * u))
    )


def _plateau(t, m1: float, m2: float, s1: float, s2: float):
    above, below = (t - m1) / s1, (t - m2) / s2
    return np.exp(-0.5 * (np.maximum(above, 0.0) ** 2 + np.minimum(below, 0.0) ** 2))


def dreamtime(
    *,
    t_min: int = 20,
    t_max: int = 980,
    m1: int = 800,
    m2: int = 500,
    s1: int = 300,
    s2: int = 100,
) -> Sampler:
    """Lets t fall so that the time spent at each t is proportional to W(t) (TP-SDS).

    W is 1 in m2..m1 and Gaussian beyond, of deviation s1 above and s2 below: t(i) =
    argmin_t' |sum_{t >= t'} W(t) / sum W - i/N| (DreamTime, arXiv 2306.12422; the
    defaults are the published ones as others quote them, the paper is unread). Raises
    ValueError for m2 above m1 or deviations that are not positive.
    """
    _check(t_min=t_min, t_max=t_max)
    if m2 > m1 or min(s1, s2) <= 0:
        raise ValueError(
            f"timesteps: m2 = {m2} must not be above m1 = {m1}, and s1 = {s1}, s2 = "
            f"{s2} must be positive"
        )
    times = np.arange(t_max, t_min - 1, -1)
    spent = np.cumsum(_plateau(times, m1, m2, s1, s2))
    share = jnp.asarray(spent / spent[-1], jnp.float32)
    # a sampler's table, not a parameter: at most a thousand numbers
    falling = jnp.asarray(times, jnp.float32)
    return _constant(lambda u: falling[jnp.argmin(jnp.abs(share - u))])


TIMESTEPS: dict[str, Callable[..., Sampler]] = {
    "uniform": uniform,
    "two_phase": two_phase,
    "annealed_window": annealed_window,
    "falling_window": falling_window,
    "sqrt": sqrt,
    "linear": linear,
    "cosine": cosine,
    "dreamtime": dreamtime,
}

"""How noisy and how biased the mean of an estimator's gradient is, by one measure."""

from __future__ import annotations

from collections.abc import Callable

import jax

from sdsjax.diagnostics.gradient_stats import bias_between, describe_groups
from sdsjax.diagnostics.moments import Draw, observe


def snr_and_cosine(own: Callable, reference: Callable, key, **sizes):
    """Signal over variance of `own`, and its mean's cosine with that of `reference`.

    own, reference: key -> gradient, called with equal keys. sizes: samples, chunk. May
    be traced.
    """

    def sample(key):
        return Draw({"own": own(key), "reference": reference(key)}, {})

    found, _ = observe(sample, key, **sizes)
    bias = bias_between(found["own"], found["reference"])
    return describe_groups(found["own"]).snr, bias.cosine


def as_row(measured) -> dict[str, tuple[float, float]]:
    """{"noise": tr Cov / |E G|^2, "cosine"}, each (value, error)."""
    snr, cosine = jax.device_get(measured)
    value = float(snr.value)
    return {
        "noise": (1 / value, float(snr.error) / value**2),
        "cosine": (float(cosine.value), float(cosine.error)),
    }

"""Means with their standard errors, and differences within pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def mean_error(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """The mean of values [n] and its standard error, NaN for fewer than two values."""
    values = np.asarray(values, np.float64)
    if len(values) < 2:
        return float(values.mean()), float("nan")
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def paired_difference(
    rows: Mapping[tuple, float], base: Mapping[tuple, float]
) -> tuple[float, float, int]:
    """The mean of rows - base over the pairs that both have, its error, their number.

    The mean and its standard error are NaN without any pair.
    """
    both = [pair for pair in rows if pair in base]
    if not both:
        return float("nan"), float("nan"), 0
    return *mean_error([rows[pair] - base[pair] for pair in both]), len(both)

"""Estimators by name: `ESTIMATORS[name](schedule, **hyperparameters) -> Estimator`."""

from collections.abc import Callable

from sdsjax.estimators.sds import sds
from sdsjax.estimators.ssd import ssd
from sdsjax.types import Estimator

ESTIMATORS: dict[str, Callable[..., Estimator]] = {
    "sds": sds,
    "ssd": ssd,
}

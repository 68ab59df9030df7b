"""Estimators by name: `ESTIMATORS[name](schedule, **hyperparameters) -> Estimator`.

`image_space(factory)` adds the loss on the decoded image to any of them. They import
only the ground; training builds them by name.
"""

from collections.abc import Callable

from sdsjax.estimators.csd import csd
from sdsjax.estimators.denoised_l2 import denoised_l2
from sdsjax.estimators.editing import dds, pds
from sdsjax.estimators.image_space import image_space, sds_plus
from sdsjax.estimators.ism import ism
from sdsjax.estimators.nfsd import nfsd
from sdsjax.estimators.sdi import sdi
from sdsjax.estimators.sds import sds
from sdsjax.estimators.ssd import ssd
from sdsjax.estimators.stein import stein
from sdsjax.estimators.terms import (
    mode_disengaging,
    mode_seeking,
    mode_seeking_adaptive,
    mode_seeking_sds,
)
from sdsjax.estimators.vsd import vsd
from sdsjax.types import Estimator

ESTIMATORS: dict[str, Callable[..., Estimator]] = {
    "sds": sds,
    "mode_seeking": mode_seeking,
    "mode_seeking_sds": mode_seeking_sds,
    "mode_seeking_adaptive": mode_seeking_adaptive,
    "mode_disengaging": mode_disengaging,
    "ssd": ssd,
    "csd": csd,
    "nfsd": nfsd,
    "stein": stein,
    "vsd": vsd,
    "denoised_l2": denoised_l2,
    "sds_plus": sds_plus,
    "ism": ism,
    "sdi": sdi,
    "dds": dds,
    "pds": pds,
}

__all__ = ["ESTIMATORS", "image_space"]

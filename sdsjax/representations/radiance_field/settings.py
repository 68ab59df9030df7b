"""The settings of a radiance field, and the checks that they can work."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from sdsjax import losses as loss
from sdsjax.render.spherical_harmonics import degree_of
from sdsjax.representations.backgrounds import check_background
from sdsjax.representations.radiance_field.field import ACTIVATIONS, SCENES
from sdsjax.representations.radiance_field.normals import NORMALS
from sdsjax.representations.regularizers import check_losses, nonzero_weights


class NerfSettings(NamedTuple):
    """The settings of a radiance field, which are the keyword arguments of `nerf`.

    The hash grid (hash_grid.py):
    levels, features, log2_size, base, growth, smooth: its shape; band_first: levels
    that count from the beginning, then one more each `band_every` steps from
    `band_start` on (band_first 0: all levels from the beginning).

    The field (field.py):
    hidden: width of its networks; scene: "box", the cube [-bound, bound]^3, or
    "contracted", all of space, outside the ball of radius `bound` ever more coarsely;
    activation: of the density, "softplus" or "exp"; blob_scale, blob_radius: the blob
    of density that it begins with; view_degree: degree of the spherical harmonics of
    the ray's direction that colours depend on (0: on none); background_degree: the same
    of a learnt background in the place of `background` (0: none).

    Points along rays (ray_sampling.py):
    coarse, fine: points a ray; kernel: width of the smoothing (odd, 1: none); proposal:
    levels of the grid of a proposal, a density of its own that chooses the fine points
    in the place of the field, learns from the loss "interlevel" alone and is a
    parameter group (0: none); occupancy: cells a side of a grid of what is empty (0:
    none); room: the share of a chunk's points that is evaluated where such a grid is
    kept (1: all; of less, those farthest away go without if more are occupied, and
    "dropped" is reported); chunk: rays at once, of each view (0:
    ray_chunks.default_chunk_size).

    Normals, light, losses:
    normals: "analytic" or "finite_difference"; lambertian, textureless: probabilities
    that a view is shaded with and without texture; z_reduction: "mean", "counted" or
    "sum" (losses.reduce_rays); ramp_steps: steps over which the geometric losses rise
    to their weights; background: "random" (a flat colour a view, drawn from the key;
    white without a key), "white" or rgb; losses: weight of each regulariser.
    """

    levels: int
    features: int
    log2_size: int
    base: int
    growth: float
    smooth: bool
    band_first: int
    band_start: int
    band_every: int
    hidden: int
    scene: str
    bound: float
    activation: str
    blob_scale: float
    blob_radius: float
    view_degree: int
    background_degree: int
    coarse: int
    fine: int
    kernel: int
    proposal: int
    occupancy: int
    room: float
    chunk: int
    normals: str
    lambertian: float
    textureless: float
    z_reduction: str
    ramp_steps: int
    background: str | Sequence[float]
    losses: Mapping[str, float] | None

    @property
    def loss_weights(self) -> dict[str, float]:
        """The losses whose weight is not 0, by name."""
        return nonzero_weights(self.losses)


def check_settings(settings: NerfSettings, regularizers: Collection[str]) -> None:
    """Raises ValueError with one line for the first setting that cannot work.

    regularizers: the names that `losses` may weigh.
    """
    values = settings._asdict()
    _check_ranges(values)
    for name in ("view_degree", "background_degree"):
        degree_of((values[name] + 1) ** 2)
    for name, allowed in (
        ("activation", ACTIVATIONS),
        ("scene", SCENES),
        ("normals", NORMALS),
        ("z_reduction", loss.REDUCTIONS),
    ):
        if values[name] not in allowed:
            raise ValueError(
                f"{name}={values[name]!r}: allowed are {', '.join(allowed)}"
            )
    check_background(settings.background)
    check_losses(settings.losses, regularizers)
    _check_together(settings)


def _check_ranges(values: Mapping[str, Any]) -> None:
    for name, low, high in (
        ("band_first", 0, values["levels"]),
        ("band_start", 0, 10_000_000),
        ("band_every", 1, 10_000_000),
        ("hidden", 1, 1024),
        ("bound", 0.01, 1000),
        ("blob_scale", -1000, 1000),
        ("blob_radius", 0.01, 1000),
        ("coarse", 2, 1024),
        ("fine", 0, 1024),
        ("kernel", 1, 99),
        ("proposal", 0, values["levels"]),
        ("occupancy", 0, 512),
        ("room", 0.01, 1),
        ("chunk", 0, 10_000_000),
        ("lambertian", 0, 1),
        ("textureless", 0, 1 - values["lambertian"]),
        ("ramp_steps", 0, 10_000_000),
    ):
        if not low <= values[name] <= high:
            raise ValueError(f"{name} = {values[name]} must be in {low}..{high}")
    if values["kernel"] % 2 == 0:
        raise ValueError(f"kernel = {values['kernel']} must be odd")


def _check_together(settings: NerfSettings) -> None:
    # settings that need one another
    proposal = settings.proposal
    interlevel = (settings.losses or {}).get("interlevel", 0)
    if proposal and not interlevel:
        raise ValueError(
            f"proposal = {proposal} learns from losses.interlevel alone: give that a "
            "weight (1 is mip-NeRF 360's)"
        )
    if interlevel and not proposal:
        raise ValueError(
            f"losses.interlevel = {interlevel} teaches a proposal: give proposal "
            "levels, or interlevel no weight"
        )
    if proposal and settings.fine < 2:
        raise ValueError(
            f"fine = {settings.fine}: with a proposal only the fine points are "
            "seen: 2 or more"
        )
    if settings.occupancy in (1, 2, 3):
        raise ValueError(
            f"occupancy = {settings.occupancy} cells a side: give 0 (none) or 4..512"
        )
    if settings.room < 1 and not settings.occupancy:
        raise ValueError(
            f"room = {settings.room}: points are left out by an occupancy grid: "
            "give occupancy cells a side (32), or room 1"
        )

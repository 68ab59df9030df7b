"""What a radiance field's settings may be, said in one line where one is not."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sdsjax import losses as loss
from sdsjax.render.spherical_harmonics import degree_of
from sdsjax.representations.common import check_background, check_losses
from sdsjax.representations.radiance_field.field import ACTIVATIONS, NORMALS, SCENES


def check(settings: Mapping[str, Any], regularizers: Collection[str]) -> None:
    """Raises ValueError with one line for the first of nerf's settings that cannot
    work. regularizers: those that `losses` may weigh."""
    for name, low, high in (
        ("band_first", 0, settings["levels"]),
        ("band_start", 0, 10_000_000),
        ("band_every", 1, 10_000_000),
        ("hidden", 1, 1024),
        ("bound", 0.01, 1000),
        ("blob_scale", -1000, 1000),
        ("blob_radius", 0.01, 1000),
        ("coarse", 2, 1024),
        ("fine", 0, 1024),
        ("kernel", 1, 99),
        ("proposal", 0, settings["levels"]),
        ("occupancy", 0, 512),
        ("room", 0.01, 1),
        ("chunk", 0, 10_000_000),
        ("lambertian", 0, 1),
        ("textureless", 0, 1 - settings["lambertian"]),
        ("ramp_steps", 0, 10_000_000),
    ):
        if not low <= settings[name] <= high:
            raise ValueError(f"{name} = {settings[name]} must be in {low}..{high}")
    if settings["kernel"] % 2 == 0:
        raise ValueError(f"kernel = {settings['kernel']} must be odd")
    for name in ("view_degree", "background_degree"):
        degree_of((settings[name] + 1) ** 2)
    for name, allowed in (
        ("activation", ACTIVATIONS),
        ("scene", SCENES),
        ("normals", NORMALS),
        ("z_reduction", loss.REDUCTIONS),
    ):
        if settings[name] not in allowed:
            raise ValueError(
                f"{name}={settings[name]!r}: allowed are {', '.join(allowed)}"
            )
    check_background(settings["background"])
    check_losses(settings["losses"], regularizers)
    _check_together(settings)


def _check_together(settings: Mapping[str, Any]) -> None:
    # settings that need one another
    proposal = settings["proposal"]
    taught = (settings["losses"] or {}).get("interlevel", 0)
    if proposal and not taught:
        raise ValueError(
            f"proposal = {proposal} learns from losses.interlevel alone: give that a "
            "weight (1 is mip-NeRF 360's)"
        )
    if taught and not proposal:
        raise ValueError(
            f"losses.interlevel = {taught} teaches a proposal: give proposal levels, "
            "or interlevel no weight"
        )
    if proposal and settings["fine"] < 2:
        raise ValueError(
            f"fine = {settings['fine']}: with a proposal only the fine points are "
            "seen: 2 or more"
        )
    if settings["occupancy"] in (1, 2, 3):
        raise ValueError(
            f"occupancy = {settings['occupancy']} cells a side: give 0 (none) or 4..512"
        )
    if settings["room"] < 1 and not settings["occupancy"]:
        raise ValueError(
            f"room = {settings['room']}: points are left out by an occupancy grid: "
            "give occupancy cells a side (32), or room 1"
        )

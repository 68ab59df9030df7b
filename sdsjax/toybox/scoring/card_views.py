"""The model card of a multi-view prior: what it was trained on, and what was measured.

README.md, measured.json, samples.png and losses.svg, in the folder of its weights.
"""

from __future__ import annotations

import json
from pathlib import Path

from sdsjax.files.atomic import write_text
from sdsjax.models.loading.hub import load_multiview
from sdsjax.toybox.scoring import measure_views as measures
from sdsjax.toybox.scoring.card import (
    curves,
    files_table,
    judged_table,
    training_log,
)
from sdsjax.toybox.scoring.measure import GUIDANCE_SCALE, STEPS, judge_renders
from sdsjax.toybox.scoring.sample_views import view_sheet
from sdsjax.toybox.training.multiview_recipe import MultiViewRecipe

SHOWN = ("a blue house", "a white airplane", "a red mug", "a green chair",
         "a yellow duck", "a purple car on a white table")  # fmt: skip
ABOUT = """# toybox-mv: a small MVDream trained on the toybox

The embedded multi-view prior of sdsjax: it sees four views of an object as one sample
and is told their cameras. MVDream's network (arXiv 2308.16512) in small, with rays, a
joint code of camera and text, and a map of what that code expects to be seen beside the
noisy latents. It began from toybox-sd's weights and has its VAE. Trained on renders of
a procedural world (30 kinds of objects, 9 colours, two-object scenes; random flat
backgrounds), captions without view words; no other material. Licence: Apache-2.0. It
knows nothing outside that world. Made by

    python -m sdsjax.toybox train multiview --work WORK --out OUT

and judged again by `python -m sdsjax.toybox judge --folder OUT`.
"""


def _stages(work: Path) -> dict[str, list[dict]]:
    """The logs of the stages that a training folder has, in order."""
    cooled = sorted(work.glob("cooldown-*"), key=lambda p: int(p.name.split("-")[1]))
    names = ["map", "unet", *(path.name for path in cooled[-1:])]
    found = [name for name in names if (work / name / "log.jsonl").exists()]
    return {name: training_log(work, name) for name in found}


def _training(recipe: MultiViewRecipe, reached: dict[str, int], speed: float) -> str:
    last = max(step for name, step in reached.items() if name != "map")
    return (
        f"The map alone: {reached.get('map', 0)} steps of {recipe.map_batch} pictures. "
        f"Then all: {last} steps of {recipe.batch} pictures ({last * recipe.batch}), "
        f"{100 * recipe.group_fraction:.0f}% of the batches sets of four, the others "
        "single views; at the end the rate falls to zero. Dropout of the caption "
        f"{recipe.dropout}, of the camera {recipe.camera_dropout}; exponential moving "
        "average; noise schedule scaled-linear, 1000 steps, epsilon prediction, loss "
        f"weights clip(SNR, .1, 5) / SNR. At best {speed:.0f} pictures a second.\n\n"
        "![losses](losses.svg)\n"
    )


def _losses(losses: dict[str, dict[int, float]]) -> str:
    names = list(losses)
    lines = ["| t | " + " | ".join(names) + " |", "|---" * (1 + len(names)) + "|"]
    for t in losses[names[0]]:
        cells = " | ".join(f"{losses[name][t]:.4f}" for name in names)
        lines.append(f"| {t} | {cells} |")
    return "\n".join(lines) + "\n"


def _azimuth(degrees: float | None) -> str:
    if degrees is None:
        return "No sample shows a single object with sides.\n"
    return (
        "The azimuth that a network of its own (toybox-azimuth) reads from the samples "
        f"differs from the one asked for by {degrees:.1f} degrees (median over views "
        "of single objects with sides).\n"
    )


def write_card(
    folder: Path, work: Path, recipe: MultiViewRecipe, *, count: int = 200
) -> None:
    """Measures the multi-view prior in `folder` and writes its model card there.

    `work`: the training folder, for its logs and the held-out renders; `count`: sets
    that are drawn and judged.
    """
    networks = load_multiview(str(folder))
    shares, _, _ = measures.judge_views(networks, count=count)
    heldout = measures.heldout_sets(work / "heldout_sets" / "0")
    judge = judge_renders(heldout, count=4 * count)
    losses = measures.loss_of_views(networks, work / "heldout_sets")
    view_sheet(folder / "samples.png", networks, SHOWN)
    stages = _stages(work)
    write_text(folder / "losses.svg", curves(stages))
    figures = {
        "recipe": recipe._asdict(),
        "steps": {name: log[-1]["step"] for name, log in stages.items()},
        "pictures_per_second": max(
            row.get("pictures_per_second", 0.0) for row in stages["unet"]
        ),
        "loss_by_timestep": losses,
        "guidance_scale": GUIDANCE_SCALE,
        "sets": count,
        "samples_named_rightly": shares,
        "judge_on_held_out_renders": judge,
    }
    write_text(folder / "measured.json", json.dumps(figures, indent=1) + "\n")
    write_text(folder / "README.md", card_text(folder, figures))


def card_text(folder: Path, figures: dict) -> str:
    """README.md of the prior in `folder`; figures: what measured.json holds."""
    recipe = MultiViewRecipe(**figures["recipe"])
    shares = figures["samples_named_rightly"]
    parts = [
        ABOUT,
        "## Training\n",
        _training(recipe, figures["steps"], figures["pictures_per_second"]),
        "## Fresh sets of views\n",
        "The denoising loss, mean (eps_hat - eps)^2:\n",
        _losses(figures["loss_by_timestep"]),
        f"## The judge on {figures['sets']} sets of four, guidance scale "
        f"{figures['guidance_scale']}, DDIM {STEPS}\n",
        "\n".join(judged_table(shares, figures["judge_on_held_out_renders"])) + "\n",
        _azimuth(shares["azimuth"]),
        "\nSamples, and to their right the true renders of the same cameras:\n",
        "![samples](samples.png)\n",
        "## Files\n",
        "\n".join(files_table(folder)) + "\n",
    ]
    return "\n".join(parts)

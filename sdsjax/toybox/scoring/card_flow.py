"""The model card of a flow-matching prior: its training, and what was measured.

README.md, measured.json, samples.png and losses.svg, in the folder of its weights.
"""

from __future__ import annotations

import json
from pathlib import Path

from sdsjax.files.atomic import write_text
from sdsjax.toybox.scoring import flow, measure
from sdsjax.toybox.scoring.card import (
    curves,
    judged,
    judged_parts,
    training_log,
)
from sdsjax.toybox.training.train_flow import FlowRecipe

ABOUT = """# toybox-flow: a small Stable Diffusion 3 trained on the toybox

The embedded flow-matching prior of sdsjax: an MMDiT (arXiv 2403.03206) of 3 million
parameters with two small CLIPs and no T5, in Stable Diffusion 3's folder layout, on
toybox-sd's latents of 64x64 pictures. Trained from scratch on renders of a procedural
world (30 kinds of objects, 9 colours, two-object scenes, view words; random flat
backgrounds); no other material. Licence: Apache-2.0. It knows nothing outside that
world. Made by

    python -m sdsjax.toybox train flow --work WORK --out OUT

and judged again by `python -m sdsjax.toybox judge --folder OUT`.
"""


def _training(recipe: FlowRecipe, steps: int) -> str:
    return (
        f"{steps} steps of {recipe.batch} pictures ({steps * recipe.batch}), seed "
        f"{recipe.seed}; s uniform, the plain square of v; exponential moving "
        f"average; caption dropout {recipe.dropout}; the rate falls to zero over the "
        "last part.\n\n![losses](losses.svg)\n"
    )


def write_card(
    folder: Path, work: Path, recipe: FlowRecipe, *, count: int = 1000
) -> None:
    """Measures the prior in `folder` and writes its model card there.

    `work`: the training folder, for its log and the held-out renders; `count`: samples
    that are drawn and judged (a fifth of that at each other guidance scale).
    """
    networks = flow.load_flow(str(folder))
    heldout = measure.heldout_pool(work / "heldout")
    losses = flow.loss_by_level(networks, heldout, count=min(count, 400))
    log = training_log(work, "transformer")
    write_text(folder / "losses.svg", curves({"transformer": log}))
    figures = {
        "recipe": recipe._asdict(),
        "steps": log[-1]["step"],
        "last_training_loss": log[-1]["loss"],
        "loss_by_time": losses,
        **judged(folder, heldout, networks, count, draw=flow.sample),
    }
    write_text(folder / "measured.json", json.dumps(figures, indent=1) + "\n")
    write_text(folder / "README.md", card_text(folder, figures))


def card_text(folder: Path, figures: dict) -> str:
    """README.md of the prior in `folder`; figures: what measured.json holds."""
    rows = ["| 1000 s | mean (v_hat - v)^2 |", "|---|---|"]
    rows += [f"| {t} | {loss:.4f} |" for t, loss in figures["loss_by_time"].items()]
    parts = [
        ABOUT,
        "## Training\n",
        _training(FlowRecipe(**figures["recipe"]), figures["steps"]),
        "## Fresh renders\n",
        "The loss:\n",
        "\n".join(rows) + "\n",
        *judged_parts(folder, figures, f"{measure.STEPS} Euler steps"),
    ]
    return "\n".join(parts)

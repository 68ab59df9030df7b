"""The model card of a trained prior: what it was trained on, and what was measured."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from sdsjax.models import hub
from sdsjax.toybox import measure
from sdsjax.toybox.train_prior import PriorRecipe

GUIDANCE = 3.0  # at which the card's samples are drawn
TITLE = "# toybox-sd: a small Stable Diffusion trained on the toybox\n"
ABOUT = """
The embedded prior of sdsjax: CLIP-style text encoder, AutoencoderKL and
UNet2DCondition in Stable Diffusion's architecture and folder layout, 64x64 pictures.
Trained from scratch on renders of a procedural world (30 kinds of objects, 9 colours,
two-object scenes, view words; random flat backgrounds); no other material. Licence:
Apache-2.0. It knows nothing outside that world. Made by

    python -m sdsjax.toybox train prior --work WORK --out OUT
"""


def _sizes(folder: Path) -> list[str]:
    lines = ["| file | bytes | sha256 |", "|---|---|---|"]
    for path in sorted(folder.rglob("*.safetensors")):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        name = path.relative_to(folder)
        lines.append(f"| {name} | {path.stat().st_size} | {digest} |")
    return lines


def _last(work: Path, stage: str) -> dict:
    lines = (work / stage / "log.jsonl").read_text().splitlines()
    return json.loads(lines[-1])


def write_card(
    folder: Path, work: Path, recipe: PriorRecipe, *, count: int = 1000
) -> None:
    """Measures the prior in `folder` and writes README.md and samples.png there.

    `work`: the training folder, for its logs and the held-out renders. A pretty long
    call: `count` samples are drawn and judged.
    """
    networks = hub.load_stable_diffusion(str(folder))
    shares, pictures, texts = measure.judge_samples(
        networks, count=count, guidance_scale=GUIDANCE
    )
    heldout = measure.heldout_pool(work / "heldout")
    losses = measure.loss_by_timestep(networks, heldout)
    judge = measure.judge_renders(heldout)
    measure.sample_sheet(folder / "samples.png", pictures[:32], texts[:32])
    vae, unet = _last(work, "vae"), _last(work, "unet")
    figures = {
        "recipe": recipe._asdict(),
        "steps": {"vae": vae["step"], "unet": unet["step"]},
        "last_training_loss": {"vae": vae["loss"], "unet": unet["loss"]},
        "loss_by_timestep": losses,
        "guidance_scale": GUIDANCE,
        "samples_named_rightly": shares,
        "judge_on_held_out_renders": judge,
    }
    (folder / "measured.json").write_text(json.dumps(figures, indent=1) + "\n")
    rows = ["| t | mean (eps_hat - eps)^2 |", "|---|---|"]
    rows += [f"| {t} | {loss:.4f} |" for t, loss in losses.items()]
    named = [
        "| | samples of the prior | held-out true renders |",
        "|---|---|---|",
        *(
            f"| {what} | {100 * shares[key]:.1f}% | {100 * judge[key]:.1f}% |"
            for what, key in [
                ("kind", "kind"),
                ("colour", "color"),
                ("view (kinds with a front)", "view"),
                ("two objects, all four words", "pair"),
            ]
        ),
    ]
    parts = [
        TITLE + ABOUT,
        "## Training\n",
        f"{vae['step']} steps of the VAE (batch {recipe.vae_batch}), then "
        f"{unet['step']} of the UNet and the text encoder (batch {recipe.unet_batch}), "
        f"seed {recipe.seed}; exponential moving average; caption dropout "
        f"{recipe.dropout}; noise schedule scaled-linear, 1000 steps, epsilon "
        "prediction, min-SNR weights (gamma 5).\n",
        "## Denoising loss on fresh renders\n",
        "\n".join(rows) + "\n",
        f"## The judge on {count} samples, guidance scale {GUIDANCE}, DDIM 40\n",
        "\n".join(named) + "\n",
        "![samples](samples.png)\n",
        "## Files\n",
        "\n".join(_sizes(folder)) + "\n",
    ]
    (folder / "README.md").write_text("\n".join(parts))

"""The model card of a trained prior: what it was trained on, and what was measured."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from sdsjax.diagnostics.plots import plots_svg
from sdsjax.models.loading import hub
from sdsjax.toybox.scoring import measure
from sdsjax.toybox.training import pool as pools
from sdsjax.toybox.training.train_prior import PriorRecipe

SWEEP = (2.0, 5.0)  # guidance scales judged beside the card's own
TITLE = "# toybox-sd: a small Stable Diffusion trained on the toybox\n"
ABOUT = """
The embedded prior of sdsjax: CLIP-style text encoder, AutoencoderKL and
UNet2DCondition in Stable Diffusion's architecture and folder layout, 64x64 pictures.
Trained from scratch on renders of a procedural world (30 kinds of objects, 9 colours,
two-object scenes, view words; random flat backgrounds); no other material. Licence:
Apache-2.0. It knows nothing outside that world. Made by

    python -m sdsjax.toybox train prior --work WORK --out OUT
"""
NAMED = {
    "kind": "kind",
    "color": "colour",
    "view": "view (kinds with a front)",
    "pair": "two objects, all four words",
}


def files_table(folder: Path) -> list[str]:
    """Markdown: every safetensors file under `folder`, its size and its sha256."""
    lines = ["| file | bytes | sha256 |", "|---|---|---|"]
    for path in sorted(folder.rglob("*.safetensors")):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        name = path.relative_to(folder)
        lines.append(f"| {name} | {path.stat().st_size} | {digest} |")
    return lines


def training_log(work: Path, stage: str) -> list[dict]:
    """What `fit` logged of a stage, a dict a line."""
    lines = (work / stage / "log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def curves(logs: dict[str, list[dict]]) -> str:
    """The logs of the stages as an SVG, every figure against the step."""
    dropped = ("step", "seconds_per_step")
    rows = [
        {"step": row["step"]}
        | {f"{stage} {k}": v for k, v in row.items() if k not in dropped}
        for stage, log in logs.items()
        for row in log
    ]
    return plots_svg(rows)


def _training(recipe: PriorRecipe, steps: dict[str, int]) -> str:
    begun = (
        f"The weights of `{Path(recipe.start).name}`, trained on for"
        if recipe.start
        else "From random weights,"
    )
    return (
        f"{begun} {steps['vae']} steps of the VAE (batch {recipe.vae_batch}), then "
        f"{steps['unet']} of the UNet and the text encoder (batch "
        f"{recipe.unet_batch}), seed {recipe.seed}; exponential moving average; "
        f"caption dropout {recipe.dropout}; noise schedule scaled-linear, 1000 steps, "
        "epsilon prediction, loss weights clip(SNR, 0.1, 5) / SNR.\n\n"
        "![losses](losses.svg)\n"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def judged_table(shares: dict, judge: dict) -> list[str]:
    """Markdown: what the judge names rightly, of samples and of true renders."""
    lines = ["| | samples of the prior | held-out true renders |", "|---|---|---|"]
    return lines + [
        f"| {text} | {_percent(shares[key])} | {_percent(judge[key])} |"
        for key, text in NAMED.items()
    ]


def judged(folder: Path, heldout: pools.Pool, networks, count: int, **how) -> dict:
    """Has the judge name samples and true renders; draws samples.png into `folder`.

    networks, how: as `measure.judge_samples` takes them; count: samples, a fifth of
    that at each other guidance scale. Returns the figures of measured.json.
    """
    shares, pictures, texts = measure.judge_samples(networks, count=count, **how)
    measure.sample_sheet(folder / "samples.png", pictures[:32], texts[:32])
    few = {"count": _fewer(count), **how}
    return {
        "guidance_scale": measure.GUIDANCE_SCALE,
        "samples_named_rightly": shares,
        "by_guidance_scale": {
            s: measure.judge_samples(networks, guidance_scale=s, **few)[0]
            for s in SWEEP
        },
        "judge_on_held_out_renders": measure.judge_renders(heldout, count=4 * count),
    }


def judged_parts(folder: Path, figures: dict, sampler: str) -> list[str]:
    """Markdown of what `judged` found, and the table of the folder's files."""
    named, judge = (
        figures[key] for key in ("samples_named_rightly", "judge_on_held_out_renders")
    )
    count = named["singles"] + named["pairs"]
    return [
        f"## The judge on {count} samples, guidance scale {figures['guidance_scale']}, "
        f"{sampler}\n",
        "\n".join(judged_table(named, judge)) + "\n",
        f"Other guidance scales, {_fewer(count)} samples each:\n",
        "\n".join(_swept(figures["by_guidance_scale"])) + "\n",
        "![samples](samples.png)\n",
        "## Files\n",
        "\n".join(files_table(folder)) + "\n",
    ]


def _fewer(count: int) -> int:
    return max(1, count // 5)


def _swept(sweep: dict) -> list[str]:
    # scales are numbers, or measured.json's names of them
    lines = [
        f"| guidance scale | {' | '.join(NAMED.values())} |",
        "|---|---|---|---|---|",
    ]
    return lines + [
        f"| {scale:g} | {' | '.join(_percent(shares[key]) for key in NAMED)} |"
        for scale, shares in sorted((float(s), found) for s, found in sweep.items())
    ]


def write_card(
    folder: Path, work: Path, recipe: PriorRecipe, *, count: int = 1000
) -> None:
    """Measures the prior in `folder` and writes its model card there.

    README.md, measured.json, samples.png and losses.svg. `work`: the training folder,
    for its logs and the held-out renders; `count`: samples that are drawn and judged (a
    fifth of that at each other guidance scale).
    """
    networks = hub.load_stable_diffusion(str(folder))
    heldout = measure.heldout_pool(work / "heldout")
    few_renders = min(count, 400)
    losses = measure.loss_by_timestep(networks, heldout, count=few_renders)
    logs = {stage: training_log(work, stage) for stage in ("vae", "unet")}
    (folder / "losses.svg").write_text(curves(logs))
    steps = {stage: log[-1]["step"] for stage, log in logs.items()}
    figures = {
        "recipe": recipe._asdict(),
        "steps": steps,
        "last_training_loss": {stage: log[-1]["loss"] for stage, log in logs.items()},
        "reconstruction_psnr": measure.reconstruction_psnr(
            networks, heldout, count=few_renders
        ),
        "loss_by_timestep": losses,
        **judged(folder, heldout, networks, count),
    }
    (folder / "measured.json").write_text(json.dumps(figures, indent=1) + "\n")
    (folder / "README.md").write_text(card_text(folder, figures))


def card_text(folder: Path, figures: dict) -> str:
    """README.md of the prior in `folder`; figures: what measured.json holds."""
    rows = ["| t | mean (eps_hat - eps)^2 |", "|---|---|"]
    rows += [f"| {t} | {loss:.4f} |" for t, loss in figures["loss_by_timestep"].items()]
    parts = [
        TITLE + ABOUT,
        "## Training\n",
        _training(PriorRecipe(**figures["recipe"]), figures["steps"]),
        "## Fresh renders\n",
        f"The VAE's reconstruction: {figures['reconstruction_psnr']:.1f} dB. The "
        "denoising loss:\n",
        "\n".join(rows) + "\n",
        *judged_parts(folder, figures, f"DDIM {measure.STEPS}"),
    ]
    return "\n".join(parts)

"""The model cards of toybox-dpt, toybox-normals and toybox-clip.

README.md, measured.json, samples.png and losses.svg, in the folder of the weights they
describe.
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import jax
import numpy as np
from PIL import Image, ImageDraw

from sdsjax.files.atomic import write_text
from sdsjax.models.loading.companions import load_clip_scorer, load_companion
from sdsjax.toybox.scoring import measure_companions as measures
from sdsjax.toybox.scoring.card import curves, files_table, training_log
from sdsjax.toybox.training import pool as pools
from sdsjax.toybox.world.captions import caption
from sdsjax.toybox.world.contrasts import COLOR_NAMES, KIND_NAMES
from sdsjax.toybox.world.scene import SceneSpec

STAGES = {"depth": "shapes", "normals": "shapes", "clip": "clip"}  # folders of `fit`
WORLD = """
Trained from scratch on renders of a procedural world (30 kinds of objects, 9 colours,
two-object scenes; random flat backgrounds); no other material. Licence: Apache-2.0. It
knows nothing outside that world. Made by

    python -m sdsjax.toybox train {name} --work WORK --out OUT

and measured again by

    python -m sdsjax.toybox measure {name} --folder OUT --work WORK
"""
SHAPES = """
One of the toybox's companions of sdsjax: DPT's architecture and folder layout, 64x64
pictures. {what} `train depth` and `train normals` write two networks of one training,
which differ in the last layer alone. They are hybrids: the first stages of a ResNet,
then a transformer on their 4x4 pixels. A quarter of each batch were clean renders, a
quarter early ones (faded, blurred, blotchy), a quarter x_t = alpha_t x + sigma_t eps,
a quarter D(z_t) of {prior}, the decoded noisy latents that SteinDreamer's baselines
look at; t in 0..999, half of them below 250.
"""
WHAT = {
    "depth": (
        "toybox-dpt: disparity from noisy renders of the toybox",
        """Output: disparity, 0 at a depth of {far} (and on the background) and 1 at a
depth of {near}: 1 / depth = (1 - d) / {far} + d / {near}. It was trained on that scale;
readers that align scale and shift lose nothing.""",
    ),
    "normals": (
        "toybox-normals: surface normals from noisy renders of the toybox",
        """Output: unit normals in camera axes (x right, y down, z forward), turned to
the camera; load it as the companion `normals`.""",
    ),
}
HELD_OUT = "Cameras that the training never saw; measured.json holds the same figures."
FLAT = (
    " The last row, flat, is what a guess that ignores the picture scores: the "
    "network is as good as it is far from that. In the samples the truth's mask cuts "
    "out what is said of normals."
)
CLIP_ABOUT = """
The toybox's image-text scorer: CLIP's architecture and folder layout, 64x64 pictures, a
tokenizer in which every word of the toybox is one token. Trained by CLIP's contrast;
beside each true caption stand three that are wrong by one object, colour or view word.
"""
HEADINGS = {
    "correlation": "correlation of disparities",
    "abs_rel": "depth error, relative",
    "aligned": "the same, scale and shift fitted",
    "degrees": "mean angle, degrees",
    "kind": "kind",
    "color": "colour",
    "both": "kind and colour",
    "view": "view (kinds with a front)",
    "wrong_object": "beats a wrong object",
    "wrong_color": "beats a wrong colour",
    "wrong_view": "beats a wrong view",
    "distance": "distance to its caption",
}


def figures_table(figures: dict[str, dict[str, float]]) -> str:
    """Markdown: a row for each look, a column for each score."""
    names = list(next(iter(figures.values())))
    lines = [
        "| seen | " + " | ".join(HEADINGS[name] for name in names) + " |",
        "|---" * (1 + len(names)) + "|",
    ]
    for look, scores in figures.items():
        digits = 1 if "degrees" in scores else 3
        cells = " | ".join(f"{scores[name]:.{digits}f}" for name in names)
        lines.append(f"| {look} | {cells} |")
    return "\n".join(lines) + "\n"


def measure(name: str, folder: str, work: Path) -> dict[str, dict[str, float]]:
    """The figures of the card of `depth`, `normals` or `clip`, measured anew.

    folder: a path or a built-in name; work: where the held-out renders are kept.
    """
    pool = measures.heldout_surfaces(work / "heldout_surfaces")
    if name == "clip":
        return measures.measure_scorer(*load_clip_scorer(folder), pool)
    return measures.measure_shapes(load_companion(folder, name), name, pool)


def _tile(picture, zoom: int = 2) -> Image.Image:
    rgb = np.round(255 * np.clip(picture, 0, 1)).astype(np.uint8)
    if rgb.ndim == 2:
        rgb = np.repeat(rgb[..., None], 3, axis=-1)
    side = zoom * rgb.shape[0]
    return Image.fromarray(rgb).resize((side, side), Image.NEAREST)


def shape_sheet(path: Path, network, name: str, pool: pools.Pool, columns: int = 8):
    """Draws held-out renders with what the network says of them.

    The truth, and under each look what the network sees and, beneath, what it says.
    """
    chosen, x, surface, mask = measures.heldout_batch(pool, columns, seed=12)
    true = surface[..., 0] if name == "depth" else surface[..., 1:]
    rows = [0.5 * x + 0.5, true * (mask if name == "depth" else mask[..., None])]
    labels = ["render", "truth"]
    predict = measures.predictor(network)
    for label, look in measures.looks().items():
        if label not in ("clean", "early", "x_t, t = 500", "D(z_t), t = 300"):
            continue
        seen = np.asarray(look(jax.random.key(3), x, chosen.background))
        said = predict(seen)
        if name == "normals":
            said = np.where(mask[..., None], 0.5 + 0.5 * said, 0.0)
        rows += [0.5 * seen + 0.5, said]
        labels += [label, "said"]
    margin, side = 90, 2 * x.shape[1]
    sheet = Image.new("RGB", (margin + columns * side, len(rows) * side), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (row, label) in enumerate(zip(rows, labels)):
        pen.text((4, i * side + side // 2), label, fill="black")
        for k, picture in enumerate(row):
            sheet.paste(_tile(picture), (margin + k * side, i * side))
    sheet.save(path)


def scorer_sheet(path: Path, network, tokenizer, pool: pools.Pool, count: int = 16):
    """Draws held-out renders, each with its three nearest plain captions."""
    _, x, _, _ = measures.heldout_batch(pool, count, seed=12)
    of_images, of_texts = measures.embedders(network, tokenizer)
    specs = [SceneSpec(kind, color) for kind in KIND_NAMES for color in COLOR_NAMES]
    texts = [caption(spec) for spec in specs]
    distance = 1.0 - of_images(x) @ of_texts(texts).T
    side, band = 2 * x.shape[1], 40
    sheet = Image.new("RGB", (8 * side, -(-count // 8) * (side + band)), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (picture, row) in enumerate(zip(x, distance)):
        left, top = (i % 8) * side, (i // 8) * (side + band)
        sheet.paste(_tile(0.5 * picture + 0.5), (left, top))
        for k, j in enumerate(np.argsort(row)[:3]):
            text = f"{row[j]:.2f} {texts[j]}"
            pen.text((left + 2, top + side + 12 * k), text, fill="black", font_size=10)
    sheet.save(path)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 88, break_on_hyphens=False, break_long_words=False)


def _about(name: str, recipe: dict) -> str:
    if name == "clip":
        title, about = "toybox-clip: how far a picture is from a caption", CLIP_ABOUT
    else:
        title, what = WHAT[name]
        what = what.format(near=pools.NEAR, far=pools.FAR)
        about = SHAPES.format(what=what, prior=Path(recipe["prior"]).name)
    return f"# {title}\n\n{_wrapped(about.strip())}\n{WORLD.format(name=name)}"


def card_text(name: str, folder: Path, record: dict) -> str:
    """README.md of the weights in `folder`; record: what measured.json holds."""
    recipe, steps = record["recipe"], record["steps"]
    planned = recipe["steps"]
    steps = f"{steps} steps" if steps == planned else f"{steps} of {planned} steps"
    training = (
        f"From random weights, {steps} of batch {recipe['batch']}, "
        f"seed {recipe['seed']}, rate {recipe['rate']:g}; exponential moving average; "
        f"{recipe['singles']} views of each kind and {recipe['pairs']} of each pair, "
        "coloured anew for every batch."
    )
    parts = [
        _about(name, recipe),
        "## Training\n",
        _wrapped(training) + "\n\n![losses](losses.svg)\n",
        "## Held-out renders\n",
        _wrapped(HELD_OUT + ("" if name == "clip" else FLAT)) + "\n",
        figures_table(record["held_out"]),
        "![samples](samples.png)\n",
        "## Files\n",
        "\n".join(files_table(folder)) + "\n",
    ]
    return "\n".join(parts)


def write_card(name: str, folder: Path, work: Path, recipe) -> None:
    """Measures what `train depth`, `normals` or `clip` wrote and writes its card.

    Into `folder`. work: the training folder, for its log and the held-out renders.
    """
    figures = measure(name, str(folder), work)
    pool = measures.heldout_surfaces(work / "heldout_surfaces")
    if name == "clip":
        scorer_sheet(folder / "samples.png", *load_clip_scorer(folder), pool)
    else:
        network = load_companion(folder, name)
        shape_sheet(folder / "samples.png", network, name, pool)
    stage = STAGES[name]
    log = training_log(work, stage)
    write_text(folder / "losses.svg", curves({stage: log}))
    record = {
        "recipe": recipe._asdict(),
        "steps": log[-1]["step"],
        "last_training_loss": log[-1]["loss"],
        "held_out": figures,
    }
    write_text(folder / "measured.json", json.dumps(record, indent=1) + "\n")
    write_text(folder / "README.md", card_text(name, folder, record))

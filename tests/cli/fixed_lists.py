"""What `--prompts` leaves behind, without training: splats, reports, prompts.json."""

import json
from functools import cache

import jax
import numpy as np
from PIL import Image
from test_export_command import finished
from tiny_run import gaussians

from sdsjax.exports.scores.section import BEGIN, END
from sdsjax.training.build import build_representation
from sdsjax.training.config import from_json, to_json
from sdsjax.training.prompts.index_page import Entry, write_index
from sdsjax.training.prompts.list_file import ListedAsset, write_list

PROMPTS = ("a red ball", "a blue mug")


@cache
def ball():
    config = gaussians()
    representation = build_representation(config, (8, 8, 3))
    return config, *jax.jit(representation.init)(jax.random.key(0))


def splats(seed):
    """A ball of 64 splats of one colour, which the seed chooses."""
    _, params, state = ball()
    colour = np.zeros(params.sh.shape, np.float32)
    colour[:, 0, seed % 3] = 1.5
    params = params._replace(
        opacity_logits=np.full(64, 2.0, np.float32),
        log_scales=np.full((64, 3), -1.8, np.float32),
        sh=colour,
    )
    return params, state


def write(root, prompts, *, missing=None, asset=True, colour=0):
    """Writes a list.

    missing: a prompt whose asset diverged; asset: with splats; colour: of the first.
    """
    root.mkdir()
    listed = []
    for seed, prompt in enumerate(prompts):
        run = root / prompt.replace(" ", "-")
        group = "" if seed else "Single objects"
        if prompt == missing:
            listed.append(ListedAsset(prompt, group, run, "diverged", "a NaN"))
            continue
        config = to_json(ball()[0]) | {"prompt": prompt}
        if asset:
            finished(run, from_json(config), *splats(seed + colour))
        else:
            run.mkdir()
            for name, content in (("finished.json", {"step": 3}), ("run.json", {})):
                (run / name).write_text(json.dumps(content))
            (run / "config.json").write_text(json.dumps(config))
        metrics = {"prompt": prompt, "truth": {"iou": 0.5}, "seconds": 3.0 + seed}
        (run / "metrics.json").write_text(json.dumps(metrics))
        (run / "report.html").write_text(f"before {BEGIN}{END} after")
        Image.fromarray(np.full((8, 40, 3), 90, np.uint8)).save(run / "views.png")
        listed.append(ListedAsset(prompt, group, run, "finished"))
    write_list(root, listed)
    entries = [Entry(a.prompt, a.folder, a.status, a.note) for a in listed]
    write_index(root / "index.html", "prompts", entries)
    return root

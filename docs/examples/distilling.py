"""What the examples share beside the distillation: arguments, and pictures of views."""

from argparse import ArgumentParser
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from sdsjax.cameras import orbit_camera


class Asked(NamedTuple):
    """The command line: keyword arguments of an example's `main`, and a file."""

    settings: dict
    out: Path


def arguments(description: str) -> Asked:
    """Reads --prompt, --steps and --out."""
    parser = ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--prompt")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--out", type=Path, default=Path("example.png"))
    read = vars(parser.parse_args())
    out = read.pop("out")
    return Asked({k: v for k, v in read.items() if v is not None}, out)


def views(render, params, count: int = 4, size: int = 64):
    """Renders views round the object: rgb [count size size 3]."""

    @jax.jit
    def one(params, azimuth):
        return render(params, orbit_camera(azimuth, 15.0, width=size, height=size))

    return jnp.stack([one(params, 360.0 * i / count) for i in range(count)])


def save_views(render, params, path) -> None:
    """Writes views round the object, side by side, as a PNG."""
    save(jnp.concatenate(views(render, params), axis=1), path)


def save(rgb, path) -> None:
    """Writes rgb [h w 3] in [0, 1] as a PNG, three times as large."""
    pixels = np.asarray(jnp.clip(jnp.round(255 * rgb), 0, 255), np.uint8)
    image = Image.fromarray(pixels)
    image.resize((3 * image.width, 3 * image.height), Image.Resampling.NEAREST).save(
        path
    )
    print(path)

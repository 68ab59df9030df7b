"""Writes sd3.npz: answers of torch's diffusers in float64 on a small SD 3's parts.

Run once, with the `oracle` extra: python tests/goldens/make_sd3.py
Weights and inputs are not stored: tests/models/sd3_folders.py makes them anew.
"""

import sys
import tempfile
from pathlib import Path

import diffusers
import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "models"))

import sd3_folders as folders  # noqa: E402


def transformer(config, a):
    """The velocity [b h w c] that a transformer of fixed weights predicts."""
    with tempfile.TemporaryDirectory() as root:
        folders.write_component(Path(root), "transformer", config)
        model = diffusers.SD3Transformer2DModel.from_pretrained(f"{root}/transformer")
    z = torch.from_numpy(a["z"].transpose(0, 3, 1, 2).copy())
    given = (z, *(torch.from_numpy(a[name]) for name in ("text", "pooled", "t")))
    out = model.double()(*(part.double() for part in given)).sample
    return out.numpy().transpose(0, 2, 3, 1).astype(np.float32)


def vae(a):
    """The mean of an image, and the image decoded from a latent."""
    with tempfile.TemporaryDirectory() as root:
        folders.write_component(Path(root), "vae")
        model = diffusers.AutoencoderKL.from_pretrained(f"{root}/vae").double()
    x = torch.from_numpy(a["x"].transpose(0, 3, 1, 2).copy()).double()
    mean = model.encode(x).latent_dist.mean
    both = {"mean": mean, "decoded": model.decode(mean).sample}
    return {k: v.numpy().transpose(0, 2, 3, 1).astype("f4") for k, v in both.items()}


if __name__ == "__main__":
    path, given = HERE / "sd3.npz", folders.inputs()
    with torch.no_grad():
        np.savez_compressed(
            path,
            sd35=transformer(folders.TRANSFORMER, given),
            sd30=transformer(folders.PLAIN, given),
            **vae(given),
        )
    print(path.stat().st_size, "bytes")

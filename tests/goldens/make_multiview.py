"""Writes multiview.npz: what MVDream's torch module answers, in float64.

Run once, with the `oracle` extra and einops, beside a checkout of the public repository
github.com/ashawkey/mvdream_diffusers, whose path it takes:
python tests/goldens/make_multiview.py path/to/mvdream_diffusers
Its module imports xformers, of which it calls `ops.memory_efficient_attention` alone
(softmax(q k^T / sqrt d) v), and kiui, which is not called here.
Weights and inputs are not stored: tests/models/fixed_multiview.py makes them anew.
"""

import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "models"), str(HERE.parent.parent), sys.argv[1]]

import fixed_multiview as multiview  # noqa: E402
import fixed_weights as fixed  # noqa: E402
from mv_unet import MultiViewUNetModel  # noqa: E402


def module(config):
    """The module of a config.json, filled by key."""
    own = {key: value for key, value in config.items() if not key.startswith("_")}
    model = MultiViewUNetModel(**own)
    state = {
        key: torch.from_numpy(fixed.tensor(key, tuple(value.shape)))
        for key, value in model.state_dict().items()
    }
    model.load_state_dict(state)
    return model.eval()


def answer(model, dtype):
    """eps [b g h w c] for the fixed inputs, in float64."""
    z, t, text, camera = (torch.from_numpy(array) for array in multiview.inputs())
    b, g = z.shape[:2]
    out = model.to(dtype)(
        z.flatten(0, 1).permute(0, 3, 1, 2).to(dtype),
        t.repeat_interleave(g).to(dtype),
        text.repeat_interleave(g, dim=0).to(dtype),
        camera=camera.flatten(0, 1).to(dtype),
        num_frames=g,
    )
    return out.double().permute(0, 2, 3, 1).unflatten(0, (b, g)).numpy()


if __name__ == "__main__":
    stored = {}
    for name, config in multiview.UNETS.items():
        with torch.no_grad():
            single, exact = (
                answer(module(config), dtype)
                for dtype in (torch.float32, torch.float64)
            )
        error = np.linalg.norm(single - exact) / np.linalg.norm(exact)
        print(f"{name} {exact.shape} std {exact.std():.2f} torch {error:.1e}")
        stored[name] = exact.astype(np.float32)
    np.savez_compressed(HERE / "multiview.npz", **stored)
    print((HERE / "multiview.npz").stat().st_size, "bytes")

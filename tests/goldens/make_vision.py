"""Writes vision.npz: what torch's DPT and CLIP answer, in float64.

Run once, with the `oracle` extra: python tests/goldens/make_vision.py
Weights and inputs are not stored: tests/models/fixed_vision.py makes them anew.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import transformers

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "models"))
sys.path.insert(0, str(HERE.parent.parent))

import fixed_vision as vision  # noqa: E402
import fixed_weights as fixed  # noqa: E402


def fill(model):
    """Weights by key; keys of other versions of transformers are the published ones."""
    state = model.state_dict()
    for key, value in state.items():
        if value.is_floating_point():
            state[key] = torch.from_numpy(vision.tensor(key, tuple(value.shape)))
    model.load_state_dict(state)
    return model.eval()


def dpt(outputs, config=vision.DPT):
    model = transformers.DPTForDepthEstimation(transformers.DPTConfig(**config))
    if outputs == 3:  # the normals' layout: three channels, and no ReLU behind them
        model.head.head[4] = torch.nn.Conv2d(32, 3, 1)
        model.head.head[5] = torch.nn.Identity()
    return fill(model)


def clip():
    config = {k: v for k, v in vision.CLIP.items() if k != "model_type"}
    return fill(transformers.CLIPModel(transformers.CLIPConfig(**config)))


def nchw(array, dtype):
    return torch.from_numpy(array.transpose(0, 3, 1, 2).copy()).to(dtype)


def unit(array):
    return array / np.linalg.norm(array, axis=-1, keepdims=True)


def answers(dtype):
    out = {}
    for size in vision.SIZES:
        x = nchw(vision.image(size), dtype)
        out[f"disparity_{size}"] = dpt(1).to(dtype)(x).predicted_depth.numpy()
        y = dpt(3).to(dtype)(x).predicted_depth.numpy().transpose(0, 2, 3, 1)
        out[f"normals_{size}"] = unit(2 * np.clip(y, 0, 1) - 1)
    x = nchw(vision.image(32), dtype)
    hybrid = dpt(1, vision.HYBRID).to(dtype)
    out["hybrid_32"] = hybrid(x).predicted_depth.numpy()
    model = clip().to(dtype)
    ids = torch.from_numpy(fixed.inputs()["ids"])
    found = model(input_ids=ids, pixel_values=nchw(vision.image(24), dtype))
    out["clip_images"] = unit(found.image_embeds.numpy())
    out["clip_texts"] = unit(found.text_embeds.numpy())
    return out


if __name__ == "__main__":
    with torch.no_grad():
        single, double = answers(torch.float32), answers(torch.float64)
    for name, exact in double.items():
        error = np.linalg.norm(single[name] - exact) / np.linalg.norm(exact)
        print(f"{name} {exact.shape} std {exact.std():.2f} torch {error:.1e}")
    stored = {name: exact.astype(np.float32) for name, exact in double.items()}
    for name in stored:
        if "_texts" not in name and "_images" not in name:
            stored[name] = vision.thinned(stored[name])
    np.savez_compressed(HERE / "vision.npz", **stored)
    print((HERE / "vision.npz").stat().st_size, "bytes")

"""Writes sdxl.npz: what torch's diffusers and transformers answer, in float64.

Run once, with the `oracle` extra: python tests/goldens/make_sdxl.py
Weights and inputs are not stored: tests/models/sdxl_folders.py makes them anew.
"""

import sys
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "models"))
sys.path.insert(0, str(HERE.parent.parent))

import fixed_weights as fixed  # noqa: E402
import sdxl_folders as folders  # noqa: E402


def fill(model):
    state = model.state_dict()
    for key, value in state.items():
        if value.is_floating_point():
            bare = key.removeprefix("text_model.")
            state[key] = torch.from_numpy(fixed.tensor(bare, tuple(value.shape)))
    model.load_state_dict(state)
    return model.eval().double()


def nchw(array):
    return torch.from_numpy(array.transpose(0, 3, 1, 2).copy()).double()


def answers():
    a = folders.inputs()
    unet = fill(diffusers.UNet2DConditionModel.from_config(folders.UNET))
    told = {"text_embeds": a["pooled"], "time_ids": a["sizes"]}
    told = {name: torch.from_numpy(value).double() for name, value in told.items()}
    text = torch.from_numpy(a["text"]).double()
    t = torch.from_numpy(a["t"])
    out = unet(nchw(a["z"]), t, text, added_cond_kwargs=told).sample
    ids = torch.from_numpy(a["ids"])
    first = fill(
        transformers.CLIPTextModel(transformers.CLIPTextConfig(**folders.CLIP))
    )
    second = fill(
        transformers.CLIPTextModelWithProjection(
            transformers.CLIPTextConfig(**folders.SECOND)
        )
    )
    one = first(ids, output_hidden_states=True)
    two = second(ids, output_hidden_states=True)
    found = {
        "unet": out.permute(0, 2, 3, 1),
        "first": one.hidden_states[-2],
        "second": two.hidden_states[-2],
        "pooled": two.text_embeds,
    }
    return {k: v.detach().numpy().astype(np.float32) for k, v in found.items()}


if __name__ == "__main__":
    np.savez_compressed(HERE / "sdxl.npz", **answers())
    print((HERE / "sdxl.npz").stat().st_size, "bytes")

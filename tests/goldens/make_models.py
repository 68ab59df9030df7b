"""Writes models.npz: what torch's diffusers and transformers answer, in float64.

Run once, with the `oracle` extra: python tests/goldens/make_models.py
Weights and inputs are not stored: tests/models/fixed_weights.py makes them anew.
"""

import sys
import tempfile
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "models"))
sys.path.insert(0, str(HERE.parent.parent))

import fixed_weights as fixed  # noqa: E402

from sdsjax.models.text_encoders.clip_tokenizer import (  # noqa: E402
    train_word_tokenizer,
    write_tokenizer,
)


def fill(model):
    state = model.state_dict()
    for key, value in state.items():
        if value.is_floating_point():
            state[key] = torch.from_numpy(fixed.tensor(key, tuple(value.shape)))
    model.load_state_dict(state)
    return model.eval().double()


def nchw(array):
    return torch.from_numpy(array.transpose(0, 3, 1, 2).copy()).double()


def nhwc(tensor):
    return tensor.detach().numpy().transpose(0, 2, 3, 1).astype(np.float32)


def networks():
    arrays = fixed.inputs()
    out = {}
    t, text = torch.from_numpy(arrays["t"]), torch.from_numpy(arrays["text"]).double()
    for name, config in fixed.UNETS.items():
        unet = fill(diffusers.UNet2DConditionModel(**config))
        out[name] = nhwc(unet(nchw(arrays["z"]), t, text).sample)
    vae = fill(diffusers.AutoencoderKL(**fixed.VAE))
    x = nchw(arrays["x"]).requires_grad_()
    posterior = vae.encode(x).latent_dist
    (posterior.mean * nchw(arrays["cotangent"])).sum().backward()
    out["vae_mean"], out["vae_logvar"] = nhwc(posterior.mean), nhwc(posterior.logvar)
    out["vae_pullback"] = nhwc(x.grad)
    out["vae_decode"] = nhwc(vae.decode(nchw(arrays["latent"])).sample)
    ids = torch.from_numpy(arrays["ids"])
    for name, config in fixed.CLIPS.items():
        # prefix-free keys, whatever this version of transformers calls them
        model = transformers.CLIPTextModel(transformers.CLIPTextConfig(**config))
        state = model.state_dict()
        for key, value in state.items():
            if value.is_floating_point():
                bare = key.removeprefix("text_model.")
                state[key] = torch.from_numpy(fixed.tensor(bare, tuple(value.shape)))
        model.load_state_dict(state)
        states = model.eval().double()(ids).last_hidden_state
        out[name] = states.detach().numpy().astype(np.float32)
    return out


def tokens():
    out = {}
    vocab, merges = train_word_tokenizer(fixed.WORDS)
    for name, pad in (("tokens_sd1", "<|endoftext|>"), ("tokens_sd2", "!")):
        with tempfile.TemporaryDirectory() as folder:
            write_tokenizer(folder, vocab, merges, 24, pad)
            oracle = transformers.CLIPTokenizer.from_pretrained(folder)
            rows = oracle(
                fixed.PROMPTS, padding="max_length", truncation=True, max_length=24
            )
        out[name] = np.array(rows["input_ids"], np.int32)
    return out


if __name__ == "__main__":
    np.savez_compressed(HERE / "models.npz", **networks(), **tokens())
    print((HERE / "models.npz").stat().st_size, "bytes")

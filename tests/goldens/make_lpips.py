"""Writes lpips.npz: what LPIPS in plain torch answers, in float64.

Run once, with the `oracle` extra: python tests/goldens/make_lpips.py
Weights and pictures are not stored: tests/models/fixed_lpips.py makes them anew.
"""

import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "models"))

import fixed_lpips  # noqa: E402
from torch_lpips import torch_lpips  # noqa: E402


def answer(name, dtype):
    model = torch_lpips(name)
    stored = fixed_lpips.published(name)
    model.load_state_dict({k: torch.from_numpy(v) for k, v in stored.items()})
    a, b = (x.transpose(0, 3, 1, 2).copy() for x in fixed_lpips.pictures())
    pair = (torch.from_numpy(x).to(dtype) for x in (a, b))
    return model.to(dtype)(*pair).double().numpy()


if __name__ == "__main__":
    exact = {}
    for name in ("alex", "vgg"):
        exact[name] = answer(name, torch.float64)
        single = answer(name, torch.float32)
        print(name, exact[name], "torch", abs(single - exact[name]).max())
    np.savez_compressed(HERE / "lpips.npz", **exact)
    print((HERE / "lpips.npz").stat().st_size, "bytes")

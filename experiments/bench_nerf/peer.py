"""The peer: the same hash encoding in plain torch, timed in a process of its own.

    python peer.py LEVELS LOG2_SIZE BASE GROWTH COUNT     started by run.py

It reads lines "forward", "gradient" or "value" and answers each with a line of JSON:
seconds, or the encoding's first rows. Written as the torch fallbacks of the public
encoders are (all levels at once, [n L 8 3] corners, one gather, autograd for the
table): those that are faster than this are CUDA kernels, which do not run here.
"""

from __future__ import annotations

import json
import math
import sys
import time

import numpy as np

PRIMES = (1, 2654435761, 805459861)


def inputs(grid: dict, count: int):
    """(tables, one [T_l 2] a level, points [count 3]), the same in both processes."""
    rng = np.random.default_rng(0)
    tables = []
    for level in range(grid["levels"]):
        scale = grid["base"] * grid["growth"] ** level - 1
        cells = (math.ceil(scale - 1e-6) + 1) ** 3
        rows = min(2 ** grid["log2_size"], 8 * math.ceil(cells / 8))
        tables.append(rng.uniform(-1, 1, (rows, 2)).astype(np.float32))
    return tables, rng.random((count, 3), dtype=np.float32)


class TorchEncoding:
    """One table for all levels, and what is constant: scales, sizes, offsets."""

    def __init__(self, grid: dict, tables) -> None:
        import torch

        self.torch = torch
        scales = [grid["base"] * grid["growth"] ** i - 1 for i in range(len(tables))]
        sides = [math.ceil(s - 1e-6) + 1 for s in scales]
        rows = [len(t) for t in tables]
        long, column = torch.int64, (1, -1, 1)
        self.table = torch.tensor(np.concatenate(tables), requires_grad=True)
        self.scale = torch.tensor(scales).reshape(column)
        self.side = torch.tensor(sides, dtype=long).reshape(column)
        self.rows = torch.tensor(rows, dtype=long).reshape(column)
        self.start = torch.tensor(np.cumsum([0, *rows[:-1]]), dtype=long)
        self.start = self.start.reshape(column)
        self.hashed = torch.tensor(
            [s**3 > 2 ** grid["log2_size"] for s in sides]
        ).reshape(column)
        self.corners = torch.tensor(list(np.ndindex(2, 2, 2)), dtype=long)

    def __call__(self, x):
        """[n 2 L] of points [n 3]."""
        torch = self.torch
        place = x[:, None, :] * self.scale + 0.5  # [n L 3]
        cell = torch.floor(place)
        fraction = (place - cell)[:, :, None, :]
        c = cell.to(torch.int64)[:, :, None, :] + self.corners  # [n L 8 3]
        dense = c[..., 0] + self.side * (c[..., 1] + self.side * c[..., 2])
        mixed = [(c[..., i] * PRIMES[i]) & 0xFFFFFFFF for i in range(3)]
        index = torch.where(self.hashed, mixed[0] ^ mixed[1] ^ mixed[2], dense)
        index = index % self.rows + self.start
        share = torch.where(self.corners == 1, fraction, 1 - fraction).prod(dim=-1)
        return (share[..., None] * self.table[index]).sum(dim=2)


def main() -> None:
    import torch

    levels, log2_size, base, growth, count = map(float, sys.argv[1:6])
    grid = {
        "levels": int(levels), "log2_size": int(log2_size), "base": int(base),
        "growth": growth,
    }  # fmt: skip
    tables, points = inputs(grid, int(count))
    encoding, x = TorchEncoding(grid, tables), torch.tensor(points)
    pull = torch.ones(len(points), len(tables), 2)

    def forward():
        with torch.no_grad():
            return encoding(x)

    def gradient():
        encoding.table.grad = None
        encoding(x).backward(pull)

    calls = {"forward": forward, "gradient": gradient}
    for line in sys.stdin:
        wanted = line.strip()
        if wanted == "value":
            rows = forward()[:8].reshape(8, -1)
            print(json.dumps(rows.tolist()), flush=True)
            continue
        start = time.perf_counter()
        calls[wanted]()
        print(json.dumps(time.perf_counter() - start), flush=True)


if __name__ == "__main__":
    main()

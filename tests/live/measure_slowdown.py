"""How much longer a step takes with a page of `--view` open, measured in pairs.

    PYTHONPATH=. python tests/live/measure_slowdown.py

One run; blocks of its steps are taken in turn with the page listening and without, so
that whatever else the machine does falls on both. In another process a visitor reads
all that is sent; what a browser needs to draw it is not counted. Prints the median of
the pairs' ratios with its quartiles, and what a step costs with a page nobody looks at.
"""

import argparse
import contextlib
import multiprocessing
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from visitor import visiting

from sdsjax.cli.checks import resolve
from sdsjax.live.monitor import Monitor
from sdsjax.live.server import close, open_server
from sdsjax.runs.signals import Interrupted
from sdsjax.training import train


def visit(host, port, stop):
    """Looks at a page from a process of its own until told to stop."""
    page = SimpleNamespace(
        get_host=lambda: host, get_port=lambda: port, get_clients=lambda: True
    )
    with visiting(page) as visitor:
        stop.wait()
        print(f"{visitor.read / 1e6:.1f} MB were sent")


class Pairs:
    """Times blocks of `length` steps, every second one with the listener."""

    def __init__(self, listener, length, count):
        self.listener, self.length, self.count = listener, length, count
        self.taken, self.began, self.seconds = 0, 0.0, []

    def on_event(self, name, content):
        if name != "advance":
            return None
        # the first block compiles, in training and in the page
        block, place = divmod(self.taken, self.length)
        if place == 0:
            now = time.perf_counter()
            if block > 1:
                self.seconds.append(now - self.began)
            self.began = now
        if len(self.seconds) >= 2 * self.count:
            return "stop"
        self.taken += 1
        return self.listener(name, content) if block % 2 == 0 else None


def main():
    """Trains, and prints the ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", default="ssd")
    parser.add_argument("--length", type=int, default=40, help="steps of a block")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--count", type=int, default=None, help="splats")
    asked = parser.parse_args()
    overrides = {"prompt": "a red snowman", "preview_every": 0, "checkpoint_every": 0}
    overrides["steps"] = asked.length * (2 * asked.pairs + 4)
    overrides["scoring.truth"] = False
    if asked.count:
        overrides["representation.count"] = asked.count
    config = resolve(asked.config, overrides)
    server = open_server()
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    address = server.get_host(), server.get_port()
    other = context.Process(target=visit, args=(*address, stop))
    with Monitor(server, every=10, steps=config.steps) as monitor:
        fake = SimpleNamespace(step=-1)
        began = time.perf_counter()
        for _ in range(10_000):
            fake.step += 1
            monitor.on_event("advance", {"step": fake.step, "snapshot": None})
        idle = (time.perf_counter() - began) / 10_000
        other.start()
        while not server.get_clients():
            time.sleep(0.1)
        pairs = Pairs(monitor.on_event, asked.length, asked.pairs)
        with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Interrupted):
            train.run(config, Path(folder) / "run", on_event=pairs.on_event)
    stop.set()
    other.join()
    close(server)
    # the first block that counts, number 1, had no listener
    blocks = np.array(pairs.seconds)
    alone, listening = blocks[0::2], blocks[1::2][:-1]
    # with those before and after, so that a drift of the machine's load cancels
    ratios = listening / (0.5 * (alone[:-1] + alone[1:]))
    low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    print(
        f"ratio {middle:.3f} ({low:.3f} .. {high:.3f}), {len(ratios)} pairs of blocks"
    )
    print(f"{1000 * np.median(alone) / asked.length:.1f} ms a step without the page")
    print(f"{1e6 * idle:.2f} us a step with a page nobody looks at")


if __name__ == "__main__":
    main()

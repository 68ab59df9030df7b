"""Timing in rounds: compiled calls that are visited in turn, medians of their ratios.

Rounds visit every candidate once, so that other load falls on all of them alike; a
figure is a median over the rounds, a ratio the median of each round's ratio.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import jax


class Candidate:
    """A compiled call, its times in seconds, and the bytes of its temporaries.

    seconds: on the clock; processor_seconds: of this process, which other processes'
    load does not lengthen; result: what the first call returned.
    """

    def __init__(self, function: Callable, *arguments) -> None:
        compiled = jax.jit(function).lower(*arguments).compile()
        self.call = lambda: jax.block_until_ready(compiled(*arguments))
        memory = compiled.memory_analysis()
        self.bytes = getattr(memory, "temp_size_in_bytes", 0)
        self.seconds: list[float] = []
        self.processor_seconds: list[float] = []
        self.result = self.call()

    def time(self) -> None:
        """Times one call, after one that is not timed: no caches are cold."""
        self.call()
        wall, processor = time.perf_counter(), time.process_time()
        self.call()
        self.seconds.append(time.perf_counter() - wall)
        self.processor_seconds.append(time.process_time() - processor)


def time_in_rounds(candidates: Iterable[Any], rounds: int) -> None:
    """Calls every candidate's `time` once in each round."""
    candidates = list(candidates)
    for _ in range(rounds):
        for candidate in candidates:
            candidate.time()


def median_ratio(above: Any, below: Any, clock: str = "seconds") -> float:
    """The median over the rounds of one candidate's time over another's."""
    pairs = zip(getattr(above, clock), getattr(below, clock))
    return statistics.median(a / b for a, b in pairs)


def described_machine(rounds: int, load_before: float) -> dict[str, Any]:
    """Date, cores, load, jax and device of a measurement that has just ended."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cores": os.cpu_count(),
        "load": f"{load_before:.1f} before, {os.getloadavg()[0]:.1f} after",
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "rounds": rounds,
    }


def machine_line(machine: dict[str, Any]) -> str:
    """The first line of a benchmark's report."""
    return (
        f"{machine['date']}, {machine['cores']} cores, load {machine['load']}, jax "
        f"{machine['jax']}, {machine['device']}, {machine['rounds']} rounds."
    )

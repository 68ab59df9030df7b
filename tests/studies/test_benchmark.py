"""Timing in rounds: who is called when, and the medians of what was measured."""

import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from sdsjax.studies import benchmark
from sdsjax.studies.benchmark import Candidate, median_ratio, time_in_rounds


def test_a_candidate_is_compiled_and_warm_before_it_is_timed(monkeypatch):
    calls, wall, processor = [], iter([1.0, 1.5, 9.0, 9.25]), iter([0.0, 0.1, 3, 3.2])
    candidate = Candidate(lambda x: (x @ x.T).sum(), jnp.ones((4, 4)))
    np.testing.assert_allclose(candidate.result, 64.0)
    assert candidate.bytes >= 0
    candidate.call = lambda: calls.append(1)
    clock = SimpleNamespace(
        perf_counter=lambda: next(wall), process_time=lambda: next(processor)
    )
    monkeypatch.setattr(benchmark, "time", clock)
    candidate.time()
    candidate.time()
    assert len(calls) == 4  # the first of two is not timed
    np.testing.assert_allclose(candidate.seconds, [0.5, 0.25])
    np.testing.assert_allclose(candidate.processor_seconds, [0.1, 0.2])


def test_every_round_visits_all_in_turn():
    visits = []
    each = (SimpleNamespace(time=lambda n=n: visits.append(n)) for n in "abc")
    time_in_rounds(each, 2)
    assert visits == list("abcabc")


def test_a_ratio_is_the_median_of_the_rounds_own():
    """Not the ratio of the medians, which is 3: a slow round is slow for both."""
    above = SimpleNamespace(seconds=[1.0, 8.0, 6.0], processor_seconds=[3.0])
    below = SimpleNamespace(seconds=[1.0, 2.0, 6.0], processor_seconds=[2.0])
    assert median_ratio(above, below) == 1.0
    assert median_ratio(above, below, "processor_seconds") == 1.5


def test_the_machine_is_said_in_one_line():
    machine = benchmark.described_machine(7, 0.25)
    line = benchmark.machine_line(machine)
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC, \d+ cores, load 0\.2 before", line)
    assert f"jax {jax.__version__}, {jax.devices()[0].device_kind}, 7 rounds." in line
    assert "\n" not in line

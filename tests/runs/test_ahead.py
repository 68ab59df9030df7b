"""What a thread compiles while steps are taken, and that a run finds it."""

import logging
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
import tiny_variants

from sdsjax.backend import Target
from sdsjax.cli.checks import resolve
from sdsjax.runs import ahead
from sdsjax.runs.ahead import Ahead, shapes_of, worth_it
from sdsjax.toybox.scoring import score as scoring
from sdsjax.training import train


def test_tasks_are_done_in_order_elsewhere_and_waited_for():
    found = []

    def task(name):
        found.append((name, threading.current_thread() is threading.main_thread()))

    def fails():
        raise RuntimeError("out of memory")

    work = Ahead()
    work.wait()  # there is none yet
    assert not work.begun

    def tasks():
        yield from (lambda: task(1), fails, lambda: task(2))
        raise ValueError("no more can be found")

    work.begin(tasks())
    work.wait()
    assert work.begun
    assert found == [(1, False), (2, False)]


def test_what_is_not_begun_when_it_is_stopped_is_left():
    begun, go, found = threading.Event(), threading.Event(), []

    def first():
        begun.set()
        assert go.wait(20)
        found.append(1)

    work = Ahead()
    work.begin([first, lambda: found.append(2)])
    assert begun.wait(20)
    stopping = threading.Thread(target=work.stop)
    stopping.start()
    go.set()
    stopping.join(20)
    assert found in ([1], [1, 2])  # the second where it began before the word came
    work.stop()
    assert not work._thread.is_alive()


def test_it_is_worth_it_for_a_run_of_one_cpu_with_steps_left(monkeypatch):
    assert worth_it(50, None)
    assert not worth_it(49, None)
    assert not worth_it(600, object())
    with monkeypatch.context() as patched:
        patched.setattr(ahead, "target", lambda: Target("cuda", (9, 0)))
        assert not worth_it(600, None)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert not worth_it(600, None)


def test_shapes_say_which_arrays_are_bound_to_a_device():
    free, bound = jnp.ones((2, 3)), jax.device_put(jnp.ones(4), jax.devices()[0])
    one, other, key, plain = shapes_of((free, bound, jax.random.key(0), 3.0))
    assert plain == 3.0
    assert (one.shape, one.dtype, one.sharding) == ((2, 3), jnp.float32, None)
    assert other.sharding == bound.sharding
    assert jnp.issubdtype(key.dtype, jax.dtypes.prng_key)


@pytest.fixture
def compiled():
    """(program, thread) of what is compiled, as JAX says it."""
    found = []

    class Noting(logging.Handler):
        def emit(self, record):
            said = record.getMessage()
            if said.startswith("Finished XLA compilation of jit("):
                name = said.split("jit(")[1].split(")")[0]
                found.append((name, record.threadName))

    log, handler = logging.getLogger("jax._src.dispatch"), Noting()
    level, passes = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    log.propagate = False
    yield found
    log.removeHandler(handler)
    log.setLevel(level)
    log.propagate = passes


def run_of(config, folder, compiled):
    """Its parameters, and by name the threads that compiled a program."""
    scoring._heldout_truth.cache_clear()  # of other runs: nothing would be compiled
    for program in (scoring.render_batch, scoring._picture_scores):
        program.clear_cache()
    compiled.clear()
    asset, by = train.run(config, folder), {}
    for name, thread in compiled:
        by.setdefault(name, []).append(thread)
    return jax.tree.leaves(asset.params), by


def assert_found(config, later, tmp_path, monkeypatch, compiled):
    """What is called later is compiled once in either run, ahead in the second, which
    ends in the same bits."""
    monkeypatch.setenv("SDSJAX_COMPILE_CACHE", "0")
    plain, by = run_of(config, tmp_path / "plain", compiled)
    assert {name: by[name] for name in later} == {
        name: ["MainThread"] * count for name, count in later.items()
    }
    monkeypatch.setattr(ahead, "LEAST_STEPS", 1)
    found, by = run_of(config, tmp_path / "ahead", compiled)
    assert {name: by[name] for name in later} == {
        name: ["sdsjax-ahead"] * count for name, count in later.items()
    }
    for one, other in zip(plain, found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_run_finds_what_was_compiled_ahead(tmp_path, monkeypatch, compiled):
    """Of a picture; splats, groups of views and true pictures are slow, below."""
    config = tiny_run.config(steps=4, preview_every=2)
    # drawn for previews and at the exports' size; the mixture decodes to itself
    later = {"draw": 2, "xhats": 1}
    assert_found(config, later, tmp_path, monkeypatch, compiled)


def test_it_ends_with_a_run_that_fails(tmp_path, monkeypatch):
    monkeypatch.setenv("SDSJAX_COMPILE_CACHE", "0")
    monkeypatch.setattr(ahead, "LEAST_STEPS", 1)
    begun = []

    def fail(name, content):
        begun.extend(t.name for t in threading.enumerate())
        raise KeyError(name)

    with pytest.raises(KeyError):
        train.run(tiny_run.config(), tmp_path / "a", on_event=fail)
    assert "sdsjax-ahead" in begun
    assert "sdsjax-ahead" not in [t.name for t in threading.enumerate()]


@pytest.mark.slow
def test_so_does_one_that_is_scored(tmp_path, monkeypatch, compiled):
    config = tiny_run.gaussians(preview_every=2, scoring__truth=True)
    later = {"draw": 3, "xhats": 1, "_picture_scores": 1, "render_batch": 1}
    assert_found(config, later, tmp_path, monkeypatch, compiled)


@pytest.mark.slow
def test_so_does_one_whose_prior_sees_views_together(tmp_path, monkeypatch, compiled):
    folder = tiny_variants.write_random_folder(tmp_path / "mv", multiview=True)
    said = tiny_variants.tiny("ssd:mv", folder) | {"scoring.truth": False}
    config = resolve("ssd:mv", said)
    later = {"draw": 2, "xhats": 1}
    assert_found(config, later, tmp_path, monkeypatch, compiled)

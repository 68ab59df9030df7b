"""Options of the whole suite, and the compile cache of one session."""

import gc
import os
import re
import shutil
import sys
import tempfile
from importlib.metadata import version

import pytest

# Most of the suite's time is compiling small functions once: without optimisations
# files took 10 to 43% less of it, and XLA's older emitters need less than half of what
# its fusion emitters need for the same loops. CI's other stages compile as users do.
FLAGS = "--xla_backend_optimization_level=0"
# A flag that XLA does not know ends the process at once: jaxlib 0.12 lacks the first.
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):
    FLAGS += " --xla_cpu_use_fusion_emitters=false"
    FLAGS += " --xla_cpu_parallel_codegen_split_count=1"
os.environ.setdefault("XLA_FLAGS", FLAGS)
# The threads of XLA's pool. Each worker has a core: more threads steal small tasks from
# one another, which took a tenth of a worker's time.
os.environ.setdefault("NPROC", "1")

CACHE = "JAX_COMPILATION_CACHE_DIR"


def open_session_cache() -> str | None:
    """Name an empty compile cache in the environment; its folder, or None if one is
    named there already.

    JAX reads these variables when it is imported, which is later, so the workers of
    xdist and every process that a test starts compile an equal program once a session.
    """
    if CACHE in os.environ:
        return None
    folder = tempfile.mkdtemp(prefix="sdsjax-compiled-")
    os.environ[CACHE] = folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    return folder


OPENED = open_session_cache()
# Walking all modules and all traced programs was a tenth of a worker's time.
gc.set_threshold(100_000, 20, 50)

# Where no dtype or rank is promoted silently. Not where optax is called, whose Adam
# takes float ** int, nor the renderer's ranks, which broadcast pixels over splats.
STRICT_RANKS = {
    *("test_cameras", "test_closed_forms", "test_noise_schedules", "test_flat_image"),
    *("test_inversion", "test_slots", "test_timesteps"),
}
STRICT_DTYPES = STRICT_RANKS | {
    *("test_binning", "test_gaussian_cloud", "test_project", "test_rasterize"),
    "test_spherical_harmonics",
}


@pytest.fixture(scope="module", autouse=True)
def strict_promotion(request):
    """Types are promoted nowhere in STRICT_DTYPES, ranks nowhere in STRICT_RANKS."""
    import jax  # not above: the process that hands tests to workers needs none

    module = request.module.__name__
    dtypes = "strict" if module in STRICT_DTYPES else "standard"
    ranks = "raise" if module in STRICT_RANKS else "allow"
    with jax.numpy_dtype_promotion(dtypes), jax.numpy_rank_promotion(ranks):
        yield


# Modules whose tests run a second time with flow matching's schedule in the place of
# their SCHEDULE; True: slow then. The quick ones take the schedule as an argument, so
# that one program serves both, or compile next to nothing.
ON_FLOW_MATCHING = {
    **dict.fromkeys(("test_estimators", "test_closed_forms"), False),
    **dict.fromkeys(("test_exact_priors", "test_editing"), False),
    **dict.fromkeys(("test_ssd", "test_inversion", "test_stein", "test_vsd"), True),
    **dict.fromkeys(("test_guidance_rescale", "test_group_samples"), True),
    **dict.fromkeys(("test_image_space", "test_empirical_views"), True),
    **dict.fromkeys(("test_noise_projection", "test_sample"), True),
}


def pytest_generate_tests(metafunc):
    """Ask for `both_schedules` of each, the whole module with one before the other."""
    name = metafunc.module.__name__
    if name in ON_FLOW_MATCHING and "both_schedules" in metafunc.fixturenames:
        marks = (pytest.mark.slow,) if ON_FLOW_MATCHING[name] else ()
        kinds = ["vp", pytest.param("flow", marks=marks)]
        metafunc.parametrize("both_schedules", kinds, indirect=True, scope="module")


@pytest.fixture(scope="module", autouse=True)
def both_schedules(request):
    """Put the schedule that is asked for where the module and its helpers read it."""
    if getattr(request, "param", "vp") == "vp":
        yield
        return
    from sdsjax.diffusion import NoiseSchedule

    helpers = (sys.modules.get(name) for name in ("linear_prior", "test_estimators"))
    modules = [module for module in (request.module, *helpers) if module]
    flow, kept = NoiseSchedule.flow_matching(), [module.SCHEDULE for module in modules]
    for module in modules:
        _set_schedule(module, flow)
    yield
    for module, schedule in zip(modules, kept):
        _set_schedule(module, schedule)


def _set_schedule(module, schedule):
    module.SCHEDULE = schedule
    for value in vars(module).values():
        # what was made with the other schedule (functools.cache)
        if hasattr(value, "cache_clear") and value not in getattr(module, "SHARED", ()):
            value.cache_clear()


def pytest_ignore_collect(collection_path, config):
    """Leave unread what imports torch and its libraries where no oracle is asked for.

    They take a worker four seconds. tests/test_style.py says what such a file holds.
    """
    expression = config.option.markexpr
    asked = not expression or re.search(r"(?<!\bnot )\boracle\b", expression)
    if collection_path.name.startswith("test_oracle_") and not asked:
        return True
    return None  # as pytest's other rules say


def pytest_collection_finish():
    """Leave what is imported by now out of garbage collection for good."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    """Remove the session's cache; a worker did not open it and leaves it alone."""
    if OPENED is not None:
        shutil.rmtree(OPENED, ignore_errors=True)


def pytest_addoption(parser):
    parser.addoption(
        "--no-skips",
        action="store_true",
        help="fail if a selected test skips (CI, where nothing may be missing)",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.skipped and item.config.getoption("--no-skips"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} skipped, and --no-skips is given"
    return report

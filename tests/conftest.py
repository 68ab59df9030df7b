"""Options of the whole suite."""

import os

# Most of the suite's time is compiling small functions once: without optimisations
# files took 10 to 43% less of it. CI's other stages say otherwise.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import jax
import pytest

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
    module = request.module.__name__
    dtypes = "strict" if module in STRICT_DTYPES else "standard"
    ranks = "raise" if module in STRICT_RANKS else "allow"
    with jax.numpy_dtype_promotion(dtypes), jax.numpy_rank_promotion(ranks):
        yield


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

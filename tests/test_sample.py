"""`python -m sdsjax.sample`: any folder that the loader reads, as a sheet of views."""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from sdsjax.diffusion import NoiseSchedule
from sdsjax.models.loading.hub import kind_of
from sdsjax.priors import empirical, gaussian_mixture
from sdsjax.sample import draw, main, sheet
from sdsjax.sample import views_at as cameras_at
from sdsjax.types import PriorSource

sys.path.insert(0, str(Path(__file__).parent / "priors"))
SCHEDULE = NoiseSchedule.scaled_linear()
SHAPE = (4, 4, 3)


def views_at(azimuths, elevation):
    """By one program, and as numpy arrays, of which taking one compiles nothing."""
    return jax.device_get(jax.jit(lambda: cameras_at(azimuths, elevation))())


def source_of(prior):
    return PriorSource((), lambda params: prior, SHAPE)


def test_ddim_finds_the_picture_that_the_prompt_keeps():
    """A prior of two pictures, of which the prompt keeps one: every sample is it."""
    pictures = np.float32([np.full(SHAPE, 0.5), np.full(SHAPE, -0.5)])
    prior = empirical(SCHEDULE, pictures, [True, False])
    out = draw(
        source_of(prior), jax.random.key(0), views_at([0.0, 90.0], 15.0),
        sets=2, guidance=1.0, steps=20,
    )  # fmt: skip
    assert out.shape == (2, 2, *SHAPE)
    np.testing.assert_allclose(out, 0.75, atol=0.02)


def test_views_of_a_group_are_drawn_together():
    """Two pictures of a set: a sample shows both views of one of them."""
    means = np.float32([np.full((2, *SHAPE), 0.6), np.full((2, *SHAPE), -0.6)])
    mixture = gaussian_mixture(SCHEDULE, [1.0, 1.0], means, [1e-4] * 2, [True] * 2)
    prior = mixture._replace(group=2)
    out = draw(
        source_of(prior), jax.random.key(1), views_at([0.0, 180.0], 15.0),
        sets=6, guidance=1.0, steps=20,
    )  # fmt: skip
    assert out.shape == (6, 2, *SHAPE)
    level = out.mean(axis=(2, 3, 4))
    np.testing.assert_allclose(level[:, 0], level[:, 1], atol=0.05)
    assert {round(float(v), 1) for v in level[:, 0]} == {0.2, 0.8}
    with pytest.raises(ValueError, match="draws 2 views together"):
        draw(
            source_of(prior), jax.random.key(1), views_at([0.0], 15.0),
            sets=1, guidance=1.0, steps=2,
        )  # fmt: skip


def test_a_sheet_has_a_row_a_set_and_enlarges_what_is_small():
    pictures = np.arange(2 * 3, dtype=float).reshape(2, 3, 1, 1, 1) * np.ones(
        (2, 3, 64, 64, 3)
    )
    laid = sheet(pictures)
    assert laid.shape == (256, 384, 3)
    assert laid[0, 0, 0] == 0
    assert laid[-1, -1, 0] == 5
    assert sheet(np.zeros((1, 1, 300, 300, 3))).shape == (300, 300, 3)


@pytest.mark.slow
def test_a_multiview_folder_is_recognised_and_drawn(tmp_path, monkeypatch, capsys):
    from test_multiview_prior import TOLD, UNET, write

    monkeypatch.chdir(tmp_path)
    folder = write(tmp_path / "mv", TOLD)
    assert kind_of(folder) == "multiview"
    assert kind_of(write(tmp_path / "sd", UNET)) == "stable_diffusion"
    few = ["--prior=mv", "--steps=2", "--sets=1"]
    assert main(["a red mug", *few, "--out=a.png"]) == 0
    assert Image.open("a.png").size == (4 * 128, 128)
    assert "by mv (multiview)" in capsys.readouterr().out
    assert main(["a red mug", *few, "--views=3", "--out=b.png"]) == 2
    assert "draws 4 views together" in capsys.readouterr().err
    assert not Path("b.png").exists()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["a red mug", "--prior=no-such"], "no such folder"),
        (["a red mug", "--steps=0"], "--steps must be at least 1"),
        (["a red giraffe"], "does not know the word 'giraffe'"),
        (["  "], "the prompt is empty"),
    ],
)
def test_mistakes_are_one_line(argv, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("sdsjax: error: ")
    assert said in line
    assert not list(tmp_path.iterdir())

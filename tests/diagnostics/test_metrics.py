"""Metrics against naive loops and closed forms."""

import jax
import numpy as np
import pytest

from sdsjax.diagnostics import metrics

# compiled whole: called as they are, they compile some dozen operations a shape
psnr, iou, ssim = map(jax.jit, (metrics.psnr, metrics.iou, metrics.ssim))
mean_squared_error = jax.jit(metrics.mean_squared_error)
chamfer = jax.jit(metrics.chamfer, static_argnames="chunk")


def images(seed=0, shape=(16, 14, 3)):
    rng = np.random.default_rng(seed)
    a = rng.random(shape)
    return a, np.clip(a + 0.1 * rng.normal(size=shape), 0, 1)


def test_psnr_closed_form():
    a = np.zeros((4, 4, 3))
    # A constant error of 0.1 is 20 dB; peak 2 adds 20 log10(2).
    np.testing.assert_allclose(psnr(a, a + 0.1), 20.0, rtol=1e-5)
    expected = 20.0 + 20 * np.log10(2)
    np.testing.assert_allclose(psnr(a, a + 0.1, peak=2.0), expected, rtol=1e-5)
    assert psnr(a, a) == 100.0


def test_psnr_sees_only_the_mask():
    a, b = images()
    mask = np.zeros(a.shape[:2], bool)
    mask[3:9, 2:7] = True
    error = np.mean([(a[i, j] - b[i, j]) ** 2 for i, j in np.argwhere(mask)])
    found = psnr(a, b, mask)
    np.testing.assert_allclose(found, -10 * np.log10(error), rtol=1e-5)
    assert mean_squared_error(a, b, mask & False) == 0


def test_iou_counts():
    a = np.array([[1, 1, 0], [0, 0, 0]], bool)
    b = np.array([[0, 1, 1], [0, 0, 1]], bool)
    np.testing.assert_allclose(iou(a, b), 1 / 4)
    assert iou(a, a) == 1
    assert iou(a, ~a) == 0
    assert iou(a & False, b & False) == 1


@pytest.mark.parametrize("chunk", [1, 4, 1000])
def test_chamfer_equals_the_double_loop(chunk):
    rng = np.random.default_rng(1)
    p, q = rng.normal(size=(11, 3)), rng.normal(size=(7, 3)) + 0.3
    there = np.mean([min(np.linalg.norm(a - b) for b in q) for a in p])
    back = np.mean([min(np.linalg.norm(a - b) for a in p) for b in q])
    found = chamfer(p, q, chunk=chunk)
    np.testing.assert_allclose(found, 0.5 * (there + back), rtol=1e-5)


def test_chamfer_of_a_shift_and_of_nothing():
    grid = np.stack(np.meshgrid(*[np.arange(4.0)] * 3), axis=-1).reshape(-1, 3)
    shifted = grid + np.array([0.0, 0.2, 0.0])
    np.testing.assert_allclose(chamfer(grid, shifted), 0.2, rtol=1e-5)
    with pytest.raises(ValueError, match="points on both sides"):
        metrics.chamfer(np.zeros((0, 3)), grid)


def test_ssim_equals_a_loop_over_windows():
    a, b = images(shape=(15, 13, 3))
    offsets = np.arange(-5, 6)
    window = np.exp(-0.5 * (offsets / 1.5) ** 2)
    window = np.outer(window, window) / window.sum() ** 2
    values = []
    for i in range(15 - 10):
        for j in range(13 - 10):
            for c in range(3):
                x, y = a[i : i + 11, j : j + 11, c], b[i : i + 11, j : j + 11, c]
                mx, my = (window * x).sum(), (window * y).sum()
                vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
                cov = (window * (x - mx) * (y - my)).sum()
                top = (2 * mx * my + 1e-4) * (2 * cov + 9e-4)
                values.append(top / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)))
    found = ssim(a, b)
    np.testing.assert_allclose(found, np.mean(values), rtol=1e-3)


def test_ssim_is_one_on_itself_and_needs_a_window():
    a = images()[0]
    np.testing.assert_allclose(ssim(a, a), 1.0, rtol=1e-5)
    with pytest.raises(ValueError, match="11 pixels"):
        metrics.ssim(a[:10], a[:10])

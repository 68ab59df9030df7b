"""The studio in headless Chromium: a click starts a run, splats come, a download."""

import signal
import subprocess
import sys

import numpy as np
import pytest
from chromium import CHROMIUM, opened, wait_for
from tiny_run import OF_GAUSSIANS

from sdsjax.exports.ply import read_splats

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]


@pytest.fixture
def studio(tmp_path):
    """(process, address, folder of runs) of a studio that begins with a tiny run."""
    overrides = {**OF_GAUSSIANS, "representation.count": 400}
    flags = [f"--config.{key}={value}" for key, value in overrides.items()]
    folder = tmp_path / "runs"
    command = [sys.executable, "-m", "sdsjax.studio", str(folder), *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process, process.stdout.readline().split()[1], folder
    finally:
        process.kill()
        process.wait()


def test_a_click_starts_a_run_whose_splats_are_seen_and_downloaded(studio, tmp_path):
    process, address, folder = studio
    assert address.startswith("http://127.0.0.1:")
    with opened(address, tmp_path, size=(1100, 900)) as page:
        wait_for(lambda: page.says("the queue is empty"))

        def dark():
            picture = page.picture()
            return (picture[:, : picture.shape[1] // 2].max(axis=2) < 200).sum()

        before = dark()
        page.click("Start")
        wait_for(lambda: page.says("running"))
        wait_for(lambda: page.says("done"), 300)
        run = folder / "ssd-a-red-ball-0"
        assert (run / "finished.json").is_file()
        wait_for(lambda: dark() > before + 1000)
        page.click("Gallery")
        wait_for(lambda: page.says("step 3, finished"))
        assert page.says("ssd-a-red-ball-0")
        page.click("Download")
        file = tmp_path / "downloads" / "ssd-a-red-ball-0-splats.ply"
        wait_for(file.is_file)
    ours, theirs = read_splats(run / "splats.ply"), read_splats(file)
    np.testing.assert_array_equal(ours.means, theirs.means)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0

"""`--view` in headless Chromium: a run is seen as it trains, and obeys the buttons."""

import re
import subprocess
import sys
import threading

import numpy as np
import pytest
from chromium import CHROMIUM, opened, wait_for
from tiny_run import OF_GAUSSIANS

from sdsjax.runs.checkpoints import Checkpoints

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]


@pytest.fixture
def training(tmp_path):
    """(process, address, what it has said, directory) of a run that takes its time."""
    overrides = {**OF_GAUSSIANS, "steps": 100_000, "diagnostics.every": 5}
    overrides |= {"representation.count": 400, "checkpoint_every": 0}
    flags = [f"--config.{key}={value}" for key, value in overrides.items()]
    command = [sys.executable, "-m", "sdsjax.main", "--config=ssd", *flags]
    command += [f"--workdir={tmp_path / 'run'}", "--view"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    said = []
    reading = threading.Thread(target=lambda: said.extend(process.stderr), daemon=True)
    try:
        for line in process.stderr:
            said.append(line)
            if "watch it on" in line:
                break
        reading.start()
        yield process, said[-1].split()[-1], said, tmp_path / "run"
    finally:
        process.kill()
        process.wait()


def test_a_run_is_seen_and_obeys_the_buttons(training, tmp_path):
    process, address, said, folder = training
    assert address.startswith("http://127.0.0.1:"), said
    with opened(address, tmp_path) as page:

        def step():
            found = re.search(r"step (\d+) of", page.text())
            return found and int(found.group(1))

        def dark():
            # of the left half, which the panel does not reach
            picture = page.picture()
            return (picture[:, : picture.shape[1] // 2].max(axis=2) < 200).sum()

        wait_for(step)
        wait_for(lambda: dark() > 1000)  # the notice about software drawing is less
        page.click("Pause")
        wait_for(lambda: page.says("Go on"))
        page.click("Save")
        wait_for(lambda: page.says("is saved"))
        paused = step()
        (saved,) = Checkpoints(folder / "checkpoints").steps()
        assert saved == paused
        before = page.picture()
        page.click("Go on")
        wait_for(lambda: step() > paused + 20)
        assert np.abs(page.picture() - before).sum() > 0
        page.click("Stop")
        assert process.wait(120) == 130
    assert any("checkpoint" in line and "is written" in line for line in said)
    steps = Checkpoints(folder / "checkpoints").steps()
    assert steps[-1] > saved

"""What a finished run leaves behind, made without one.

Not a test; those of exporting and of editing share it.
"""

import json

import numpy as np

from sdsjax.runs.checkpoints import Checkpoints, digest
from sdsjax.training import train_step
from sdsjax.training.config import to_json

STEP = 3


def finished(folder, config, params, rep_state):
    """What a run leaves behind, without one: the files that the command reads."""
    folder.mkdir()
    rest = {"moments": np.ones(3, np.float32)}
    state = train_step.TrainState(np.int32(STEP), params, rep_state, rest, ())
    Checkpoints(folder / "checkpoints").save(STEP, state)
    files = {
        "run.json": {"format": "sdsjax-run-1"},
        "config.json": to_json(config),
        "finished.json": {"step": STEP, "state_sha256": digest(state)},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder

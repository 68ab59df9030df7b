"""Writes sdsjax/training/ceilings/known.json: the ceilings that need no fit.

Those of the default representation for the prompts of ../toybox_quality, as measured
there, and for the default prompt, fitted here (a minute on two CPU cores).

    python experiments/startup/ship_ceilings.py
"""

import json
from pathlib import Path

from sdsjax.cli.checks import resolve
from sdsjax.studies.run_rows import ceilings_of
from sdsjax.training.build import build
from sdsjax.training.ceilings.fit import ceiling
from sdsjax.training.ceilings.known import SHIPPED, setting_of

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Reads what was measured, fits what is missing, writes the file."""
    config = resolve("ssd")
    setting = setting_of(config)
    found = ceilings_of(ROOT / "experiments/toybox_quality/results/full.jsonl")
    found[setting["prompt"]] = ceiling(setting["prompt"], build(config).representation)
    scores = {
        prompt: {name: value for name, value in each.items() if name != "views"}
        for prompt, each in found.items()
    }
    del setting["prompt"]
    path = ROOT / "sdsjax" / "training" / "ceilings" / SHIPPED
    path.write_text(json.dumps({**setting, "scores": scores}, indent=1) + "\n")


if __name__ == "__main__":
    main()

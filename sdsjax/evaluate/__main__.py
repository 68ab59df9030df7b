"""Runs `python -m sdsjax.evaluate`."""

import sys

from sdsjax.cli.scores.evaluate_command import cli

sys.exit(cli())

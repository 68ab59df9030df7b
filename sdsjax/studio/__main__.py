"""Runs `python -m sdsjax.studio`."""

import sys

from sdsjax.cli.live.studio_command import cli

sys.exit(cli())

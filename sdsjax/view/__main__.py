"""Runs `python -m sdsjax.view`."""

import sys

from sdsjax.cli.live.view_command import cli

sys.exit(cli())

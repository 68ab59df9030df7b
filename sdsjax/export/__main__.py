"""Runs `python -m sdsjax.export`."""

import sys

from sdsjax.cli.export_command import cli

sys.exit(cli())

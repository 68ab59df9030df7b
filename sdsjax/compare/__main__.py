"""Runs `python -m sdsjax.compare`."""

import sys

from sdsjax.cli.compare_command import cli

sys.exit(cli())

"""Lets `python -m sdsjax` be `python -m sdsjax.main`."""

import sys

from sdsjax.main import cli

sys.exit(cli())

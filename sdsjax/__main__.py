"""`python -m sdsjax` is `python -m sdsjax.main`."""

import sys

from sdsjax.main import cli

sys.exit(cli())

"""The door of `python -m sdsjax.export RUN --formats=...`; there is no more to it.

What it does is in `sdsjax.cli.export_command`, the formats are in `sdsjax.exports`.
"""

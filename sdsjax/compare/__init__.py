"""The door of `python -m sdsjax.compare RUN RUN ...`; there is no more to it.

What it does is in `sdsjax.cli.compare_command`, the page in `sdsjax.exports.compare`.
"""

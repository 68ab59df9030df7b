"""The door of `python -m sdsjax.view RUN [RUN ...]`; there is no more to it.

What it does is in `sdsjax.cli.live.view_command`, the page is made by `sdsjax.live`.
"""

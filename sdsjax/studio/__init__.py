"""The door of `python -m sdsjax.studio [FOLDER]`; there is no more to it.

What it does is in `sdsjax.cli.live.studio_command`, the page is made by `sdsjax.live`.
"""

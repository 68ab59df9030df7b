"""The door of `python -m sdsjax.evaluate RUN ...`; there is no more to it.

What it does is in `sdsjax.cli.scores.evaluate_command`, the numbers in
`sdsjax.evaluation`.
"""

"""Assets and networks measured against the truth of the toybox.

Assets on held-out views (`score`), samples of a prior by a classifier it never met
(`judge`, `sample`, `measure*`), and the model cards that say so (`card*`). Imports the
world, training and models.
"""

"""What an asset could score at best: the same representation fitted to true renders.

`fit` makes a ceiling, `known` finds one that was made before (shipped in `known.json`,
or cached) so that no run has to. Used by sessions, exports and experiments; knows the
toybox's world and scoring, and nothing of priors and estimators.
"""

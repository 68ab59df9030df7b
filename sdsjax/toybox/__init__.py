"""The toybox: a closed world of captioned 3D objects with exact ground truth.

`world` renders it, `training` has the recipes of the embedded networks, `scoring`
measures assets and networks against the truth; `python -m sdsjax.toybox` runs them.
"""

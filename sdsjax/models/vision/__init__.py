"""Networks that look at pictures.

`dpt` estimates depth or normals from one image, and `clip_scorer` how far an image is
from a text.
"""

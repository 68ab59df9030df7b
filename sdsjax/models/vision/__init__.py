"""Networks that look at pictures.

`dpt` estimates depth or normals from one image, `clip_scorer` how far an image is from
a text, and `lpips` how different two images look.
"""

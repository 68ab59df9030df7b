"""Networks that look at pictures.

`dpt` estimates depth or normals from one image (`bit`: the convolutions with which its
hybrids begin), `clip_scorer` how far an image is from a text, and `lpips` how different
two images look.
"""

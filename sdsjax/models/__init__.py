"""Networks in Flax linen, and the files that they are read from.

`unets`, `mmdit` (Stable Diffusion 3's), `vae`, `text_encoders` and `vision` are modules
that take arrays; `layers` and `attention` are what they share; `loading` turns Hugging
Face folders into parameters and back. They may import `diffusion` and the ground
(types, math, files); priors and the toybox import them, `sdsjax.models.hub` being the
door: `load_component`, `load_stable_diffusion`.
"""

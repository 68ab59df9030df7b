"""Stable Diffusion 3 and 3.5: a transformer's config.json, its keys, a whole folder.

`configs` and `mapping` are what the loader of components asks; `folder` reads three
text encoders, the transformer, the VAE and the scheduler, and checks that they belong
together.
"""

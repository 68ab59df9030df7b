"""Stable Diffusion XL: its config.json, its keys, and a whole folder of it.

`configs` and `mapping` are what the loader of components asks; `folder` reads two text
encoders, two tokenizers, the UNet, the VAE and the scheduler, and checks that they
belong together.
"""

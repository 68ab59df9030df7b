"""One .safetensors file of a whole model, in the layout of latent diffusion's own code.

`layout` recognises what a file holds by its keys and shapes and derives the configs
that no such file has; `tables` maps its keys; `load` reads it as strictly as a folder.
"""

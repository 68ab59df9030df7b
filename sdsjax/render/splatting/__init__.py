"""Gaussian splatting: projection, binning into tiles, and compositing with gradients.

Splats are projected to the screen (`project`), sorted into tiles in depth order
(`binning`), and blended front to back with an exact backward pass (`composite`).
`rasterize` has all of it together, and its dense reference. `warp_composite` does what
`composite` does by two kernels for NVIDIA GPUs (`warp_kernels`), an extra.
"""

"""Gaussian splatting: splats projected to the screen (`project`), sorted
into tiles in depth order (`binning`), blended front to back with an exact backward pass
(`composite`; as a Pallas kernel `pallas_composite`), and all of it together with its
dense oracle (`rasterize`).
"""

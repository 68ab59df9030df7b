"""The renderers: `splatting` draws Gaussians by tiles (`rasterize.rasterize` and
the dense reference it must equal), `raymarching` has the arithmetic of rays through a
radiance field; `spherical_harmonics` are used by both. Arrays in, pictures out: only
the ground is imported; representations import this.
"""

"""Renderers of Gaussians and of rays: arrays in, pictures out.

`splatting` rasterises Gaussians by tiles (`rasterize.rasterize` and the dense reference
it must equal), `raymarching` has the arithmetic of rays through a volume;
`spherical_harmonics` are used by both. Only the ground is imported; representations
import this.
"""

"""The renderers: `rasterize.rasterize` (Gaussians) and its dense reference."""

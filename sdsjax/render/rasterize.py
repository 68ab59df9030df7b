"""The rasteriser, under the path that other code imports: splatting/rasterize."""

from sdsjax.render.splatting.rasterize import *  # noqa: F403

"""Projection of splats, under the path that other code imports: splatting/project."""

from sdsjax.render.splatting.project import *  # noqa: F403

"""The toybox: a closed world of captioned 3D objects with exact ground truth.

`objects` (literal tables of primitives) -> `scene` (padded arrays) -> `world` (sphere
tracing, shading linear in the caption's colours); `captions` is the grammar, `views`
the view words and camera draws, `mesh` the surfaces, `sheet` the contact sheet.
"""

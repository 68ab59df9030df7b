"""The world of the toybox itself, and its renderer.

Kinds and colours (`objects`), captions, scenes of signed distances (`primitives`,
`scene`), the sphere tracer (`renderer`), true surfaces, view words and orbits
(`views`), true pictures as references, contact sheets, and captions that are wrong by
one word (`contrasts`). Imports the ground.
"""

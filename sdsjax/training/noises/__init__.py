"""The noises that a step draws for each rendering, and how their directions are joined.

One noise a rendering is what every paper has; `samples` draws several, in strata, in
pairs or by importance, with the same mean.
"""

"""The noises that a step draws for each rendering, and what becomes of them.

One noise a rendering is what every paper has; `samples` draws several, in strata, in
pairs or by importance, with the same mean. `recursive` carries the gradient on from
step to step, with the same mean too.
"""

"""From a config to an asset.

`build` makes the components of a run, `train` is the loop, `session` what happens to
one run, `train_step` the pure jitted step (rendering: `forward_pass`, `pullback`,
`encoding`, `groups`; beside the estimator: `supervision`), then optimizers, particles,
previews, the ceiling and the variance of the gradient. It may import every room below;
nothing below it sees a config.
"""

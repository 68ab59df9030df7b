"""Score distillation as a library: `sdsjax.distill` and `sdsjax.load_prior`.

For a renderer that is not ours: no config to write, no run directory, no
Representation. `distill` is the training step's own gradient, without its optimiser and
its files; `load_prior` reads what a config's `prior` section names. It stands above
training and cli, and is reached as attributes of `sdsjax`.
"""

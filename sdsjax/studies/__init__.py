"""Many runs compared: what the experiments are made of.

`runner` is the one command of every experiment (arguments, rows that are resumed,
table, figure), `results`, `report` and `statistics` are its parts; `toybox_run` distils
and scores with few compilations, `exact_run` distils without a renderer, `comparison`
sets cases side by side over equal pairs, `benchmark` times in rounds. Stands above
training; only experiments/ and the tests import it.
"""

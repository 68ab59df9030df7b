"""Many runs compared: what the experiments are made of. `toybox_run` distils and
scores with few compilations, `exact_run` distils without a renderer, `run_rows` and
`comparison` keep rows, resume them and set them side by side. Stands above training;
only experiments/ and the tests import it.
"""

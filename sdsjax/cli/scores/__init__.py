"""The commands that measure finished runs and compare lists of them.

`evaluate_command` is `python -m sdsjax.evaluate`, `measuring` what it does with a run;
`lists` finds the runs of a folder, for that and for `python -m sdsjax.compare`.
"""

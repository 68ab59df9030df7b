"""Many prompts in one process: assets side by side, one compiled step for all.

`stacking` (what the assets share and what each has for itself), `batch` (several
sessions, as the loop of one run sees them), `chunks` (who is trained together, so that
nothing compiles twice) and `job`, the whole of it: each asset gets the run directory
that it would have alone. The command line uses `job.run_prompts`.
"""

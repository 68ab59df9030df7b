"""The command line, from its words to a checked config.

`arguments` (its grammar), `config_files` (where configs are found and executed),
`overrides`, `ranges` and `checks` (every key checked before anything is built),
`listings` and `budget` (--list, --dry_run), `devices` (what the machine has and ran out
of), and `python_api`, the same job as `sdsjax.generate`. Only main.py imports it.
"""

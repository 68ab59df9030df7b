"""Pages that show numbers by other networks: a section of the report, lists compared.

`section` is what `python -m sdsjax.evaluate` puts into a run's report; `columns` reads
what a list of prompts left, `list_page` compares several of them prompt by prompt.
"""

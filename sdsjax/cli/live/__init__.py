"""The command lines that open a page in the browser (the extra `view`).

`view_command` is `python -m sdsjax.view`, `addresses` the flags that all of them
share. What the pages show is in `sdsjax.live`, which is imported when one is opened.
"""

"""The command lines that open a page in the browser (the extra `view`).

`view_command` is `python -m sdsjax.view`, `studio_command` `python -m sdsjax.studio`,
`watch` the flag `--view`, `addresses` the flags that the commands share. What the pages
show is in `sdsjax.live`, which is imported when one is opened.
"""

"""Assets in a browser, by viser (the extra `view`), on this machine alone.

`server` opens the page, `shapes` makes host arrays of an asset, `scene` puts them into
the page and keeps them up to date; `show_runs` is `python -m sdsjax.view`, `monitor`
is `--view` on the main command, `studio` (with `jobs`, its queue, and `gallery`) is
`python -m sdsjax.studio`. Nothing here is imported unless a viewer is asked for,
and viser itself only in `server`. cli/live has the command lines.
"""

"""The command line's job from Python: `sdsjax.generate(prompt, config, ...)`."""

from __future__ import annotations

from sdsjax.cli import checks
from sdsjax.cli.config_files import default_workdir, locate
from sdsjax.training.config import flatten
from sdsjax.training.train import Asset, run


def generate(prompt: str, config: str = "ssd", **overrides) -> Asset:
    """From a prompt to an asset: the command line's job from Python.

    config: a name, `name:variant` or path; overrides: config keys, nested dicts or
    dotted (`**{"optimizer.lr.means": 0.02}`), and what `run` takes: `workdir`,
    `allow_config_change`, `on_event`. Raises as `run` does, ConfigError for a bad
    value.
    """
    workdir = overrides.pop("workdir", None)
    on_event = overrides.pop("on_event", None)
    allow = overrides.pop("allow_config_change", False)
    resolved = checks.resolve(config, {"prompt": prompt, **overrides})
    if workdir is None:
        workdir = default_workdir(locate(config).label, resolved)
    said = flatten({"prompt": prompt, **overrides})
    command = [f"--config={config}", *(f"--config.{k}={v}" for k, v in said.items())]
    return run(
        resolved,
        workdir,
        allow_config_change=allow,
        command=command,
        on_event=on_event,
    )

"""The command line's grammar: flags by absl, `--config...` by ourselves.

absl's own `--config` handling answers a misspelt key with a traceback and lets stray
words pass; here both are errors of one line.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from absl import flags

from sdsjax.runs.exit_status import table
from sdsjax.training.config import ConfigError

HELP = f"""\
sdsjax: score distillation for text-to-3D in JAX, measured against ground truth.

usage: sdsjax --config=NAME[:VARIANT] [--config.KEY=VALUE ...] [--workdir=DIR]

  --config=NAME          ssd, sds:image, ... (see --list), or the path of a config file
  --config.KEY=VALUE     change one key, e.g. --config.prompt="a red mug"
  --workdir=DIR          the run directory; default runs/<config>-<prompt>-<seed>;
                         a run is continued by the same command, or by --workdir alone
  --prompts=FILE         an asset for each line of a text file, trained together (at
                         most --assets_per_device=N at a time); index.html shows all
  --allow_config_change  continue a run although its config or its input files differ
  --view                 watch it in a browser; --view_every=STEPS (10), --view_port
  --dry_run [--compile]  print every key, time and memory (by XLA's plan); run nothing
  --list                 configs, variants, estimators, timesteps, priors, toybox words
  --coordinator_address  --num_processes  --process_id: one run on several hosts
  --traceback            show where an error came from; --version --help: print, leave

The same program: python -m sdsjax.main. On the embedded toybox prior, offline:
  sdsjax --config=ssd --config.prompt="a red mug"
A run's files: report.html, turntable, splats, mesh; others: python -m sdsjax.export RUN
exit status:
{table()}"""


class Arguments(NamedTuple):
    """A parsed command line; overrides: config key -> text."""

    config: str | None
    overrides: dict[str, str]
    workdir: str | None
    prompts: str | None
    assets_per_device: int | None
    allow_config_change: bool
    dry_run: bool
    list: bool
    version: bool
    help: bool
    coordinator_address: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    traceback: bool = False
    compile: bool = False
    view: bool = False
    view_every: int | None = None
    view_host: str | None = None
    view_port: int | None = None

    def command(self) -> list[str]:
        """The command that asks for the same, in one spelling of its flags."""
        words = ["sdsjax"]
        words += [f"--config={self.config}"] if self.config is not None else []
        words += [f"--config.{key}={text}" for key, text in self.overrides.items()]
        for name in ("workdir", "prompts", "assets_per_device"):
            value = getattr(self, name)
            words += [f"--{name}={value}"] if value is not None else []
        return words + ["--allow_config_change"] * self.allow_config_change


def _define() -> flags.FlagValues:
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "run directory", flag_values=values)
    name = "coordinator_address"
    flags.DEFINE_string(name, None, "host:port of process 0", flag_values=values)
    for name in ("num_processes", "process_id"):
        flags.DEFINE_integer(name, None, "of several processes", flag_values=values)
    flags.DEFINE_string("prompts", None, "a prompt a line", flag_values=values)
    flags.DEFINE_integer(
        "assets_per_device", None, "assets", lower_bound=1, flag_values=values
    )
    flags.DEFINE_integer("view_every", None, "steps", lower_bound=1, flag_values=values)
    flags.DEFINE_string("view_host", None, "of --view", flag_values=values)
    flags.DEFINE_integer("view_port", None, "of --view", flag_values=values)
    switches = (
        "view",
        "allow_config_change",
        "dry_run",
        "list",
        "version",
        "traceback",
        "compile",
    )
    for name in switches:
        flags.DEFINE_boolean(name, False, name, flag_values=values)
    flags.DEFINE_boolean("help", False, "help", short_name="h", flag_values=values)
    return values


def split_config(argv: list[str]) -> tuple[str | None, dict[str, str], list[str]]:
    """Splits words into (--config, overrides by key, what is left)."""
    config, overrides, rest = None, {}, []
    words = list(argv)
    while words:
        word = words.pop(0)
        match = re.fullmatch(r"--?config(?:\.([^=]*))?(?:=(.*))?", word, re.DOTALL)
        if word == "--":
            rest += [word, *words]
            break
        if not match:
            rest.append(word)
            continue
        key, value = match.groups()
        if value is None and words and not words[0].startswith("--"):
            value = words.pop(0)
        if value is None:
            raise ConfigError(f"{word} needs a value: {word}=...")
        if key is None:
            config = value
        else:
            overrides[key] = value
    return config, overrides, rest


def parse(argv: list[str]) -> Arguments:
    """Raises ConfigError for an unknown flag, a flag without value, a stray word."""
    config, overrides, rest = split_config(argv)
    values = _define()
    try:
        stray = values(["sdsjax", *rest])[1:]
    except flags.Error as error:
        raise ConfigError(f"{error} (--help lists the flags)") from error
    if stray:
        raise ConfigError(
            f"unexpected argument {stray[0]!r}: settings are flags such as "
            '--config.prompt="a blue house"; quote values that hold spaces'
        )
    if values.workdir == "":
        raise ConfigError("--workdir is empty: pass a directory")
    if values.compile and not values.dry_run:
        raise ConfigError("--compile goes with --dry_run: a run compiles by itself")
    if values.prompts == "":
        raise ConfigError("--prompts is empty: pass a text file, a prompt a line")
    if not values.view:
        for name in ("view_every", "view_host", "view_port"):
            if getattr(values, name) is not None:
                raise ConfigError(f"--{name} is for --view: add it, or leave this out")
    chosen = {k: getattr(values, k) for k in Arguments._fields[2:]}
    return Arguments(config, overrides, **chosen)

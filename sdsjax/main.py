"""The command line: `python -m sdsjax.main --config=ssd --config.prompt="..."`.

Everything a user can get wrong is checked before anything is built or written, and
answered with one line and exit status 2. JAX is imported only once it is needed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sdsjax import __version__
from sdsjax.cli.arguments import HELP, Arguments, parse
from sdsjax.cli.config_files import default_workdir, locate
from sdsjax.runs.exit_status import ExitStatus
from sdsjax.training.config import ConfigError, load_json


def run(arguments: Arguments) -> int:
    """Resolve the config, then train, or describe the run with --dry_run."""
    from sdsjax.cli import checks, devices, listings, prompts

    devices.backend()  # before anything computes: a wrong JAX_PLATFORMS is one line
    prompts.check_arguments(arguments)
    if arguments.prompts is not None:
        return prompts.run_file(arguments)
    stored = Path(arguments.workdir or ".") / "config.json"
    if arguments.config is not None:
        source = locate(arguments.config)
        config = checks.resolve(source, arguments.overrides)
        workdir = arguments.workdir or default_workdir(source.label, config)
    elif arguments.workdir and stored.is_file():
        config = checks.resolve(load_json(stored), arguments.overrides)
        workdir = arguments.workdir
    else:
        raise ConfigError("no config: pass --config=ssd, or the --workdir of a run")
    if arguments.dry_run:
        print(listings.dry_run(config, workdir))
        return ExitStatus.DONE
    for warning in devices.warnings():
        print(f"sdsjax: warning: {warning}", file=sys.stderr)
    from sdsjax.training import train

    with devices.memory_explained(config):
        train.run(
            config,
            workdir,
            allow_config_change=arguments.allow_config_change,
            command=arguments.command(),
        )
    return ExitStatus.DONE


def cli(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status (runs/exit_status)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        arguments = parse(argv)
        if arguments.help:
            print(HELP, end="")
        elif arguments.version:
            print(f"sdsjax {__version__}")
        elif arguments.list:
            from sdsjax.cli import listings

            print(listings.listing())
        else:
            return run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("sdsjax: interrupted", file=sys.stderr)
        return ExitStatus.INTERRUPTED
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        from sdsjax.cli.devices import report

        return report(error, show_traceback="--traceback" in argv)
    return ExitStatus.DONE


if __name__ == "__main__":
    sys.exit(cli())

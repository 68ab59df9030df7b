"""The command line: `python -m sdsjax.main --config=ssd --config.prompt="..."`.

Everything a user can get wrong is checked before anything is built or written, and
answered with one line and exit status 2. JAX is imported only once it is needed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from sdsjax import __version__
from sdsjax.cli.arguments import HELP, Arguments, parse
from sdsjax.cli.config_files import default_workdir, locate
from sdsjax.distributed.launch import Launch, Part, find_launch, find_part
from sdsjax.distributed.supervisor import end_with_parent, is_supervised, supervise
from sdsjax.runs.exit_status import ExitStatus
from sdsjax.training.config import ConfigError, load_json, to_json


def run_with_others(arguments: Arguments, launch: Launch) -> int:
    """Joins the other processes of a run, then does what `run` does."""
    from sdsjax.cli import devices
    from sdsjax.distributed import hosts

    end_with_parent()
    status = ExitStatus.OUT_OF_SPACE
    try:
        print(hosts.join(launch), file=sys.stderr, flush=True)
        status = run(arguments)
    except SystemExit as stopped:  # by a signal, which the log has told
        status = int(stopped.code or 0)
    except Exception as error:
        lost = hosts.as_lost(error)
        status = devices.report(lost, show_traceback=arguments.traceback)
    finally:
        sys.stdout.flush()
        hosts.leave(status)
    return status


def resolved(arguments: Arguments):
    """Returns the config that was asked for, and the run's directory."""
    from sdsjax.cli import checks

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
    return config, workdir


def run(arguments: Arguments, part: Part = Part()) -> int:
    """Resolve the config, then train, or describe the run with --dry_run.

    part: this process's share of a list of prompts.
    """
    from sdsjax.cli import devices, listings, prompts
    from sdsjax.cli.live.watch import watched
    from sdsjax.distributed import hosts

    devices.backend()  # before anything computes: a wrong JAX_PLATFORMS is one line
    prompts.check_arguments(arguments)
    if arguments.prompts is not None:
        return prompts.run_file(arguments, part)
    try:
        config, workdir = resolved(arguments)
    except (ValueError, OSError):
        hosts.agree(None)
        raise
    # what every process must have been asked for, whatever its number
    hosts.agree([__version__, workdir, arguments.allow_config_change, to_json(config)])
    if arguments.dry_run:
        described = listings.dry_run(config, workdir, arguments.compile)
        if hosts.is_first():
            print(described)
        return ExitStatus.DONE
    devices.warn(config, arguments.overrides)
    from sdsjax.training import train

    with watched(arguments, config) as on_event, devices.memory_explained(config):
        train.run(
            config,
            workdir,
            allow_config_change=arguments.allow_config_change,
            command=arguments.command(),
            on_event=on_event,
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
            numbers = (
                arguments.coordinator_address,
                arguments.num_processes,
                arguments.process_id,
                os.environ,
            )
            if arguments.prompts is not None:
                return run(arguments, find_part(*numbers))
            launch = find_launch(*numbers)
            if launch is None:
                return run(arguments)
            if is_supervised():
                return run_with_others(arguments, launch)
            return supervise([sys.executable, "-m", "sdsjax.main", *argv], launch)
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

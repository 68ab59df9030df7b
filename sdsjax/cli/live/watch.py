"""What `--view` adds to the main command: a page that shows the run as it trains."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from sdsjax.cli.arguments import Arguments
from sdsjax.cli.live.addresses import LOCAL
from sdsjax.training.config import Config, ConfigError

EVERY = 10  # steps


def check_view(arguments: Arguments, config: Config) -> None:
    """Raises ConfigError where --view is given for what it cannot show."""
    from sdsjax.distributed import hosts

    if hosts.count() > 1:
        raise ConfigError(
            "--view watches runs of one process: leave it out here, and look at the "
            "checkpoints by python -m sdsjax.view"
        )
    if config.representation.name == "image":
        raise ConfigError(
            "--view shows 3D assets, and this config distils a flat picture: leave it "
            "out, and look at the previews in its directory"
        )


@contextlib.contextmanager
def watched(
    arguments: Arguments, config: Config
) -> Iterator[Callable[[str, dict], Any] | None]:
    """Opens the page of --view, and gives what listens to the run; None without it.

    Raises ConfigError, and ViewError or MissingExtra where no page can be opened.
    """
    if not arguments.view:
        yield None
        return
    check_view(arguments, config)
    from sdsjax.live.monitor import Monitor
    from sdsjax.live.server import address, close, open_server

    host = arguments.view_host or LOCAL
    server = open_server(host, arguments.view_port, label="sdsjax")
    try:
        print(f"sdsjax: watch it on {address(server)}", file=sys.stderr, flush=True)
        with Monitor(
            server,
            every=arguments.view_every or EVERY,
            steps=config.steps,
            prompt=str(config.prompt),
            bound=float(config.representation.get("bound", 1.0)),
        ) as monitor:
            yield monitor.on_event
    finally:
        close(server)

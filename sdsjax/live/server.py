"""Opens viser's page: on 127.0.0.1 and a free port, unless another is asked for."""

from __future__ import annotations

import contextlib
import errno
import importlib
import importlib.util
import io
import logging
import socket
from typing import Any

from sdsjax.exports.splat_files import MissingExtra
from sdsjax.runs.exit_status import ExitStatus

LOCAL = "127.0.0.1"
# The camera of a visitor: the distance of training views, the front, from above.
POSITION, LOOK_AT = (1.0, 0.9, 2.8), (0.0, 0.0, 0.0)
# A viser.ViserServer: the library is an extra, which type checks do without.
Server = Any


class ViewError(RuntimeError):
    """A viewer cannot be opened as asked; the message is one line."""

    exit_code = ExitStatus.MISTAKE


def require_viser() -> None:
    """Raises MissingExtra with the command that installs the extra `view`."""
    if importlib.util.find_spec("viser") is None:
        raise MissingExtra(
            "a viewer needs the extra view: pip install 'sdsjax[view]' (viser, 10 MB)"
        )


def check_address(host: str, port: int | None) -> None:
    """Raises ViewError for an address that cannot be listened on."""
    if port is not None and not 1 <= port <= 65535:
        raise ViewError(f"a port must be in 1..65535, not {port}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port or 0, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            # a port that a closed viewer has just left is free
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror:
        raise ViewError(
            f"host {host} is no address of this machine: leave it out for {LOCAL}"
        ) from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            why = "is taken"
            advice = "choose another, or leave it out for one that is free"
        elif error.errno == errno.EACCES:
            why, advice = "is not allowed", "choose one above 1023"
        else:
            raise ViewError(
                f"host {host} is no address of this machine ({error.strerror}): "
                f"leave it out for {LOCAL}"
            ) from None
        raise ViewError(f"port {port} of {host} {why}: {advice}") from None


def open_server(host: str = LOCAL, port: int | None = None, label: str = "") -> Server:
    """Opens a page and returns its viser.ViserServer. Raises MissingExtra, ViewError.

    port: None for any that is free. The page has our axes (y up, the front along +z)
    and no button that would share it with another machine.
    """
    require_viser()
    check_address(host, port)
    viser = importlib.import_module("viser")
    # a browser opens connections ahead and drops them: no news, and pages of traceback
    logging.getLogger("websockets.server").setLevel(logging.CRITICAL)
    with _without_words():
        server = viser.ViserServer(host, port or 0, label=label or None, verbose=False)
    if port is not None and server.get_port() != port:
        close(server)
        raise ViewError(f"port {port} of {host} was taken just now: choose another")
    server.gui.configure_theme(show_share_button=False, show_logo=False)
    server.scene.set_up_direction("+y")
    server.initial_camera.position = POSITION
    server.initial_camera.look_at = LOOK_AT
    server.initial_camera.fov = 0.8
    return server


def address(server: Server) -> str:
    """Returns the address to type into a browser."""
    host = server.get_host()
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{server.get_port()}"


def close(server: Server) -> None:
    """Closes a page."""
    with _without_words():
        server.stop()


def _without_words() -> contextlib.redirect_stdout:
    # viser prints a banner, and a line when it stops, whatever it is told
    return contextlib.redirect_stdout(io.StringIO())

"""What the commands that open a page share: --host and --port, and how they end."""

from __future__ import annotations

import argparse

LOCAL = "127.0.0.1"


def add_address(parser: argparse.ArgumentParser) -> None:
    """Adds --host and --port."""
    parser.add_argument(
        "--host",
        default=LOCAL,
        help=f"interface to listen on; default {LOCAL}, this machine alone",
    )
    parser.add_argument("--port", type=int, help="default: one that is free")


def stay_off_accelerators() -> None:
    """Has JAX compute on the CPU: a device's memory is the training's."""
    import jax

    jax.config.update("jax_platforms", "cpu")

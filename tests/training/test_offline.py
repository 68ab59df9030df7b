"""A whole run, exports and all, with every network socket refused."""

import socket

import pytest
import tiny_run

from sdsjax.training import train

LOCAL = {getattr(socket, "AF_UNIX", None)}


class Refusing(socket.socket):
    """Pairs inside this process may be made (event loops use them); nothing else."""

    def __init__(self, family=-1, type=-1, proto=-1, fileno=None):
        if fileno is None and family not in LOCAL:
            raise OSError("the network was touched")
        super().__init__(family, type, proto, fileno)


def refuse(*_, **__):
    raise OSError("the network was touched")


def test_a_run_needs_no_network(tmp_path, monkeypatch):
    monkeypatch.setenv("SDSJAX_COMPILE_CACHE", "0")
    monkeypatch.setattr(socket, "socket", Refusing)
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    with pytest.raises(OSError, match="network was touched"):
        socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    asset = train.run(tiny_run.config(steps=10), tmp_path / "a")
    assert asset.metrics["warnings"] == []
    assert (tmp_path / "a" / "report.html").stat().st_size > 1000

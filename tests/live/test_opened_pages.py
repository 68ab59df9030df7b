"""Pages that the commands open: where they listen, what they say, that they close."""

import os
import signal
import socket
import threading
from types import SimpleNamespace

import jax
import pytest
from panel import Page, splats
from tiny_run import gaussians

from sdsjax.cli.arguments import parse
from sdsjax.cli.live import studio_command, view_command
from sdsjax.cli.live.stopping import stopped_by_signals
from sdsjax.cli.live.watch import watched
from sdsjax.distributed import hosts
from sdsjax.exports.splat_files import MissingExtra
from sdsjax.live import server as pages
from sdsjax.live import show_runs
from sdsjax.live.server import ViewError, address, open_server
from sdsjax.training.build import finished_run
from sdsjax.training.build.finished_run import FinishedRun
from sdsjax.training.config import ConfigError


def test_a_page_listens_on_this_machine_alone_until_it_is_closed(capsys):
    server = open_server(label="a page")
    try:
        where = address(server)
        assert where.startswith("http://127.0.0.1:")
        port = server.get_port()
        with socket.create_connection(("127.0.0.1", port), timeout=20):
            pass
        with pytest.raises(ViewError, match=f"port {port} of 127.0.0.1 is taken"):
            open_server(port=port)
        assert server.initial_camera.position == pytest.approx((1.0, 0.9, 2.8))
    finally:
        pages.close(server)
    assert capsys.readouterr().out == ""  # viser's banner is not passed on


def test_an_address_of_version_6_is_put_in_brackets():
    server = SimpleNamespace(get_host=lambda: "::1", get_port=lambda: 8080)
    assert address(server) == "http://[::1]:8080"


def test_a_port_that_is_taken_between_two_looks_is_given_back(monkeypatch):
    stopped = []

    class Server:
        def __init__(self, host, port, **how):
            self.stop = lambda: stopped.append((host, port))

        def get_port(self):
            return 8081

    viser = SimpleNamespace(ViserServer=Server)
    monkeypatch.setattr(pages.importlib, "import_module", lambda name: viser)
    monkeypatch.setattr(pages, "check_address", lambda *_: None)
    with pytest.raises(ViewError, match="port 8080 of h was taken just now"):
        open_server("h", 8080)
    assert stopped == [("h", 8080)]


def test_a_port_that_needs_rights_names_those_that_do_not(monkeypatch):
    class Probe:
        def __init__(self, *_):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def setsockopt(self, *_):
            pass

        def bind(self, where):
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pages.socket, "socket", Probe)
    with pytest.raises(ViewError, match="is not allowed: choose one above 1023"):
        pages.check_address("127.0.0.1", 80)


@pytest.fixture
def opened(monkeypatch):
    """Pages without a browser that the commands open: (arguments, page) each."""
    found = []

    def open_page(*where, **how):
        page = Page()
        page.get_host, page.get_port = lambda: "127.0.0.1", lambda: 7
        page.get_clients = dict
        page.stop = lambda: setattr(page, "closed", True)
        found.append(((*where, how), page))
        return page

    platforms = jax.config.jax_platforms
    monkeypatch.setattr(pages, "open_server", open_page)
    yield found
    jax.config.update("jax_platforms", platforms)


def test_the_view_shows_each_run_and_closes(opened, monkeypatch, tmp_path, capsys):
    def read_newest(folder):
        return FinishedRun(gaussians(), 3, splats(), None)

    monkeypatch.setattr(finished_run, "read_newest", read_newest)
    followed, stop = [], threading.Event()
    monkeypatch.setattr(show_runs, "follow", lambda *args: followed.append(args))
    view_command.view([str(tmp_path / "a"), str(tmp_path / "b")], stop)
    ((where, page),) = opened
    assert where == ("127.0.0.1", None, {"label": "sdsjax"})
    ((shown, seconds, given),) = followed
    assert [run.folder.name for run in shown] == ["a", "b"]
    assert (seconds, given) == (2.0, stop)
    assert page.closed
    said = "sdsjax: http://127.0.0.1:7 (Ctrl-C ends it)\n"
    assert capsys.readouterr().out == said


def test_the_studio_begins_with_what_the_command_line_says(
    opened, monkeypatch, tmp_path, capsys
):
    stop = threading.Event()
    stop.set()
    words = ["--config=sds", "--config.prompt=a blue mug", "--config.batch_size=2"]
    studio_command.studio([str(tmp_path), *words], stop)
    ((where, page),) = opened
    assert where == ("127.0.0.1", None, {"label": "sdsjax studio"})
    found = [page[name].value for name in ("prompt", "config", "settings")]
    assert found == ["a blue mug", "sds", "batch_size=2"]
    assert {"ssd", "ssd:image"} <= set(page["config"].options)
    assert page.closed
    assert "http://127.0.0.1:7" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="unknown config"):
        studio_command.studio([str(tmp_path), "--config=nonesuch"], stop)
    assert len(opened) == 1  # a mistake is found before a page is opened


def test_a_run_is_watched_only_when_asked(opened, capsys):
    config = gaussians()
    with watched(parse(["--config=ssd"]), config) as listener:
        assert listener is None
    assert not opened
    arguments = parse(["--config=ssd", "--view", "--view_port=8090"])
    with watched(arguments, config) as listener:
        ((where, page),) = opened
        assert where == ("127.0.0.1", 8090, {"label": "sdsjax"})
        listener("checkpoint", {"step": 2})
        assert page.gui.texts[0].content == "**a red ball**"
        assert page.gui.texts[1].content == "step 2 of 3  \ncheckpoint 2 is saved"
        page["Pause"].click()
        assert listener("advance", {"step": 2}) == "pause"
    assert page.closed
    assert "watch it on http://127.0.0.1:7" in capsys.readouterr().err


def test_several_processes_are_not_watched(opened, monkeypatch):
    monkeypatch.setattr(hosts, "count", lambda: 2)
    arguments = parse(["--config=ssd", "--view"])
    with (
        pytest.raises(ConfigError, match="--view watches runs of one process"),
        watched(arguments, gaussians()),
    ):
        pass
    assert not opened


def test_a_missing_extra_is_named_with_its_command(monkeypatch):
    monkeypatch.setattr(pages.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'sdsjax\[view\]'"):
        open_server()


@pytest.fixture
def handlers():
    kept = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_either_signal_ends_a_page_in_order(handlers, number):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as of what a shell puts behind
    stop = stopped_by_signals()
    assert not stop.is_set()
    os.kill(os.getpid(), number)
    assert stop.wait(20)


def test_outside_the_main_thread_signals_are_left_alone():
    kept, found = signal.getsignal(signal.SIGTERM), []
    thread = threading.Thread(target=lambda: found.append(stopped_by_signals()))
    thread.start()
    thread.join()
    assert not found[0].is_set()
    assert signal.getsignal(signal.SIGTERM) is kept

"""What a run says on standard error: with a terminal, without, and among others."""

import io
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from sdsjax.runs import logs
from sdsjax.runs.logs import Log, QuietLog
from sdsjax.runs.without import without


@pytest.fixture
def terminal(monkeypatch):
    """What is written to a terminal."""
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=120)
    monkeypatch.setattr(logs, "Console", lambda **_: console)
    return written


def test_a_terminal_has_a_bar_and_lines_above_it(terminal, capsys):
    with Log(None, total=40, start=8) as log:
        assert "compiling" in terminal.getvalue()
        assert "8/40" in terminal.getvalue()
        log.say("a [bold] line")
        log.warn("twice")
        log.warn("twice")
        log.timer.mean = 0.5
        log.progress(30)
    text = terminal.getvalue()
    assert "a [bold] line" in text  # no markup
    assert text.count("warning: twice") == 1
    assert log.warnings == ["twice"]
    assert "30/40" in text
    assert "500. ms/step, 0:05 left" in text
    assert capsys.readouterr().err == ""


def test_without_a_terminal_lines_come_every_few_seconds(monkeypatch, capsys):
    now = [100.0]
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(logs, "time", clock)
    log = Log(None, total=40, start=0)
    for step, moment in ((1, 100.0), (2, 104.9), (3, 105.0), (40, 105.1)):
        now[0] = moment
        log.progress(step)
    log.timer.mean = 120.0
    now[0] = 200.0
    log.progress(10)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "sdsjax: step 1/40",
        "sdsjax: step 3/40",
        "sdsjax: step 40/40",  # the last one always
        "sdsjax: step 10/40, 120. s/step, 1:00:00 left",
    ]


def test_a_process_that_follows_another_says_only_warnings(terminal, capsys):
    with Log(None, total=4, start=0, quiet=True) as log:
        log.say("nothing")
        log.warn("something")
    assert terminal.getvalue() == ""  # no bar
    assert capsys.readouterr().err == "sdsjax: warning: something\n"


def test_one_run_among_several_says_its_name(tmp_path, capsys):
    with QuietLog("a-red-mug", tmp_path / "board", 40, 0) as log:
        log.say("line")
        log.warn("once")
        log.warn("once")
        log.progress(40)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["sdsjax: a-red-mug: line", "sdsjax: a-red-mug: warning: once"]
    assert log.warnings == ["once"]


def test_a_board_that_cannot_be_written_is_a_warning_once(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    log = Log(tmp_path / "file" / "board", 4, 0)
    log.scalars({"step": 1, "loss": 2.0})
    log.image("view", np.zeros((2, 2, 3), np.uint8), 1)
    log.close()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("this run goes on without TensorBoard")
    assert "Not a directory" in line


def test_a_torch_that_is_there_is_not_imported(tmp_path):
    """tensorboardX imports it, which takes seconds of every job."""
    (tmp_path / "torch.py").write_text("there = 1\n")
    lines = [
        "import sys, sdsjax.runs.logs",
        "assert 'tensorboardX' in sys.modules and 'torch' not in sys.modules",
        "import torch",  # whoever asks for it later finds it
        "assert torch.there",
    ]
    path = os.pathsep.join([str(tmp_path), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-c", "\n".join(lines)]
    subprocess.run(command, env=environment, check=True)


def test_a_library_is_away_only_for_so_long(monkeypatch):
    monkeypatch.delitem(sys.modules, "wave", raising=False)
    with without("wave"), pytest.raises(ImportError):
        import wave
    with pytest.raises(KeyError), without("wave"):
        raise KeyError
    import wave

    with without("wave"):  # imported already: nothing to save
        assert sys.modules["wave"] is wave
    assert sys.modules["wave"] is wave

"""The studio's page without a browser: its form, its queue, its gallery."""

import json
import os
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from panel import Client, Page, first_centre, moved
from PIL import Image
from tiny_run import gaussians

from sdsjax.live import studio as studios
from sdsjax.live.jobs import Job, Jobs
from sdsjax.live.studio import Studio, keep_fresh
from sdsjax.runs.run_directory import RunError
from sdsjax.training.build.finished_run import FinishedRun

CONFIG = gaussians()


class Queue(Jobs):
    """A queue that starts nothing: what is running is said."""

    def __init__(self):
        super().__init__()
        self._process = SimpleNamespace(terminate=lambda: None)


@pytest.fixture
def page():
    return Page()


@pytest.fixture
def jobs():
    return Queue()


@pytest.fixture
def asked():
    """What the panel has said, of each start."""
    return []


@pytest.fixture
def read(monkeypatch):
    """The steps that are read of runs, by name, and which were read."""
    runs, done = {}, []

    def read_newest(run):
        done.append(run.name)
        if run.name not in runs:
            raise RunError(f"{run.name} <has> no\ncheckpoint yet")
        return FinishedRun(CONFIG, runs[run.name], moved(runs[run.name]), None)

    monkeypatch.setattr(studios, "read_newest", read_newest)
    return SimpleNamespace(runs=runs, done=done)


@pytest.fixture
def studio(page, jobs, asked, read, tmp_path):
    def plan(*said):
        asked.append(said)
        if "&" in said[0]:
            raise ValueError(f"no such\nprompt: {said[0]}")
        return Job(tmp_path / said[0].replace(" ", "-"), ["true"])

    names = ("ssd", "sds")
    return Studio(page, tmp_path, jobs, plan, names, settings="batch_size=2")


def begin(folder, name, *steps, began=1.0):
    """A run of a folder that has saved these steps."""
    run = folder / name
    run.mkdir(exist_ok=True)
    (run / "run.json").write_text("{}")
    config = {"prompt": f"a {name}", "representation": {"name": "gaussians"}}
    (run / "config.json").write_text(json.dumps(config))
    os.utime(run / "config.json", (began, began))
    for step in steps:
        (run / "checkpoints" / str(step)).mkdir(parents=True, exist_ok=True)
    return run


def test_start_makes_the_job_that_the_panel_says(studio, page, jobs, asked, tmp_path):
    assert page["config"].options == ("ssd", "sds")
    page["prompt"].value, page["config"].value = "a blue mug", "sds"
    page["seed"].value, page["steps"].value = 3.0, 40.0
    page["Start"].click()
    assert asked == [("a blue mug", "sds", 3, 40, "batch_size=2")]
    assert [type(n) for n in asked[0][2:4]] == [int, int]
    assert [job.folder for job in jobs.list()] == [tmp_path / "a-blue-mug"]
    answer, queue = page.gui.texts[:2]
    assert (answer.content, queue.content) == ("", "**a-blue-mug**: waiting  \n")
    page["Start"].click()  # once more
    assert answer.content == "**a-blue-mug is in the queue**"
    assert len(jobs.list()) == 1


def test_a_mistake_of_the_form_is_one_escaped_line(studio, page, jobs):
    page["prompt"].value = "a & b"
    page["Start"].click()
    assert page.gui.texts[0].content == "**no such prompt: a &amp; b**"
    assert jobs.list() == []


def test_stop_and_clear_reach_what_runs_and_what_waits(studio, page, jobs, tmp_path):
    running, waiting, other = (Job(tmp_path / name, []) for name in "abc")
    assert all(map(jobs.add, (running, waiting, other)))
    running.status, running.news = "running", "step 3 <b>"
    studio.refresh_queue()
    said = page.gui.texts[1].content
    assert said.startswith("**c**: waiting")  # the newest first
    assert said.endswith("\n\n**a**: running  \nstep 3 &lt;b&gt;")
    page["Clear queue"].click()
    found = [job.status for job in jobs.list()]
    assert found == ["running", "stopped", "stopped"]
    page["Stop"].click()
    assert running.status == "stopped"


def test_an_empty_folder_has_no_run_to_show(studio, page):
    studio.refresh()
    assert studio.selected() is None
    assert page.gui.texts[1].content == "the queue is empty"
    assert page.gui.texts[3].content == "no runs yet"
    client = Client()
    page["Download"].click(client)
    assert (client.notes, client.files) == ([], [])


def test_the_newest_run_is_shown_and_read_again_once_it_has_saved(
    studio, page, read, tmp_path
):
    read.runs.update(old=3, new=5)
    begin(tmp_path, "old", 3, began=1.0)
    begin(tmp_path, "new", 5, began=2.0)
    studio.refresh()
    assert page["run"].options == ("new", "old")
    assert studio.selected() == tmp_path / "new"
    shown = page.scene.nodes["/asset/asset"]
    assert first_centre(shown) == 5.0
    assert "step 5, not finished" in page.gui.texts[2].content
    assert "| old | a old | 3 ... |" in page.gui.texts[3].content
    studio.refresh()
    assert read.done == ["new"]  # nothing has changed
    read.runs["new"] = 8
    begin(tmp_path, "new", 8, began=2.0)
    studio.refresh()
    assert read.done == ["new", "new"]
    assert page.scene.nodes["/asset/asset"] is shown  # given new arrays
    assert first_centre(shown) == 8.0
    (tmp_path / "new" / "finished.json").write_text("{}")
    studio.refresh()
    assert "step 8, finished" in page.gui.texts[2].content
    first = page.scene.nodes["/asset"]
    page["run"].value = "old"
    studio.refresh()
    assert first.removed  # the stand of the one before
    assert first_centre(page.scene.nodes["/asset/asset"]) == 3.0
    assert "step 3, not finished" in page.gui.texts[2].content
    assert "ply" in page["format"].options
    studio.refresh()
    assert studio.selected() == tmp_path / "old"  # the choice is kept


def test_a_run_that_cannot_be_read_says_why(studio, page, tmp_path):
    begin(tmp_path, "bad", 3)
    studio.refresh()
    said = "bad &lt;has&gt; no checkpoint yet"
    assert page.gui.texts[2].content == said


def test_a_run_that_was_started_here_is_shown_once_it_begins(
    studio, page, jobs, read, tmp_path
):
    begin(tmp_path, "b", 1, began=9.0)
    read.runs.update(a=2, b=1)
    studio.refresh()
    page["prompt"].value = "a"
    page["Start"].click()
    jobs.list()[0].status = "running"
    studio.refresh()
    assert page["run"].value == "b"  # it has no directory yet
    begin(tmp_path, "a", 2, began=1.0)
    studio.refresh()
    assert page["run"].value == "a"
    page["run"].value = "b"
    studio.refresh()
    assert page["run"].value == "b"  # once


def test_the_newest_picture_is_shown(studio, page, tmp_path):
    run = begin(tmp_path, "a")
    studio.refresh()
    assert not page["picture"].visible
    (run / "previews").mkdir()
    for step, grey in ((2, 50), (10, 90)):
        picture = np.full((2, 4, 3), grey, np.uint8)
        Image.fromarray(picture).save(run / "previews" / f"step-{step}.png")
    studio.refresh()
    assert page["picture"].visible
    first = page["picture"].image
    assert first.shape == (240, 480, 3)
    assert (first == 90).all()
    studio.refresh()
    assert page["picture"].image is first  # not sent again
    (run / "finished.json").write_text("{}")
    Image.fromarray(np.full((4, 4, 3), 200, np.uint8)).save(run / "views.png")
    studio.refresh()
    assert (page["picture"].image == 200).all()
    # one that is being written is no picture: the one before is
    (run / "views.png").write_bytes(b"half")
    studio.refresh()
    assert (page["picture"].image == 90).all()


def test_a_download_is_sent_or_says_why_not(studio, page, tmp_path, monkeypatch):
    begin(tmp_path, "a")
    studio.refresh()
    page["format"].value = "spz"
    written = []

    def download(run, name):
        written.append((run, name))
        return "a-splats.spz", b"splats"

    monkeypatch.setattr(studios, "download", download)
    client = Client()
    page["Download"].click(client)
    assert written == [(tmp_path / "a", "spz")]
    assert client.files == [("a-splats.spz", b"splats", True)]
    assert client.notes[0].removed

    def fail(run, name):
        raise RunError("no\nmesh")

    monkeypatch.setattr(studios, "download", fail)
    page["Download"].click(client)
    assert len(client.files) == 1
    assert (client.notes[1].body, client.notes[1].loading) == ("no mesh", False)
    assert not client.notes[1].removed


def test_looking_goes_on_where_a_file_is_gone_just_now(monkeypatch):
    stop, looks = threading.Event(), []

    def refresh():
        looks.append(1)
        if len(looks) == 3:
            stop.set()
        raise (OSError, ValueError, RuntimeError)[len(looks) - 1]

    monkeypatch.setattr(studios, "SECONDS", 0.001)
    keep_fresh(SimpleNamespace(refresh=refresh), stop)
    assert len(looks) == 3

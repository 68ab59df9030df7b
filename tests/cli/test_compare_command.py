"""`python -m sdsjax.compare`: pages of several runs, and its mistakes."""

import json
import re

import pytest

from sdsjax.cli.compare_command import cli


def run(folder, prompt, finished=True, **truth):
    """What a run leaves behind, as far as pages of several runs look at it."""
    folder.mkdir(parents=True)
    config = {"prompt": prompt, "estimator": {"name": "ssd"}}
    metrics = {"prompt": prompt, "truth": truth, "status": "finished"}
    files = {"run.json": {}, "config.json": config, "metrics.json": metrics}
    if finished:
        files["finished.json"] = {"step": 3}
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "report.html").write_text("<p>a report</p>")
    (folder / "views.png").write_bytes(b"png")
    return folder


@pytest.fixture
def runs(tmp_path):
    return [
        str(run(tmp_path / "runs" / "a b", "a red <mug>", iou=0.9)),
        str(run(tmp_path / "runs" / "c", "a blue mug", finished=False, iou=0.8)),
    ]


def test_runs_are_compared_and_the_page_is_written_again(runs, tmp_path, capsys):
    out = tmp_path / "page.html"
    for _ in range(2):
        assert cli([*runs, f"--out={out}"]) == 0
    page = out.read_text()
    assert "<strong>0.9</strong>" in page
    assert "<mug>" not in page
    assert str(out) in capsys.readouterr().out


def test_a_gallery_links_to_the_runs_of_a_folder(runs, tmp_path, capsys):
    folder = tmp_path / "runs"
    (folder / "notes").mkdir()
    for _ in range(2):
        assert cli([f"--gallery={folder}"]) == 0
    page = (folder / "index.html").read_text()
    assert 'href="a%20b/report.html"' in page
    assert 'src="c/views.png"' in page
    assert "unfinished" in page
    assert "<mug>" not in page
    assert "notes" not in page
    assert str(folder / "index.html") in capsys.readouterr().out


MISTAKES = {
    "nothing": ([], "at least two"),
    "one": (["A"], "one run alone"),
    "gone": (["A", "none"], "does not exist"),
    "file": (["A", "A/run.json"], "is a file"),
    "twice": (["A", "A"], "twice"),
    "no run": (["A", "EMPTY"], "no readable metrics.json"),
    "run and list": (["A", "FOLDER"], "lists with lists"),
    "out folder": (["A", "B", "--out=FOLDER"], "is a folder"),
    "out other": (["A", "B", "--out=A/metrics.json"], "did not write"),
    "out nowhere": (["A", "B", "--out=none/x.html"], "there is no folder"),
    "flag": (["A", "B", "--into=x"], "--into"),
    "gallery and runs": (["A", "--gallery=FOLDER"], "leave out"),
    "gallery gone": (["--gallery=none"], "does not exist"),
    "gallery empty": (["--gallery=A"], "holds no runs"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_nothing_is_written(name, runs, tmp_path, capsys):
    words, said = MISTAKES[name]
    places = {"A": runs[0], "B": runs[1], "FOLDER": str(tmp_path / "runs")}
    places["EMPTY"] = str(tmp_path / "empty")
    (tmp_path / "empty").mkdir()
    argv = []
    for word in words:
        flag, sign, value = word.rpartition("=")
        head, slash, rest = value.partition("/")
        argv.append(flag + sign + places.get(head, head) + slash + rest)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert cli(argv) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert said in lines[0]
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_an_index_of_somebody_else_stays(runs, tmp_path, capsys):
    mine = tmp_path / "runs" / "index.html"
    mine.write_text("my own page")
    assert cli([f"--gallery={tmp_path / 'runs'}"]) == 2
    assert mine.read_text() == "my own page"
    assert "not written by sdsjax" in capsys.readouterr().err


ODD = ("{", "[]", "3", '{"estimator": ["x"], "prompt": {"a": 1}}', "\xff", None)
ODD_METRICS = (
    '{"status": ["x"], "prompt": 3, "truth": [1]}',
    '{"truth": {"iou": NaN, "psnr": "high", "janus_rate": Infinity}}',
    *ODD,
)


def test_a_gallery_shows_broken_runs_too(tmp_path, capsys):
    """Whatever stands in their files: they are listed, and never a traceback."""
    cases = [(c, m) for c in ODD for m in ODD_METRICS]
    for i, (config, metrics) in enumerate(cases):
        run = tmp_path / f"run {i} <b> ü%"
        run.mkdir()
        (run / "run.json").write_text("{")
        for name, text in (("config.json", config), ("metrics.json", metrics)):
            if text is not None:
                (run / name).write_text(text, encoding="latin-1")
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    assert cli([f"--gallery={tmp_path}"]) == 0
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert html.count("<figure>") == len(cases)
    assert "<b>" not in html
    assert not re.search(r"\b(nan|inf)\b", html)
    assert str(tmp_path / "index.html") in capsys.readouterr().out

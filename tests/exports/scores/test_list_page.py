"""The page of several lists: every prompt, what is missing, differences by hand."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from sdsjax.evaluation.records import Figure
from sdsjax.exports.scores.columns import (
    Column,
    Shown,
    config_of,
    incomparable,
    read_shown,
)
from sdsjax.exports.scores.list_page import list_page, means_table, write_list_page

EVIL = 'a <b onclick="x">"red"</b> & mug'


def column(name, folder, values, by="n"):
    assets = {}
    for prompt, value in values.items():
        figures = {} if value is None else {"clip_similarity": Figure(value, by)}
        status = "finished" if value is not None else "diverged"
        assets[prompt] = Shown(status, "a NaN", folder / "none", figures)
    return Column(name, "ssd", assets)


def cells(table):
    plain = re.sub(r"<br>", " ", table)
    rows = re.findall(r"<tr>(.*?)</tr>", plain)
    return [[re.sub("<.*?>", "", c) for c in re.split(r"</t[hd]>", r)] for r in rows]


def test_means_differences_and_wins_are_those_by_hand(tmp_path):
    one = column("A", tmp_path, {"a": 0.10, "b": 0.20, "c": 0.60, "d": None})
    two = column("B", tmp_path, {"a": 0.20, "b": 0.20, "c": 0.90, "d": 0.50})
    (_, row) = cells(means_table([one, two]))
    # B - A of a, b, c: .1, 0, .3: mean .1333, deviation .1528, error .0882
    assert row[1] == "0.3 ± 0.15 of 3"
    assert row[2] == "0.45 ± 0.17 of 4"
    assert row[3] == "0.1333 ± 0.088 better 2, worse 0, 1 equal"
    assert "<strong>" not in means_table([one, two])
    # .034 +- .013 of three prompts: 2.6 errors, where Student's interval has 4.3
    likely = column("E", tmp_path, {"a": 0.114, "b": 0.229, "c": 0.659, "d": 0.5})
    assert "0.034 ± 0.013" in means_table([one, likely])
    assert "<strong>" not in means_table([one, likely])
    sure = column("C", tmp_path, {"a": 0.30, "b": 0.41, "c": 0.80, "d": 0.5})
    assert "<strong>0.2033 ± 0.0033</strong>" in means_table([one, sure])
    assert cells(means_table([one, column("D", tmp_path, dict.fromkeys("abcd"))]))[1][
        2:4
    ] == ["- of 0", "-"]


def test_numbers_by_other_networks_are_shown_and_not_compared(tmp_path):
    one = column("A", tmp_path, {"a": 0.1, "b": 0.3})
    two = column("B", tmp_path, {"a": 0.2, "b": 0.2}, by="another")
    assert incomparable([one, two]) == ["clip_similarity"]
    assert incomparable([one, one]) == []
    page = list_page({"": ["a", "b"]}, [one, two], tmp_path)
    assert "CLIP similarity was not measured by the same" in page
    assert means_table([one, two]) == ""
    assert "<span>0.2</span>" in page
    assert "<strong>0.2</strong>" not in page
    two = column("B", tmp_path, {"a": 0.2, "b": 0.2})
    page = list_page({"": ["a", "b"]}, [one, two], tmp_path)
    assert "<strong>0.2</strong>" in page
    assert "<strong>0.3</strong>" in page


@pytest.fixture
def lists(tmp_path):
    """Two lists on disk, of which one asset is missing; prompts that need escapes."""
    columns = []
    for name in ("ssd <i>", "sds"):
        assets = {}
        for number, prompt in enumerate((EVIL, "a blue chair")):
            run = tmp_path / name / f"run {number}"
            run.mkdir(parents=True)
            truth = {"iou": 0.5 + 0.1 * number, "janus_rate": None, "psnr": "high"}
            metrics = {"truth": truth, "seconds": 12.0}
            (run / "metrics.json").write_text(json.dumps(metrics))
            (run / "report.html").write_text("a report")
            picture = np.full((20, 600, 3), 80 * number, np.uint8)
            Image.fromarray(picture).save(run / "views.png")
            assets[prompt] = read_shown(run, "finished")
        columns.append(Column(name, "ssd<x>", assets))
    gone = read_shown(tmp_path / "sds" / "gone", "diverged", "step 3 <NaN>")
    columns[1].assets["a blue chair"] = gone
    return columns


def test_the_page_is_whole_escaped_and_offline(lists, tmp_path):
    groups = {"Single <object>": [EVIL], "": ["a blue chair"]}
    path = write_list_page(tmp_path / "page.html", groups, lists)
    html = path.read_text()
    assert html.count("data:image/webp;base64,") == 3
    for raw in ("<b onclick", "<i>", "<x>", "<object>", "<NaN>"):
        assert raw not in html
    assert "a &lt;b onclick=&quot;x&quot;&gt;" in html
    assert "step 3 &lt;NaN&gt;" in html
    assert '<span class="badge aborted">diverged</span>' in html
    assert "1 of 2 assets failed or are missing" in html
    assert not re.search(r"https?://|src=\"(?!data:)", html)
    links = re.findall(r'href="([^"]+)"', html)
    assert "ssd%20%3Ci%3E/run%201/report.html" in links
    assert not re.search(r"\b(nan|inf)\b", html)
    # moved together, links still lead somewhere
    assert all(not link.startswith("/") for link in links)


def test_odd_files_are_no_figures(tmp_path):
    for text in (
        "",
        "[]",
        '{"truth": [1]}',
        '{"truth": {"iou": NaN}, "seconds": true}',
    ):
        (tmp_path / "metrics.json").write_text(text)
        assert read_shown(tmp_path, "finished").figures == {}
    for text in ("{", '{"sessions": 3}', '{"sessions": [{"command": 4}]}'):
        (tmp_path / "run.json").write_text(text)
        assert config_of(tmp_path) == ""
    command = ["python", "--config=ssd:toybox", "--config.seed=3"]
    (tmp_path / "run.json").write_text(json.dumps({"sessions": [{"command": command}]}))
    assert config_of(tmp_path) == "ssd:toybox"

"""The report's section of numbers by other networks: put in, replaced, escaped."""

from pathlib import Path

from sdsjax.exports.scores.section import BEGIN, END, numbers_html, replace_section

CLIP = {
    "similarity": 0.31,
    "r_precision": 0.75,
    "captions": 4,
    "captions_from": "<list>",
    "network": "a <b>folder</b>",
    "by": {"similarity": "a", "r_precision": "a"},
    "views": {"orbits": [[0, 0, 3]] * 16},
}
RUN = Path("runs/a b")


def test_what_is_missing_is_said_with_its_command():
    nothing = numbers_html({}, RUN)
    assert "python -m sdsjax.evaluate &#x27;runs/a b&#x27;" in nothing
    assert "LPIPS needs weights" in nothing
    some = numbers_html({"clip": CLIP}, RUN)
    assert "0.31" in some
    assert "0.75" in some
    assert "16 fixed views" in some
    assert "any other of 4 captions (&lt;list&gt;)" in some
    assert "<b>" not in some
    assert "LPIPS needs weights" in some
    alone = {**CLIP, "r_precision": None, "by": {"similarity": "a"}}
    assert "--captions=FILE" in numbers_html({"clip": alone}, RUN)
    lpips = {"truth": 0.2, "by": {"truth": "x"}}
    whole = numbers_html({"clip": CLIP, "lpips": lpips}, RUN)
    assert "LPIPS to the truth <small>(lower is better)" in whole
    assert "needs" not in whole


def test_a_report_keeps_all_else_and_one_without_a_place_is_left(tmp_path):
    report = tmp_path / "report.html"
    assert not replace_section(report, {}, RUN)
    for text in ("somebody's page", f"no end {BEGIN}"):
        report.write_text(text)
        assert not replace_section(report, {"clip": CLIP}, RUN)
        assert report.read_text() == text
    report.write_text(f"before {BEGIN}old{END} after")
    for _ in range(2):
        assert replace_section(report, {"clip": CLIP}, RUN)
        page = report.read_text()
        assert page.startswith("before ")
        assert page.endswith(" after")
        assert page.count(BEGIN) == page.count(END) == page.count("0.31") == 1

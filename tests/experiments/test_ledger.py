"""The claims ledger: a row's experiment is there, and has its verdict and numbers."""

import re

import pytest
from experiment_folder import FOLDER, load
from test_reports import REPORTS

LEDGER = load("", "ledger")
ROWS = LEDGER.claims()
PAPERS = {"SSD", "SteinDreamer", "HiFA", "StableDreamer"}
MEASURED = {"reproduces", "in part", "in sign only", "does not reproduce"}
UNMEASURED = {"not yet tested", "cannot be tested here"}
ALLOWED = {"also", "note", "command", "picture", "figure"}
NEEDED = {"id", "paper", "place", "claim", "experiment", "verdict"}
NUMBER = r"\d*\.?\d+"


def named(row):
    return row["id"]


def normal(text):
    """Text on one line; 0.5 and 6e+01 as .5 and 60; no thousands' spaces, no marks."""
    text = re.sub(r"(\d)e\+0*(\d+)", lambda m: m[1] + "0" * int(m[2]), text)
    text = re.sub(r"(?<![\d.])0(\.\d)", r"\1", text.replace("**", ""))
    return " ".join(text.split())


def claims_section(experiment):
    """The verdicts under "Claims" of an experiment's README by the row's name."""
    text = (FOLDER / experiment / "README.md").read_text()
    _, _, section = text.partition("\n## Claims\n")
    return dict(re.findall(r"^- ([A-Z]+-\d+): (.+)$", section, re.MULTILINE))


def measured_text(row):
    """What an experiment's README says before its claims, and its tables."""
    found = []
    for name in (row["experiment"], *row.get("also", [])):
        readme = (FOLDER / name / "README.md").read_text()
        found.append(readme.partition("\n## Claims\n")[0])
        found += [p.read_text() for p in (FOLDER / name / "results").glob("*.md")]
    return normal(" ".join(found))


def missing_numbers(figure, text):
    """The numbers of a figure, pairs "a +- b" as one, that a text does not have."""
    figure = normal(figure)
    pairs = re.findall(rf"{NUMBER} \+- {NUMBER}", figure)
    lone = re.findall(NUMBER, re.sub(rf"{NUMBER} \+- {NUMBER}", " ", figure))
    return [
        wanted
        for wanted in (*pairs, *lone)
        if not re.search(rf"(?<![\d.]){re.escape(wanted)}(?!\.?\d)", text)
    ]


@pytest.mark.parametrize("row", ROWS, ids=named)
def test_a_row_is_whole_and_leads_somewhere(row):
    assert set(row) >= NEEDED
    assert set(row) <= NEEDED | ALLOWED
    assert row["paper"] in PAPERS
    assert row["verdict"] in MEASURED | UNMEASURED
    for name in (row["experiment"], *row.get("also", [])):
        assert (FOLDER / name / "run.py").is_file()
    if row["verdict"] in MEASURED:
        said = row["figure"] + row.get("note", "")
        errors = r"\+- |95%:|no error|without error|exact|closed form|seeds move it"
        assert re.search(errors, said), "with its error, or that it has none"
    else:
        assert len(row["note"]) > 20, "the reason"
        assert "figure" not in row
    assert ("command" in row) == (row["verdict"] != "cannot be tested here")
    if "command" in row and not row["command"].startswith("-m "):
        assert (FOLDER / row["command"].split()[0]).is_file()
    if "picture" in row:
        assert (FOLDER / row["picture"]).is_file()
        owners = [row["experiment"], *row.get("also", [])]
        assert row["picture"].split("/")[0] in owners
    assert not any("|" in value for value in row.values())  # it ends a table's cell


@pytest.mark.parametrize("row", ROWS, ids=named)
def test_the_experiment_s_readme_has_the_verdict(row):
    assert claims_section(row["experiment"]).get(row["id"]) == row["verdict"]


def test_no_readme_has_a_verdict_of_no_row():
    said = {
        (name, claim)
        for path in FOLDER.glob("*/README.md")
        for name in [path.parent.name]
        for claim in claims_section(name)
    }
    assert said == {(row["experiment"], row["id"]) for row in ROWS}


@pytest.mark.parametrize("row", [r for r in ROWS if "figure" in r], ids=named)
def test_every_number_stands_in_the_experiment(row):
    assert not missing_numbers(row["figure"], measured_text(row))


def test_a_number_that_nobody_measured_is_found():
    text = normal("we found 0.934 +- 0.009, 2426 +- 6e+01 and\n**.5 +- .1** of 16")
    assert not missing_numbers(".934 +- .009, 2426 +- 60, .5 +- .1 of 16", text)
    assert missing_numbers(".935 +- .009", text) == [".935 +- .009"]
    assert missing_numbers(".934 +- .1", text) == [".934 +- .1"]
    assert missing_numbers("16 of 17", text) == ["17"]
    assert missing_numbers("93", text) == ["93"]  # .934 is no 93


def test_names_are_in_order_and_every_paper_has_its_share():
    by_paper = {paper: [] for paper in PAPERS}
    for row in ROWS:
        by_paper[row["paper"]].append(int(row["id"].split("-")[1]))
    assert all(ns == list(range(1, len(ns) + 1)) for ns in by_paper.values())
    least = {"SSD": 12, "SteinDreamer": 10, "HiFA": 10, "StableDreamer": 8}
    assert all(len(by_paper[paper]) >= n for paper, n in least.items())


def test_the_commands_are_those_that_make_the_reports():
    shown = {
        row["picture"].rpartition(".")[0]: sorted(row["command"].split())
        for row in ROWS
        if "picture" in row
    }
    made = {
        f"{name}/results/{stem}": sorted((f"{name}/run.py", *arguments))
        for name, arguments, stem, _ in REPORTS
    }
    both = set(shown) & set(made)
    assert len(both) > 8
    assert {at: shown[at] for at in both} == {at: made[at] for at in both}


def test_the_readme_s_ledger_is_that_of_the_rows():
    text = (FOLDER / "README.md").read_text()
    assert LEDGER.with_ledger(text) == text, "run python experiments/ledger.py"
    for word, meaning in LEDGER.VERDICTS.items():
        assert f"\n| {word} | {meaning} |\n" in text
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert (FOLDER / target).exists(), target

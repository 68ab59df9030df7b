"""Writes the claims ledger of README.md from claims.toml.

    python experiments/ledger.py

A table of verdicts by paper, then a table a paper. The verdict of a row is also in its
experiment's README, under "Claims": tests/experiments/test_ledger.py compares them.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from sdsjax.studies.report import markdown_table

HERE = Path(__file__).resolve().parent
README = HERE / "README.md"
BEGIN, END = "<!-- written by ledger.py from claims.toml -->", "<!-- end -->"
# name in a row: what a reader is told of it
PAPERS = {
    "SSD": "Stable Score Distillation, arXiv 2312.09305",
    "SteinDreamer": "SteinDreamer, arXiv 2401.00604",
    "HiFA": "HiFA, arXiv 2305.18766",
    "StableDreamer": "StableDreamer, arXiv 2312.02189",
}
VERDICTS = {
    "reproduces": "in sign and in size, under the conditions that the row gives",
    "in part": "under some of the conditions that were measured, not under others",
    "in sign only": "the sign is right, the size is not worth having",
    "does not reproduce": "no effect beyond the error, or the other sign",
    "not yet tested": "it could be, by the command given",
    "cannot be tested here": "for the reason given",
}


def claims() -> list[dict]:
    """The rows of claims.toml, in its order, each with the command that makes it.

    That of a measured row is the one that made its picture, where it has one.
    """
    read = tomllib.loads((HERE / "claims.toml").read_text())
    for row in read["claim"]:
        if "picture" in row:
            row["command"] = read["commands"][row["picture"].rpartition(".")[0]]
    return read["claim"]


def verdicts_by_paper(rows: Sequence[dict]) -> list[str]:
    """How many claims of each paper have each verdict."""
    counts = {
        paper: Counter(row["verdict"] for row in rows if row["paper"] == paper)
        for paper in PAPERS
    }
    lines = [
        [paper, *(f"{counts[paper][v] or ''}" for v in VERDICTS), f"{sum(c.values())}"]
        for paper, c in counts.items()
    ]
    total = Counter(row["verdict"] for row in rows)
    lines.append(["all", *(f"{total[v]}" for v in VERDICTS), f"{len(rows)}"])
    return markdown_table(["claims of", *VERDICTS, "rows"], lines)


def place(row: dict) -> str:
    """Where to look: the README that has the verdict, the picture, the command."""
    names = [row["experiment"], *row.get("also", [])]
    shown = [f"[{name}]({name}/README.md)" for name in names]
    if "picture" in row:
        kind = "figure" if row["picture"].endswith(".png") else "table"
        shown.append(f"[{kind}]({row['picture']})")
    if "command" in row:
        shown.append(f"`{row['command']}`")
    return ", ".join(shown)


def cells(row: dict) -> list[str]:
    """A claim's line."""
    said = "<br>".join(row[key] for key in ("figure", "note") if key in row)
    verdict = f"**{row['verdict']}**"
    return [row["id"], row["claim"], row["place"], verdict, said, place(row)]


def ledger(rows: Sequence[dict]) -> str:
    """The Markdown between README.md's two marks."""
    lines = [*verdicts_by_paper(rows), ""]
    heads = ("", "claim", "where", "verdict", "figure; conditions", "look at")
    for paper, title in PAPERS.items():
        own = [row for row in rows if row["paper"] == paper]
        summary = f"<summary><b>{title}</b>: {len(own)} claims</summary>"
        lines += [
            "<details>",
            summary,
            "",
            *markdown_table(heads, [cells(r) for r in own]),
        ]
        lines += ["", "</details>", ""]
    return "\n".join(lines)


def with_ledger(text: str) -> str:
    """README.md's text with its ledger made anew."""
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n\n{ledger(claims())}\n{END}{after}"


if __name__ == "__main__":
    README.write_text(with_ledger(README.read_text()))
    print(README)

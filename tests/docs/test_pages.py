"""The pages: the tables are those of the program, links and keys are real ones."""

import importlib.util
import re
from pathlib import Path

import pytest

from sdsjax.cli.overrides import hyperparameters
from sdsjax.cli.ranges import RANGES
from sdsjax.training.build import FACTORIES, LOSSES

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("generate_docs", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["config.md", "experiments.md"])
def test_a_table_is_what_the_program_says(name, generate):
    committed = (DOCS / "reference" / name).read_text()
    assert committed == generate.PAGES[name](), "run python docs/generate.py"


def test_every_range_and_every_key_is_in_the_table(generate):
    text = (DOCS / "reference" / "config.md").read_text()
    rows = dict(re.findall(r"^\| `([\w.]+)` \|(.*)$", text, re.MULTILINE))
    for section, factories in FACTORIES.items():
        for factory in factories.values():
            for key in hyperparameters(factory):
                assert f"{section}.{key}" in rows
    assert "| views | 1 .. 4,096 |" in rows["batch_size"]
    assert "degrees | -90 .. 90" in rows["camera.elevation"]
    assert "`sds`, `mode_seeking`" in rows["estimator.name"]
    shown = [p for p in RANGES if "*" not in p and not p.startswith("losses")]
    assert not [key for key in shown if key not in rows]


def test_the_keys_that_threestudio_s_users_are_told_exist():
    text = (DOCS / "reference" / "config.md").read_text()
    known = set(re.findall(r"^\| `([\w.]+)` \|", text, re.MULTILINE))
    weighed = {f"losses.{name}" for names in LOSSES.values() for name in names}
    table = (DOCS / "from-threestudio.md").read_text()
    for line in table.splitlines():
        if not line.startswith("| `"):
            continue
        ours = line.split("|")[2]
        for key in re.findall(r"`([a-z_]+\.[a-z_0-9.]+)", ours):
            there = key in known | weighed or any(k.startswith(key) for k in known)
            assert there, key


def test_every_page_is_in_the_table_of_contents():
    """Sphinx warns of one that is not, and warnings are errors."""
    lines = (DOCS / "index.md").read_text().splitlines()
    for page in PAGES:
        name = str(page.relative_to(DOCS).with_suffix(""))
        assert name == "index" or name in lines


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(DOCS)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target
    for name in re.findall(r"literalinclude\} (\S+)", page.read_text()):
        assert (page.parent / name).is_file()

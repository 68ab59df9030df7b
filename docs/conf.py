"""Sphinx's settings: Markdown by myst-nb, the API by autodoc, everything offline.

The notebooks are those of experiments/notebooks, copied beside the pages when they are
built and not run there: the slow tests run them.
"""

import json
import re
import sys
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

project = "sdsjax"
author = "the sdsjax authors"
extensions = ["myst_nb", "sphinx.ext.autodoc"]
html_theme = "furo"
html_show_copyright = False
html_title = "sdsjax"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
exclude_patterns = ["_build"]
NOTEBOOKS = HERE.parent / "experiments" / "notebooks"
BADGE = re.compile(r"!\[([^\]]*)\]\(https?://[^)]*\)")  # a picture from the network
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "off"
html_math_renderer = "mathml"  # browsers show it with no script and no network
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": False}
REPOSITORY = "https://github.com/sdsjax/sdsjax/blob/main/"


def as_literal_text(lines: list[str]) -> list[str]:
    """Reads a docstring as plain text: marks are escaped, indented blocks kept."""
    out: list[str] = []
    inside = False
    for line in lines:
        indented = line.startswith("    ")
        if indented and not inside:
            out += ["", "::", ""]
        elif inside and not indented and line.strip():
            out.append("")
        inside = indented or (inside and not line.strip())
        if indented or not line.strip():
            out.append(line)
        else:
            out.append(escaped(line.strip()))
    return out


def escaped(line: str) -> str:
    """Escapes what reStructuredText would read as marks, but for `code`."""
    parts = line.split("`")
    text = [re.sub(r"([\\*|_])", r"\\\1", part) for part in parts[::2]]
    parts[::2] = text
    return "``".join(parts) if len(parts) % 2 else "\\`".join(text)


def skip_fields(app, what, name, obj, skip, options):
    """Leaves out a NamedTuple's fields, which its docstring explains."""
    return skip or type(obj).__name__ == "_tuplegetter"


def plain_docstring(app, what, name, obj, options, lines):
    """Replaces a docstring's lines in place (autodoc-process-docstring)."""
    lines[:] = as_literal_text(lines)


def link_to_repository(app, docname, source):
    """Points links that leave docs/ to the repository."""
    source[0] = source[0].replace("](../", f"]({REPOSITORY}")


def copy_notebooks() -> None:
    """Copies the notebooks to docs/notebooks, their badges as words."""
    folder = HERE / "notebooks"
    folder.mkdir(exist_ok=True)
    for path in NOTEBOOKS.glob("*.ipynb"):
        book = json.loads(path.read_text(encoding="utf-8"))
        for cell in book["cells"]:
            if cell["cell_type"] == "markdown":
                cell["source"] = BADGE.sub(r"\1", "".join(cell["source"]))
        text = json.dumps(book)
        copy = folder / path.name
        if not copy.is_file() or copy.read_text(encoding="utf-8") != text:
            copy.write_text(text, encoding="utf-8")


def math(display: str):
    """Makes the visitor that writes a formula as MathML."""

    def visit(writer, node):
        text = node.astext()
        writer.body.append(convert(text, display=display))
        raise nodes.SkipNode

    return visit, None


def setup(app):
    """Connects them."""
    copy_notebooks()
    app.add_html_math_renderer("mathml", math("inline"), math("block"))
    app.connect("autodoc-process-docstring", plain_docstring)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("source-read", link_to_repository)

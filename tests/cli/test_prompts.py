"""`--prompts=FILE`: what a file says, what is refused with its line, what comes out."""

import json
import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sdsjax.cli.checks import resolve
from sdsjax.cli.prompts import Line, parse_prompts, resolve_each, workdirs
from sdsjax.main import cli

TINY = {
    "prior.name": "gaussian_mixture",
    "representation.space": "image",
    "estimator.threshold": 300.0,
    "resolution": 8,
    "batch_size": 2,
    "steps": 4,
    "preview_every": 0,
}
TEXT = st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]))


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Run directories go below an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SDSJAX_COMPILE_CACHE", "0")


def words(*more, config="ssd"):
    return [f"--config={config}", "--prompts=list.txt", *more]


def refused(capsys, *words) -> str:
    """The one line of a command that ends with status 2 and writes nothing."""
    before = sorted(Path().rglob("*"))
    assert cli([*words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("sdsjax: error: ")
    assert said.count("\n") == 1
    assert sorted(Path().rglob("*")) == before
    return said


@given(st.lists(TEXT))
@example(["", "# a", "  a red mug ", "\ta blue # ball", "#"])
def test_prompts_are_the_lines_that_say_something(lines):
    text = "\n".join(lines)
    found = parse_prompts(text)
    expected = [(n, line.strip()) for n, line in enumerate(lines, 1)]
    if not text.startswith("\ufeff"):
        kept = [(n, s) for n, s in expected if s and not s.startswith("#")]
        assert [(line.number, line.prompt) for line in found] == kept
        # other systems' line ends, and a byte order mark, change nothing
        assert parse_prompts("\r\n".join(lines)) == found
        assert parse_prompts("\ufeff" + text) == found


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "list.txt holds no prompt"),
        (b"# a red mug\n\n  \n", "list.txt holds no prompt"),
        (b"a red mug\n\xff\xfe\n", "list.txt:2: not UTF-8"),
        (b"a red mug\n\na red hamburger\n", "list.txt:3: .*'hamburger'"),
        (b"a red mug\n# b\na red mug\n", "list.txt:3: 'a red mug' is in line 1"),
        (b"a red mug\na red mug.\n", "list.txt:2: 'a red mug' is in line 1"),
        (b"a red mug\na red mug, front view\n", "list.txt:2: .*names a view"),
    ],
)
def test_a_bad_line_is_named(content, message, capsys):
    Path("list.txt").write_bytes(content)
    assert re.search(message, refused(capsys, *words()))


def test_other_mistakes_are_one_line(capsys):
    assert "list.txt does not exist" in refused(capsys, *words())
    Path("list.txt").write_text("a red mug\n")
    said = refused(capsys, *words("--config.prompt=a blue ball"))
    assert "leave one out" in said
    assert "needs a config" in refused(capsys, "--prompts=list.txt")
    assert "cannot be read" in refused(capsys, "--config=ssd", "--prompts=.")
    assert "--prompts is empty" in refused(capsys, "--config=ssd", "--prompts=")
    for count in ("0", "-1", "two"):
        said = refused(capsys, *words(f"--assets_per_device={count}"))
        assert "assets_per_device" in said
    said = refused(capsys, "--config=ssd", "--assets_per_device=2")
    assert "goes with --prompts" in said
    # the config's own mistakes are not those of a line
    for mistake in ("steps=0", "negative_prompt=hamburger", "nonsense=1"):
        said = refused(capsys, *words(f"--config.{mistake}"))
        assert "list.txt" not in said
    Path("one").mkdir()
    Path("one/run.json").write_text("{}")
    said = refused(capsys, *words("--workdir=one"))
    assert "directory of one run" in said
    said = refused(capsys, *words("--workdir=list.txt"))
    assert "is a file" in said
    assert "run them one by one" in refused(capsys, *words(config="ssd:exact"))


def test_the_default_prompt_of_a_config_is_nobodys_business():
    # the toybox knows no hamburger, which is what sd21's variants are of
    overrides = {"prior.folder": "toybox-sd", "resolution": "64"}
    lines = [Line(1, "a red mug"), Line(3, "a blue ball!")]
    configs = resolve_each(Path("list.txt"), lines, "ssd:sd21", overrides)
    assert [config.prompt for config in configs] == ["a red mug", "a blue ball"]
    for config in configs:
        assert config == resolve("ssd:sd21", {**overrides, "prompt": config.prompt})


def test_from_the_command_line_to_an_index(capsys):
    Path("list.txt").write_text('a red ball\na <b>"blue"</b> & green ball\n')
    more = [f"--config.{key}={value}" for key, value in TINY.items()]
    argv = words(*more, "--workdir=out dir", config="ssd:image")
    assert cli(argv) == 0
    first = Path("out dir/ssd-image-a-red-ball-0")
    assert json.loads((first / "finished.json").read_text())["step"] == 4
    names = {"config.json", "run.json", "metrics.json", "report.html", "image.png"}
    assert names <= {path.name for path in first.iterdir()}
    page = Path("out dir/index.html").read_text()
    assert "<b>" not in page
    assert "a &lt;b&gt;&quot;blue&quot;&lt;/b&gt; &amp; green ball" in page
    targets = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert "ssd-image-a-red-ball-0/report.html" in targets
    assert not [t for t in targets if t.startswith(("/", "http", "data:"))]
    assert all((Path("out dir") / unquote(target)).is_file() for target in targets)
    # the report's own command is that of the asset alone, and finds it finished
    capsys.readouterr()
    alone = ["--config=ssd:image", "--config.prompt=a red ball", *more]
    assert cli([*alone, f"--workdir={first}"]) == 0
    assert "is finished (step 4): nothing to do" in capsys.readouterr().err
    session = json.loads((first / "run.json").read_text())["sessions"][0]
    assert "--config.prompt=a red ball" in session["command"]
    assert not [word for word in session["command"] if "--prompts" in word]


def test_prompts_of_one_name_get_directories_of_their_own():
    long = "a red ball and a very long story about it, "
    prompts = [long + "first", long + "second", long + "First"]
    configs = [resolve("ssd:image", {**TINY, "prompt": prompt}) for prompt in prompts]
    names = [path.name for path in workdirs(Path("runs"), "ssd-image", configs)]
    assert names[0] == "ssd-image-a-red-ball-and-a-very-long-story-about-i-0"
    assert len(set(names)) == 3
    assert all(name.startswith(names[0]) for name in names)

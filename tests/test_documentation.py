# What the pages promise beyond what their own doctests run: no block that nothing runs, commands
# that name what exists, a recorded run for each example, one version everywhere.

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest

import vmfdist

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.rst") if "_build" not in path.parts)
PAGES = [path for path in PAGES if path.parent.name != "gallery"]  # made by the build
EXAMPLES = sorted(path for path in (DOCS / "examples").glob("*.py") if path.name[0] != "_")
LANGUAGE = re.compile(r"^ *\.\. (?:code-block|code|sourcecode|highlight):: *(\S*)", re.M)
SHELL = re.compile(r"^ *\.\. code-block:: sh\n\n((?: +\S.*\n|\n)+)", re.M)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_python_is_in_blocks_that_run(page: Path) -> None:
    # "text" are commands and outputs that were recorded elsewhere
    assert set(LANGUAGE.findall(page.read_text())) <= {"sh", "text"}


def test_blocks_that_do_not_run_are_found() -> None:
    assert LANGUAGE.findall("a\n\n.. code-block:: python\n\n   1\n") == ["python"]


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.name)
def test_commands_name_files_that_exist(page: Path) -> None:
    shell = SHELL if page.suffix == ".rst" else re.compile("```sh\n(.*?)```", re.S)
    blocks = shell.findall(page.read_text())
    for line in "".join(blocks).splitlines():
        for word in shlex.split(line, comments=True):
            word = word.rpartition("=")[2]  # of a variable that is set
            if word.endswith(".py") or word.startswith(("docs/", "tests/", ".ci/")):
                assert (ROOT / word).exists() or word.startswith("docs/_build"), line


def test_commands_are_found() -> None:
    text = "".join("".join(SHELL.findall(page.read_text())) for page in PAGES)
    assert text.count(".py") > 5
    assert text.count("docs/") > 5


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda script: script.stem)
def test_examples_have_a_recorded_run(script: Path) -> None:
    recorded = DOCS / "recorded" / f"{script.stem}.txt"
    assert recorded.read_text().startswith(f"$ python {script.name}\n")
    assert recorded.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_the_gallery_has_every_example() -> None:
    tiles = re.search(r"TILES = \{(.*?)^\}", (DOCS / "_gallery.py").read_text(), re.S | re.M)
    assert tiles is not None
    assert sorted(re.findall(r'"(.*?)"', tiles[1])) == [script.name for script in EXAMPLES]


def test_one_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.findall(r"^version: (.*)$", citation, re.M) == [vmfdist.__version__]


def test_what_is_tried_is_what_is_promised() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    pairs = re.findall(r'\{ python: "(\S+)", torch: (\S+) \}', workflow)
    assert {release for _, release in pairs} >= {"lowest", "newest"}
    language = "Programming Language :: Python :: "
    named = [f"{language}{python}" for python, _ in pairs]
    assert named == [x for x in project["classifiers"] if x.startswith(f"{language}3.")]
    assert project["requires-python"] == f">={pairs[0][0]}"
    for name, package in (("PyTorch", "torch"), ("Pyro", "pyro-ppl")):
        (lowest,) = [x for x in project["dependencies"] if x.startswith(f"{package}>=")]
        promised = f"{name} (from {lowest.removeprefix(f'{package}>=')})"
        assert promised in " ".join((ROOT / "README.md").read_text().split())
        # .ci/versions reads the line
        line = rf'^dependencies = .*"{re.escape(lowest)}"'
        assert re.search(line, (ROOT / "pyproject.toml").read_text(), re.M)

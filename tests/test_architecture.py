# Imports point down, and public names stay where users import them from.

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "vmfdist"

# From the ground up. Modules of one room may import one another, others only from floors below.
FLOORS = (
    {"_numerics"},
    {"_closed_forms", "_validation"},
    {"_sampling", "_resultant", "special"},
    {"_families"},
    {"cosine", "mixture"},
    {"rotational"},
    {"von_mises_fisher", "power_spherical", "spherical_cauchy", "hyperspherical_uniform"},
    {"kl", "estimation", "infer", "nn", "similarity"},
    {"__init__"},
)
# A wing stands on the wings alone.
WINGS = ("_numerics", "_closed_forms", "_sampling", "_families")

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def floor(module: str) -> int:
    (found,) = (number for number, rooms in enumerate(FLOORS) if room(module) in rooms)
    return found


def imports(source: str) -> Iterator[str]:
    """The modules of the package that a source imports, wherever it does."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "vmfdist":
                yield name if name in MODULES else name.rpartition(".")[0]


def allowed(importer: str, imported: str) -> bool:
    if room(importer) == room(imported):
        return True
    if room(importer) in WINGS and room(imported) not in WINGS:
        return False
    return floor(imported) < floor(importer)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_down(module: str) -> None:
    for imported in imports(MODULES[module].read_text()):
        assert allowed(module, imported), f"{module} imports {imported}"


def test_imports_make_no_circle() -> None:
    graph = {module: set(imports(path.read_text())) for module, path in MODULES.items()}
    assert list(TopologicalSorter(graph).static_order())  # raises CycleError


def test_an_import_upwards_is_found() -> None:
    source = """
import torch, vmfdist.kl
from vmfdist._closed_forms import von_mises_fisher as vmf
if TYPE_CHECKING:
    from vmfdist.cosine import CosineLaw
def late():
    from vmfdist import VonMisesFisher, _resultant
"""
    package, closed_forms, resultant, cosine, kl = found = sorted(imports(source))
    assert found[0] == "vmfdist"
    assert [room(name) for name in found[1:]] == ["_closed_forms", "_resultant", "cosine", "kl"]
    for importer, below in (
        ("vmfdist._numerics.rows", []),
        ("vmfdist._closed_forms.natural", [closed_forms]),
        ("vmfdist._sampling.draw", [closed_forms]),
        ("vmfdist.rotational", [closed_forms, resultant, cosine]),
        ("vmfdist", [package, closed_forms, resultant, cosine, kl]),
    ):
        assert [name for name in found if allowed(importer, name)] == below


# Public names

DIRECTIVE = re.compile(r"^\.\. (?:current|auto)(module|class|function):: +(\S+)", re.M)
EXAMPLE = re.compile(r"^ *(?:>>> )?from (vmfdist(?:\.[a-z]\w*)*) import (\w+(?:, \w+)*)$", re.M)


def described() -> set[tuple[str, str]]:
    """What the reference describes: modules, each with the names in it."""
    found = set()
    for page in (ROOT / "docs" / "api").glob("*.rst"):
        current = "vmfdist"
        for kind, name in DIRECTIVE.findall(page.read_text()):
            if kind == "module":
                current = name
            else:
                module, _, name = f"{current}.{name}".rpartition("vmfdist.")[2].rpartition(".")
                found.add((f"vmfdist.{module}".rstrip("."), name))
    return found


def imported_in_examples() -> set[tuple[str, str]]:
    """What the pages, the examples and the docstrings import."""
    pages = [ROOT / "README.md", *MODULES.values(), *(ROOT / "docs").rglob("*.rst")]
    pages += (ROOT / "docs" / "examples").glob("*.py")
    return {
        (module, name)
        for page in pages
        for module, names in EXAMPLE.findall(page.read_text())
        for name in names.split(", ")
        if name[0] != "_"
    }


@pytest.mark.parametrize(("module", "name"), sorted(described() | imported_in_examples()))
def test_documented_names_are_where_they_should_be(module: str, name: str) -> None:
    found = getattr(importlib.import_module(module), name)
    # What is pickled has a path that stays.
    assert "._" not in getattr(found, "__module__", module)


@pytest.mark.parametrize("room", ["", ".estimation", ".infer", ".mixture", ".nn", ".special"])
def test_public_names_are_documented(room: str) -> None:
    module = f"vmfdist{room}"
    for name in importlib.import_module(module).__all__:
        assert (module, name) in described() or f"{module}.{name}" in MODULES

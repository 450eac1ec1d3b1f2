"""The house: every room imports only rooms on lower floors, no two files import each other, and rooms stay small.

Reads the syntax trees of `rave_mlx/` and `convert/`: imports in functions and under TYPE_CHECKING count like any other.
"""

from __future__ import annotations

import ast
import subprocess
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = (
    {"errors"},
    {"config"},
    {"backend"},
    {"inputs", "synthetic"},
    {"attention"},
    {"models"},
    {"checkpoint", "generation"},
    {"policies"},
    {"chat"},
    {"convert"},
    {"api"},
    {"documents", "evaluate"},
    {"train", "look"},
    {"serve"},
    {"cli"},
)
"""Rooms by floor, the lowest first, as CONTRIBUTING.md lists them."""
DOOR = "__init__"
"""`rave_mlx/__init__.py` offers names of every room, on first use."""
MOST_LINES = 350
MOST_ROOMS = 18


@dataclass(frozen=True)
class Import:
    """One import: the file and line it stands in, and the module of the package that it names."""

    importer: str
    line: int
    imported: str

    def __str__(self) -> str:
        return f"{self.importer}, line {self.line}: imports {self.imported}"


def module_files() -> dict[str, Path]:
    """Every module of the package as it is installed, by its dotted name."""
    found = {}
    for folder, package in ((ROOT / "rave_mlx", "rave_mlx"), (ROOT / "convert", "rave_mlx.convert")):
        for file in folder.rglob("*.py"):
            parts = file.relative_to(folder).with_suffix("").parts
            found[".".join((package, *(parts[:-1] if parts[-1] == "__init__" else parts)))] = file
    return found


MODULES = module_files() if (ROOT / "convert").is_dir() else {}
pytestmark = pytest.mark.skipif(not MODULES, reason="not in a checkout")


def imports_of(module: str, source: str, known: set[str]) -> list[Import]:
    """The imports of the package's own modules in a source text."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}, line {node.lineno}: a relative import; write the package's name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "rave_mlx":
                target = name if name in known else name.rpartition(".")[0] or name
                found.append(Import(module, node.lineno, target))
    return found


@cache
def all_imports() -> list[Import]:
    return [i for module, file in MODULES.items() for i in imports_of(module, file.read_text("utf-8"), set(MODULES))]


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else DOOR


def floor(module: str) -> int:
    return next(i for i, rooms in enumerate(FLOORS) if room(module) in rooms)


def upward(imports: list[Import]) -> list[str]:
    """Imports of another room that is not on a lower floor."""
    return [
        str(i)
        for i in imports
        if room(i.importer) not in (DOOR, room(i.imported))
        and (room(i.imported) == DOOR or floor(i.imported) >= floor(i.importer))
    ]


def circle(imports: list[Import]) -> list[str]:
    """Files that import each other in a circle, along it; empty where there is none."""
    graph: dict[str, set[str]] = {}
    for i in imports:
        if i.importer != i.imported:
            graph.setdefault(i.importer, set()).add(i.imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_every_room_has_a_floor():
    rooms = {room(module) for module in MODULES} - {DOOR}
    assert rooms <= set().union(*FLOORS), "give new rooms a floor in FLOORS and in CONTRIBUTING.md"


def test_imports_go_down():
    assert upward(all_imports()) == []


def test_no_files_import_each_other():
    assert circle(all_imports()) == []


def test_nothing_imports_the_front_door():
    """Its names are loaded on first use: importing them inside the package would hide an upward import."""
    assert [str(i) for i in all_imports() if room(i.imported) == DOOR and room(i.importer) != DOOR] == []


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("rave_mlx.models.decoder", "from rave_mlx.policies.runtime import attach", "rave_mlx.policies.runtime"),
        ("rave_mlx.inputs.x", "def f():\n    from rave_mlx.chat import session", "rave_mlx.chat.session"),
        (
            "rave_mlx.config.model",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import rave_mlx.convert.open",
            "rave_mlx.convert.open",
        ),
        ("rave_mlx.generation.decode", "from rave_mlx.checkpoint import directory", "rave_mlx.checkpoint.directory"),
        ("rave_mlx.cli.doctor", "from rave_mlx import __version__", "rave_mlx"),
    ],
)
def test_an_upward_import_is_found(module, source, complaint):
    (found,) = upward(imports_of(module, source, set(MODULES)))
    assert found.startswith(f"{module}, line ")
    assert found.endswith(f"imports {complaint}")


def test_a_circle_is_found():
    pairs = [("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")]
    assert set(circle([Import(f"rave_mlx.x.{a}", 1, f"rave_mlx.x.{b}") for a, b in pairs])) == {
        "rave_mlx.x.a",
        "rave_mlx.x.b",
        "rave_mlx.x.c",
    }


def test_no_package_hides_a_submodule_behind_another_thing():
    for module, file in MODULES.items():
        if file.name != "__init__.py" or module == "rave_mlx":
            continue
        tree = ast.parse(file.read_text("utf-8"))
        bound = {a.asname or a.name: f"{n.module}.{a.name}" for n in tree.body if isinstance(n, ast.ImportFrom)
                 for a in n.names}  # fmt: skip
        bound |= {n.name: "" for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
        hidden = [name for name, what in bound.items() if f"{module}.{name}" in MODULES and what != f"{module}.{name}"]
        assert not hidden, f"{module}: hides its submodules {hidden}"


def test_rooms_and_files_stay_small():
    beside = {"__pycache__", "__init__.py", "py.typed"}
    assert len([entry for entry in (ROOT / "rave_mlx").iterdir() if entry.name not in beside]) <= MOST_ROOMS
    long = {m: n for m, f in MODULES.items() if (n := len(f.read_text("utf-8").splitlines())) > MOST_LINES}
    assert long == {}


def test_there_is_no_symbolic_link():
    if not (ROOT / ".git").exists():
        assert [p for p in (ROOT / "rave_mlx").rglob("*") if p.is_symlink()] == []
        return
    listed = subprocess.run(["git", "ls-files", "-s"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [line for line in listed.splitlines() if line.startswith("120000")] == []


def test_files_of_tests_have_names_of_their_own():
    """pytest imports those of folders that are no packages by their bare names: of two it collects neither."""
    files = [file for file in (ROOT / "tests").rglob("*.py") if not (file.parent / "__init__.py").exists()]
    names = [file.name for file in files if file.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))

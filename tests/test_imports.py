"""The shape of the house: rooms import one way, files and folders have no circles, every folder says what it is for.

Every import counts: at the top of a file, inside a function, and under ``TYPE_CHECKING``.
"""

import ast
import re
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "autobatch"
ROOMS = (
    "fisher",
    "optim",
    "analysis",
    "beacons",
    "policies",
    "tracking",
    "control",
    "integrations",
    "cells",
    "training",
    "report",
    "envs",
    "learn",
    "evidence",
    "cli",
)
"""The rooms of the package in the order of their imports: a room may import those before it."""

INDEPENDENT = frozenset({("beacons", "fisher"), ("beacons", "optim"), ("beacons", "analysis")})
"""(room, room before it) that know nothing of each other all the same."""

MOST_FILES = 14
"""Files that a folder may hold; one that needs more needs sub-folders."""

Graph = Mapping[str, Mapping[str, str]]
"""Importing module -> imported module -> where that is written."""


def modules_of(package: Path) -> dict[str, Path]:
    """Return the modules of a package by dotted name; a folder's ``__init__`` has the folder's name."""
    names = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imports_of(module: Path) -> Iterator[tuple[str, str | None, int]]:
    """Yield (module, name in it or None, line) of every import of a file, wherever in the file it stands."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: a relative import"
            assert node.module is not None
            yield from ((node.module, alias.name, node.lineno) for alias in node.names)


def import_graph(package: Path) -> dict[str, dict[str, str]]:
    """Return which module of a package imports which; a name that is no module counts for what it is taken from."""
    modules = modules_of(package)
    graph: dict[str, dict[str, str]] = {name: {} for name in modules}
    for importer, path in modules.items():
        for source, name, line in imports_of(path):
            imported = f"{source}.{name}" if f"{source}.{name}" in modules else source
            if imported in modules:
                graph[importer].setdefault(imported, f"{path.relative_to(package.parent)}:{line}")
            else:
                assert source.partition(".")[0] != package.name, f"{path}:{line}: there is no {source}"
    return graph


def circle(graph: Graph) -> str:
    """Return a shortest circle in words, one import a line; empty where there is none."""
    shortest: list[str] = []
    for start in sorted(graph):
        before: dict[str, str] = {}
        queue = deque([start])
        while queue and start not in before:
            here = queue.popleft()
            for there in sorted(graph.get(here, {})):
                if there not in before:
                    before[there] = here
                    queue.append(there)
        if start in before:
            path = [start, before[start]]
            while path[-1] != start:
                path.append(before[path[-1]])
            path.reverse()
            if not shortest or len(path) < len(shortest):
                shortest = path
    return "".join(f"\n  {here} -> {there}  ({graph[here][there]})" for here, there in pairwise(shortest))


def between_children(graph: Graph, folder: str) -> dict[str, dict[str, str]]:
    """Return which file or sub-folder of a folder imports which other of it."""

    def child(module: str) -> str | None:
        rest = module.removeprefix(f"{folder}.")
        return None if rest == module else f"{folder}.{rest.partition('.')[0]}"

    among: dict[str, dict[str, str]] = {}
    for importer, imported in graph.items():
        for other, place in imported.items():
            here, there = child(importer), child(other)
            if here is not None and there is not None and here != there:
                among.setdefault(here, {}).setdefault(there, place)
    return among


def upward(graph: Graph, room: str) -> list[str]:
    """Return a room's imports of rooms that it may not know, each as a line of words."""
    allowed = set(ROOMS[: ROOMS.index(room) + 1]) - {before for own, before in INDEPENDENT if own == room}
    forbidden = tuple(f"autobatch.{other}" for other in ROOMS if other not in allowed)
    return [
        f"{importer} -> {other}  ({place})"
        for importer, imported in graph.items()
        if _is_in(importer, f"autobatch.{room}")
        for other, place in imported.items()
        if any(_is_in(other, name) for name in forbidden)
    ]


def _is_in(module: str, folder: str) -> bool:
    return module == folder or module.startswith(f"{folder}.")


FOLDERS = sorted(name for name, path in modules_of(PACKAGE).items() if path.name == "__init__.py")


@pytest.fixture(scope="module")
def graph() -> Graph:
    return import_graph(PACKAGE)


def test_the_rooms_are_all_there_is() -> None:
    rooms = {name.removeprefix("autobatch.") for name in FOLDERS if name.count(".") == 1}
    assert rooms == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_go_one_way(room: str, graph: Graph) -> None:
    wrong = upward(graph, room)
    assert not wrong, "imports that run up:\n  " + "\n  ".join(wrong)


def test_what_all_rooms_share_imports_no_room(graph: Graph) -> None:
    shared = [name for name in graph if re.fullmatch(r"autobatch\._(?!_)\w+", name)]
    assert shared
    wrong = [(name, other) for name in shared for other in graph[name] if other not in shared]
    assert not wrong


def test_no_file_imports_itself_by_way_of_others(graph: Graph) -> None:
    found = circle(graph)
    assert not found, f"a circle of files:{found}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_circle_between_what_lies_in_a_folder(folder: str, graph: Graph) -> None:
    found = circle(between_children(graph, folder))
    assert not found, f"a circle in {folder}:{found}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_is_small_and_says_where_to_begin(folder: str) -> None:
    path = modules_of(PACKAGE)[folder].parent
    assert len(list(path.glob("*.py"))) <= MOST_FILES
    docstring = ast.get_docstring(ast.parse((path / "__init__.py").read_text(encoding="utf-8"))) or ""
    if folder == "autobatch":
        return
    first = re.search(r"Open\s+``([\w/]+\.py)``\s+first", docstring)
    assert first is not None, f"{folder}/__init__.py does not say which file to open first"
    assert (path / first[1]).is_file()


@pytest.mark.parametrize("name", [name for name in FOLDERS if name.count(".") > 1])
def test_a_sub_folder_has_a_front_and_private_files(name: str) -> None:
    path = modules_of(PACKAGE)[name].parent
    assert all(file.name.startswith("_") for file in path.glob("*.py"))
    assert "__all__" in (path / "__init__.py").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "line",
    [
        "from house._b import thing",
        "from house import _b",
        "import house._b",
        "def late():\n    from house._b import thing",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house._b import thing",
    ],
)
def test_a_circle_is_found_wherever_the_import_stands(tmp_path: Path, line: str) -> None:
    graph = import_graph(house(tmp_path, {"__init__": "", "_a": line, "_b": "from house._a import other"}))
    last = 1 + line.count("\n")
    assert circle(graph).splitlines()[1:] == [
        f"  house._a -> house._b  (house/_a.py:{last})",
        "  house._b -> house._a  (house/_b.py:1)",
    ]


def test_a_circle_of_folders_is_found_where_no_file_is_in_one(tmp_path: Path) -> None:
    files = {"__init__": "", "x/__init__": "", "y/__init__": "", "x/_a": "import house.y._a", "y/_a": ""}
    package = house(tmp_path, {**files, "y/_b": "import house.x._b", "x/_b": ""})
    graph = import_graph(package)
    assert not circle(graph)
    assert circle(between_children(graph, "house")).splitlines()[1:] == [
        "  house.x -> house.y  (house/x/_a.py:1)",
        "  house.y -> house.x  (house/y/_b.py:1)",
    ]


def test_a_front_may_import_its_files_but_not_they_it(tmp_path: Path) -> None:
    files = {"__init__": "from house._a import thing", "_a": "thing = 1"}
    assert not circle(import_graph(house(tmp_path, files)))
    files["_b"] = "from house import thing"
    assert not circle(import_graph(house(tmp_path, files)))  # nobody's circle until the front has it
    files["__init__"] += "\nfrom house._b import other"
    assert "house._b -> house" in circle(import_graph(house(tmp_path, files)))


def house(folder: Path, files: Mapping[str, str]) -> Path:
    """Write a package of these files."""
    for name, text in files.items():
        path = folder / "house" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    return folder / "house"

"""Which tests a change needs: those that import what was changed, directly or through others, or that read it.

The graph is read from the files' import statements; nothing is imported, nothing is run.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path

from penstock.errors import SpecError

__all__ = ["affected", "graph"]

_SOURCES = "src/penstock/infra"
_TESTS = ("tests/unit/infra", "tests/real/infra")
_BESIDE = ("schemas", "programs")


def affected(root: Path, changed: Iterable[str]) -> list[str]:
    """The tests below *root* that a change of the files *changed* (paths from *root*) needs.

    Raises:
        SpecError: *root* is no checkout of Penstock.
    """
    needs = graph(root)
    seen = {_relative(root, name) for name in changed}
    while grown := {file for file, used in needs.items() if used & seen} - seen:
        seen |= grown
    return sorted(name for name in seen if name in needs and Path(name).name.startswith("test_"))


def graph(root: Path) -> Mapping[str, Set[str]]:
    """For each module and test of infrastructure the files of the checkout that it uses."""
    if not (root / _SOURCES).is_dir():
        raise SpecError(f"{root} has no {_SOURCES}; a checkout of Penstock was needed: go to its root")
    files = [*(root / _SOURCES).rglob("*.py"), *(root / "src/penstock/commands").glob("infra.py")]
    files += [file for folder in _TESTS for file in (root / folder).rglob("*.py")]
    return {_relative(root, str(file)): {*_used(root, file)} for file in files}


def _used(root: Path, file: Path) -> Iterator[str]:
    """Modules that *file* imports, and files of the checkout that a text in it names."""
    shared = file.with_name("conftest.py")
    if file.name.startswith("test_") and shared.is_file():
        yield _relative(root, str(shared))
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield from _module(root, name.name)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for name in node.names:
                yield from _module(root, f"{node.module}.{name.name}") or _module(root, node.module)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from _named(root, node.value)


def _module(root: Path, name: str) -> list[str]:
    path = root / "src" / Path(*name.split("."))
    found = [each for each in (path.with_suffix(".py"), path / "__init__.py") if each.is_file()]
    return [_relative(root, str(each)) for each in found]


def _named(root: Path, text: str) -> Iterator[str]:
    """A rendered file, a schema or a program by the name that stands in the code."""
    if not text or len(text) > 100 or "\n" in text:
        return
    places = [root / _SOURCES / each for each in _BESIDE]
    places += [] if text.endswith(".py") else [root, root / "deploy" / "rendered"]  # modules are imported
    for place in places:
        if (place / text).is_file() and not Path(text).is_absolute():
            yield _relative(root, str(place / text))


def _relative(root: Path, name: str) -> str:
    """*name* as a path from *root*, with slashes."""
    return Path(os.path.relpath(root / name, root)).as_posix()

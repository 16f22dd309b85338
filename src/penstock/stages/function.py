"""A function of your own as a stage."""

from __future__ import annotations

import functools
import hashlib
import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa

from penstock.core.batch import adding, field_of, type_named
from penstock.core.nouns import Batch, Transform
from penstock.errors import SchemaError, SpecError

__all__ = ["Function"]


@dataclass(frozen=True)
class Function:
    """Call a Python function with each batch.

    The function takes a `pyarrow.Table` and gives one, without changing its argument; the same table gives the
    same table. It may leave rows out; to quarantine rows it raises `RowErrors`, or just fails on them.

    Attributes:
        function: ``module:name``; the module can be imported wherever the stage runs.
        adds: columns that it adds or replaces, by name, with their types as in `type_named`: ``float64``,
            ``list<int32>``, ``float32[384]``.
        drops: columns that are gone afterwards.
    """

    function: str
    adds: Mapping[str, str] = field(default_factory=dict)
    drops: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        module, _, name = self.function.partition(":")
        if not (module and name):
            raise ValueError(f"function is {self.function!r}; 'module:name' was needed")

    def schema(self, given: pa.Schema) -> pa.Schema:
        """The columns given, with *adds* and without *drops*. Raises `SpecError` when there is no such function."""
        self._found()
        for name in self.drops:
            given = given.remove(given.get_field_index(field_of(given, name, "function, to drop it,").name))
        return adding(given, {name: type_named(kind) for name, kind in self.adds.items()})

    def identity(self) -> Mapping[str, str]:
        """The hash of the module's file, since a function depends on what stands around it."""
        named = self.function.partition(":")[0]
        module = importlib.import_module(getattr(self._found(), "__module__", None) or named)
        return {self.function: _sha256(module)}

    def _found(self) -> Callable[[Batch], Batch]:
        module, _, name = self.function.partition(":")
        try:
            found: Any = functools.reduce(getattr, name.split("."), importlib.import_module(module))
        except (ImportError, AttributeError) as error:
            raise SpecError(
                f"function '{self.function}' cannot be imported: {error}; "
                "install its package, or put its folder on PYTHONPATH"
            ) from error
        if not callable(found):
            raise SpecError(f"'{self.function}' is {type(found).__name__}, a function was needed")
        return found  # type: ignore[no-any-return]

    @contextmanager
    def open(self) -> Iterator[Transform]:
        """Import the function."""
        found = self._found()
        yield lambda batch: self._called(found, batch)

    def _called(self, found: Callable[[Batch], Batch], batch: Batch) -> Batch:
        result = found(batch)
        if not isinstance(result, pa.Table):
            raise SchemaError(f"'{self.function}' gave {type(result).__name__}, a pyarrow.Table was needed")
        return result.drop_columns([name for name in self.drops if name in result.column_names])


@functools.cache
def _sha256(module: ModuleType) -> str:
    """The hash of a module's file as it was when first asked for: a file that is edited later is not what runs here."""
    if getattr(module, "__file__", None) is None:
        raise SpecError(f"function: module {module.__name__} has no file; put it into one")
    return hashlib.sha256(Path(str(module.__file__)).read_bytes()).hexdigest()

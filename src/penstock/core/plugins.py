"""Parts by name: entry points, used by the built-ins and by everybody else's alike.

A package adds a stage by two lines in its ``pyproject.toml``::

    [project.entry-points."penstock.stages"]
    hydropathy = "mypackage:Hydropathy"
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, requires, version
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import TypeAdapter
from pydantic_core import CoreSchema, core_schema

from penstock.core.nouns import Cluster
from penstock.errors import SpecError

__all__ = [
    "KINDS",
    "ClusterField",
    "Kind",
    "Plugged",
    "adapter",
    "called",
    "describe",
    "installing",
    "load",
    "name_of",
    "named",
    "version_of",
]

Kind: TypeAlias = Literal["sources", "stages", "sinks", "solvers", "trainings", "clusters", "runners"]
KINDS: tuple[Kind, ...] = ("sources", "stages", "sinks", "solvers", "trainings", "clusters", "runners")


@functools.cache
def named(kind: Kind) -> Mapping[str, EntryPoint]:
    """The entry points of *kind* by name.

    Raises:
        SpecError: two packages give the same name.
    """
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=f"penstock.{kind}"):
        other = found.setdefault(point.name, point)
        if other.value != point.value:
            raise SpecError(
                f"{kind[:-1]} '{point.name}' is given twice, by {other.value} and {point.value}; uninstall one"
            )
    return dict(sorted(found.items()))


@functools.cache
def load(kind: Kind, name: str) -> type[Any]:
    """The class that is called *name*.

    Raises:
        SpecError: nothing is called so (the nearest name is in the text), or it cannot be imported.
    """
    points = named(kind)
    if name not in points:
        near = difflib.get_close_matches(name, points, 1)
        hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(points) or 'none'}"
        raise SpecError(f"there is no {kind[:-1]} called '{name}'; {hint}")
    try:
        part = points[name].load()
    except (ImportError, AttributeError) as error:
        where = f"{kind[:-1]} '{name}' ({points[name].value})"
        raise SpecError(f"{where} cannot be imported: {error}; mend or uninstall that package") from error
    if not (isinstance(part, type) and dataclasses.is_dataclass(part)):
        raise SpecError(f"{kind[:-1]} '{name}' ({points[name].value}) is not a dataclass; make it a frozen one")
    return part


@functools.cache
def version_of(package: str) -> str | None:
    """The version of a package that is installed, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


_PACKAGES = {"faiss": "faiss-cpu", "PIL": "pillow"}
"""Of modules that are called otherwise than their package."""
_OPTIONAL = re.compile(r"([\w.-]+).*extra == ['\"]([\w-]+)['\"]")


def installing(modules: Sequence[str]) -> str:
    """The command that brings *modules*: the smallest extra of Penstock that has them all, else their packages."""
    wanted = {_PACKAGES.get(module, module) for module in modules}
    extras: Mapping[str, set[str]] = defaultdict(set)
    for package, extra in (match.groups() for match in map(_OPTIONAL.match, requires("penstock") or ()) if match):
        extras[extra].add(package)
    fitting = [extra for extra, packages in extras.items() if wanted <= packages]
    if not fitting:
        return f"pip install {' '.join(sorted(wanted))}"
    # Of extras of one size it is the last by name: torch and safetensors come by `models` rather than `images`.
    return f"pip install 'penstock[{max(fitting, key=lambda extra: (-len(extras[extra]), extra))}]'"


def name_of(kind: Kind, part: Any) -> str:
    """The name under which the class of *part* is known.

    Raises:
        SpecError: it is known under none.
    """
    name = _known(kind, type(part))
    if name is None:
        raise SpecError(
            f"{_path(type(part))} is no entry point of penstock.{kind}; "
            "add it to your pyproject.toml to write it to a file"
        )
    return name


def called(kind: Kind, part: Any) -> str:
    """The name under which the class of *part* is known, else ``module:Class``: for records of what was run."""
    return _known(kind, type(part)) or _path(type(part))


def _known(kind: Kind, part: type[Any]) -> str | None:
    """The name of *part*, also when its package gives it from another module than the one it is written in."""
    points = named(kind)
    package = part.__module__.split(".")[0]
    by_path = (name for name, point in points.items() if point.value == _path(part))
    same_package = (name for name, point in points.items() if point.module.split(".")[0] == package)
    return next(by_path, None) or next((name for name in same_package if _gives(kind, name, part)), None)


def _gives(kind: Kind, name: str, part: type[Any]) -> bool:
    try:
        return load(kind, name) is part
    except SpecError:  # one that cannot be imported is not the one of an object that exists
        return False


def _path(part: type[Any]) -> str:
    return f"{part.__module__}:{part.__qualname__}"


_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}


def adapter(part: type[Any]) -> TypeAdapter[Any]:
    """Pydantic's validator for the dataclass *part*."""
    if part not in _ADAPTERS:
        _ADAPTERS[part] = TypeAdapter(part)
    return _ADAPTERS[part]


def describe(part: Any) -> dict[str, Any]:
    """The fields of *part* that differ from their defaults, as plain data (JSON types)."""
    plain = adapter(type(part)).dump_python(part, mode="json")
    return {f.name: plain[f.name] for f in dataclasses.fields(part) if getattr(part, f.name) != _default(f)}


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else dataclasses.MISSING


@dataclass(frozen=True)
class Plugged:
    """Marks a field that holds a part: written ``{ use = "name", ... }`` in files, an object in Python.

    ::

        cluster: Annotated[Cluster, Plugged("clusters")] = Local()
    """

    kind: Kind

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        """A part as it is, or one made from plain data; and back."""
        to_plain = core_schema.plain_serializer_function_ser_schema(self._plain)
        return core_schema.with_info_plain_validator_function(self._part, serialization=to_plain)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: Any) -> dict[str, Any]:
        """A table with ``use``; what stands beside it depends on the part."""
        use = {"type": "string", "enum": list(named(self.kind))}
        return {"type": "object", "properties": {"use": use}, "required": ["use"]}

    def _part(self, value: Any, info: core_schema.ValidationInfo) -> Any:
        if not isinstance(value, Mapping):
            return value if dataclasses.is_dataclass(value) else self._refuse(value)
        if "use" not in value:
            raise ValueError(f"'use' is missing; it names the {self.kind[:-1]}: {', '.join(named(self.kind))}")
        body = dict(value)
        part = load(self.kind, body.pop("use"))
        if unknown := set(body) - {f.name for f in dataclasses.fields(part)}:
            raise ValueError(f"'{min(unknown)}' is not known here; known are: {_names(part)}")
        return adapter(part).validate_python(body, context=info.context)

    def _refuse(self, value: Any) -> Any:
        raise ValueError(f'a {self.kind[:-1]} was needed, as {{ use = "...", ... }}')

    def _plain(self, part: Any) -> dict[str, Any]:
        return {"use": called(self.kind, part), **describe(part)}


def _names(part: type[Any]) -> str:
    return ", ".join(sorted(f.name for f in dataclasses.fields(part))) or "none"


ClusterField = Annotated[Cluster, Plugged("clusters")]
"""A field that holds a cluster."""

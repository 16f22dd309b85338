"""Pipeline files: TOML or YAML to frozen objects and back, with one truth, the dataclasses themselves.

::

    [pipeline.embeddings]
    source = { use = "fasta", uri = "chains.fasta" }
    sink = { use = "parquet", uri = "out/embeddings" }

    [[pipeline.embeddings.step]]
    use = "encode"
    model = "antiberty"
    place = { kind = "actor", replicas = [1, 2] }

A file with one pipeline may leave out the ``pipeline.NAME`` and write ``source``, ``[[step]]`` and
``sink`` at the top; it is then called as the file is. Relative addresses start at the file's folder.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import tomli_w
import yaml
from pydantic import TypeAdapter, ValidationError

from penstock.core import plugins
from penstock.core.nouns import Pipeline, Place, Runner, Step
from penstock.errors import SpecError

__all__ = ["Spec", "View", "dump", "dumps", "json_schema", "load", "loads", "plain"]

Trail: TypeAlias = tuple[str | int, ...]
"""The way to a value from the top of the file: keys and positions."""


@dataclass(frozen=True)
class View:
    """What the report's page shows of a dataset.

    Attributes:
        pipeline: the pipeline whose dataset is drawn; its lineage gives the others.
        map: the tensor column that is laid out in two dimensions.
        colour: columns by which the map is coloured.
        truth: the column that holds the known classes, against which clusters are measured.
        title: of the page.
    """

    pipeline: str
    map: str = ""
    colour: tuple[str, ...] = ()
    truth: str = ""
    title: str = "Penstock run"


@dataclass(frozen=True)
class Spec:
    """What a file says: pipelines in the order in which they run, who runs them, what is shown."""

    pipelines: tuple[Pipeline, ...]
    runner: Runner | None = None
    report: View | None = None

    def pipeline(self, name: str) -> Pipeline:
        """The pipeline called *name*. Raises `SpecError`."""
        for pipeline in self.pipelines:
            if pipeline.name == name:
                return pipeline
        raise SpecError(f"there is no pipeline '{name}'; there are: {', '.join(p.name for p in self.pipelines)}")


# --- reading ---------------------------------------------------------------------------------------------


def load(path: str | Path, changes: Mapping[str, str] | None = None) -> Spec:
    """Read a pipeline file.

    Args:
        path: the file; ``.yaml`` and ``.yml`` are YAML, all others TOML.
        changes: values that replace those of the file, by dotted key: ``pipeline.NAME.source.uri``,
            ``step.0.model``; texts are read as TOML values, or taken as they are.

    Raises:
        SpecError: with file, line, and the nearest known key where one is misspelt.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read: {error}") from error
    form = "yaml" if path.suffix in (".yaml", ".yml") else "toml"
    return loads(text, form, name=str(path), folder=path.parent.absolute(), changes=changes)


def loads(
    text: str,
    form: str = "toml",
    *,
    name: str = "pipeline",
    folder: Path | None = None,
    changes: Mapping[str, str] | None = None,
) -> Spec:
    """Read a pipeline file from a text; see `load`."""
    data, lines = (_read_yaml if form == "yaml" else _read_toml)(text, name)
    for key, value in (changes or {}).items():
        _change(data, key, value)
    return _Reader(name, lines, folder).spec(data)


def _read_toml(text: str, name: str) -> tuple[dict[str, Any], dict[Trail, int]]:
    try:
        return tomllib.loads(text), _toml_lines(text)
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{name}: not TOML: {error}") from error


_HEADER = re.compile(r"^\s*\[(\[)?\s*([^\[\]]+?)\s*\]?\]\s*(#.*)?$")
_KEY = re.compile(r"""(?:^|[{,])\s*("[^"]*"|'[^']*'|[A-Za-z0-9_.-]+)\s*=""")


def _toml_lines(text: str) -> dict[Trail, int]:
    """The line of each table and key; keys of inline tables stand under the key they belong to."""
    lines: dict[Trail, int] = {}
    counts: dict[Trail, int] = {}
    here: Trail = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            here = _placed(tuple(_unquoted(header[2])), counts, bool(header[1]))
            lines.setdefault(here, number)
            continue
        outer = here
        for at, key in enumerate(_KEY.finditer(line)):
            trail = outer + tuple(_unquoted(key[1]))
            lines.setdefault(trail, number)
            outer = trail if at == 0 else outer
    return lines


def _unquoted(dotted: str) -> Iterator[str]:
    return (part.strip().strip("\"'") for part in dotted.split("."))


def _placed(keys: Trail, counts: dict[Trail, int], array: bool) -> Trail:
    """Put the positions of arrays of tables into a trail of keys."""
    trail: Trail = ()
    for at, key in enumerate(keys):
        trail += (key,)
        if array and at == len(keys) - 1:
            counts[trail] = counts.get(trail, -1) + 1
        if trail in counts:
            trail += (counts[trail],)
    return trail


def _read_yaml(text: str, name: str) -> tuple[dict[str, Any], dict[Trail, int]]:
    lines: dict[Trail, int] = {}
    try:
        data, node = yaml.safe_load(text), yaml.compose(text, yaml.SafeLoader)
        _yaml_lines(name, node, (), lines)
    except (yaml.YAMLError, RecursionError) as error:
        raise SpecError(f"{name}: not YAML: {error}") from error
    if not isinstance(data, dict):
        raise SpecError(f"{name}: a mapping with 'pipeline' was needed, found {type(data).__name__}")
    return data, lines


def _yaml_lines(name: str, node: Any, trail: Trail, lines: dict[Trail, int]) -> None:
    """The line of each key and item; YAML itself would let the second of two equal keys win."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner, line = (*trail, key.value), key.start_mark.line + 1
            if inner in lines:
                raise SpecError(f"{name}:{line}: '{key.value}' is given twice, first in line {lines[inner]}; keep one")
            lines[inner] = line
            _yaml_lines(name, value, inner, lines)
    elif isinstance(node, yaml.SequenceNode):
        for at, value in enumerate(node.value):
            lines[(*trail, at)] = value.start_mark.line + 1
            _yaml_lines(name, value, (*trail, at), lines)


def _change(data: dict[str, Any], dotted: str, text: str) -> None:
    *keys, last = dotted.split(".")
    place: Any = data
    try:
        for key in keys:
            place = place[int(key)] if isinstance(place, list) else place.setdefault(key, {})
        place[int(last) if isinstance(place, list) else last] = _value(text)
    except (ValueError, IndexError, TypeError, AttributeError) as error:
        raise SpecError(
            f"cannot set '{dotted}': there is no such place; write keys with dots between them, and a step by its "
            "number from 0: pipeline.NAME.step.0.model"
        ) from error


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


@dataclass
class _Reader:
    """Plain data to objects, with errors that name file, line and key."""

    name: str
    lines: Mapping[Trail, int]
    folder: Path | None
    _context: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self._context = {"folder": None if self.folder is None else str(self.folder)}

    def fail(self, trail: Trail, text: str) -> SpecError:
        known = trail
        while known and known not in self.lines:
            known = known[:-1]
        line = f":{self.lines[known]}" if known in self.lines else ""
        where = ".".join(str(key) for key in trail)
        return SpecError(f"{self.name}{line}: {where + ': ' if where else ''}{text}")

    def spec(self, data: Mapping[str, Any]) -> Spec:
        single = {"source", "step", "sink"} & set(data)
        body = {f.name for f in dataclasses.fields(Pipeline)} - {"name", "steps"} | {"step"}
        self.known(data, (), {"runner", "report"} | (body if single else {"pipeline"}))
        pipelines = {Path(self.name).stem: (data, ())} if single else self._named(data)
        runner, report = data.get("runner"), data.get("report")
        return Spec(
            _in_order([self.pipeline(name, *found) for name, found in pipelines.items()]),
            None if runner is None else self.part("runners", runner, ("runner",)),
            None if report is None else self.plain(View, self.mapping(report, ("report",)), ("report",)),
        )

    def _named(self, data: Mapping[str, Any]) -> dict[str, tuple[Mapping[str, Any], Trail]]:
        named = self.mapping(data.get("pipeline", {}), ("pipeline",))
        if not named:
            raise self.fail((), "there is no pipeline; write [pipeline.NAME] with a source and a sink")
        return {name: (self.mapping(body, ("pipeline", name)), ("pipeline", name)) for name, body in named.items()}

    def pipeline(self, name: str, data: Mapping[str, Any], trail: Trail) -> Pipeline:
        own = {f.name for f in dataclasses.fields(Pipeline)} - {"name", "steps"}
        self.known(data, trail, own | {"step"} | (set() if trail else {"runner", "report"}))
        for key in ("source", "sink"):
            if key not in data:
                raise self.fail(trail, f'\'{key}\' is missing; write {key} = {{ use = "...", uri = "..." }}')
        steps = data.get("step", [])
        if not isinstance(steps, Sequence) or isinstance(steps, str):
            raise self.fail((*trail, "step"), "a list of steps was needed; write [[step]] with two brackets")
        rest = {key: data[key] for key in own - {"source", "sink", "read"} if key in data}
        read = {"read": self.plain(Place, data["read"], (*trail, "read"))} if "read" in data else {}
        return Pipeline(
            name,
            self.part("sources", data["source"], (*trail, "source")),
            self.part("sinks", data["sink"], (*trail, "sink")),
            tuple(self.step(step, (*trail, "step", at)) for at, step in enumerate(steps)),
            **read,
            **{key: self.value(_LIMITS[key], value, (*trail, key)) for key, value in rest.items()},
        )

    def step(self, data: Any, trail: Trail) -> Step:
        body = dict(self.mapping(data, trail))
        place = body.pop("place", None)
        stage = self.part("stages", body, trail, beside={"place"})
        return Step(stage) if place is None else Step(stage, self.plain(Place, place, (*trail, "place")))

    def part(self, kind: plugins.Kind, data: Any, trail: Trail, beside: set[str] | None = None) -> Any:
        body = dict(self.mapping(data, trail))
        if "use" not in body:
            raise self.fail(trail, f"'use' is missing; it names the {kind[:-1]}: {', '.join(plugins.named(kind))}")
        try:
            part = plugins.load(kind, body.pop("use"))
        except SpecError as error:
            raise self.fail((*trail, "use"), str(error)) from error
        return self.plain(part, body, trail, beside=(beside or set()) | {"use"})

    def plain(self, part: type[Any], data: Any, trail: Trail, beside: set[str] | None = None) -> Any:
        body = self.mapping(data, trail)
        self.known(body, trail, {f.name for f in dataclasses.fields(part)}, beside)
        return self.value(plugins.adapter(part), body, trail)

    def value(self, adapter: TypeAdapter[Any], data: Any, trail: Trail) -> Any:
        try:
            return adapter.validate_python(data, context=self._context)
        except ValidationError as error:
            first = error.errors()[0]
            found = "" if first["type"] == "missing" else f"; found {first['input']!r}"
            raise self.fail((*trail, *first["loc"]), first["msg"].removeprefix("Value error, ") + found) from error

    def mapping(self, data: Any, trail: Trail) -> Mapping[str, Any]:
        if not isinstance(data, Mapping):
            raise self.fail(trail, f"a table was needed, found {data!r}")
        return data

    def known(self, data: Mapping[str, Any], trail: Trail, known: set[str], beside: set[str] | None = None) -> None:
        for key in data:
            if key not in known:
                near = difflib.get_close_matches(str(key), known | (beside or set()), 1)
                hint = f"did you mean '{near[0]}'?" if near else f"known are: {', '.join(sorted(known))}"
                raise self.fail((*trail, key), f"'{key}' is not known here; {hint}")


_LIMITS: Mapping[str, TypeAdapter[Any]] = {
    "max_bad_rows": TypeAdapter(int),
    "max_bad_units": TypeAdapter(int),
    "allow_noncommercial": TypeAdapter(bool),
}


def _in_order(pipelines: Sequence[Pipeline]) -> tuple[Pipeline, ...]:
    """Sort so that each pipeline stands after those whose datasets it reads.

    Raises:
        SpecError: they read each other in a circle, or two write to one place.
    """
    makers = _makers(pipelines)
    waiting, done = list(pipelines), []
    while waiting:
        names = {pipeline.name for pipeline in waiting}
        free = [p for p in waiting if not {makers[uri] for uri in _read(p) if uri in makers} & names]
        if not free:
            raise SpecError(f"these pipelines read each other in a circle: {', '.join(sorted(names))}")
        done.append(free[0])
        waiting.remove(free[0])
    return tuple(done)


def _makers(pipelines: Sequence[Pipeline]) -> dict[str, str]:
    """Which pipeline writes to which address."""
    makers: dict[str, str] = {}
    for pipeline in pipelines:
        uri = pipeline.sink.uri.rstrip("/")
        if makers.setdefault(uri, pipeline.name) != pipeline.name:
            raise SpecError(
                f"the pipelines '{makers[uri]}' and '{pipeline.name}' both write to {uri}; give each its own place"
            )
    return makers


def _read(pipeline: Pipeline) -> list[str]:
    """The addresses that a pipeline reads: its source's, and those of steps that read datasets."""
    parts = [pipeline.source, *(step.stage for step in pipeline.steps)]
    return [
        uri.rstrip("/") for part in parts for uri in (getattr(part, "uri", None), getattr(part, "dataset", None)) if uri
    ]


# --- writing ---------------------------------------------------------------------------------------------


def plain(pipeline: Pipeline, name: Callable[[plugins.Kind, Any], str] = plugins.name_of) -> dict[str, Any]:
    """A pipeline as plain data, as in a file; defaults are left out.

    Args:
        pipeline: what is described.
        name: gives the ``use`` of a part: `plugins.name_of` for files, `plugins.called` for records.

    Raises:
        SpecError: a part has no name.
    """
    default = {f.name: f.default for f in dataclasses.fields(Pipeline)}
    data: dict[str, Any] = {key: getattr(pipeline, key) for key in _LIMITS if getattr(pipeline, key) != default[key]}
    data["source"] = {"use": name("sources", pipeline.source), **plugins.describe(pipeline.source)}
    data["sink"] = {"use": name("sinks", pipeline.sink), **plugins.describe(pipeline.sink)}
    if pipeline.read != default["read"]:
        data["read"] = plugins.describe(pipeline.read)
    if pipeline.steps:
        data["step"] = [_step(step, name("stages", step.stage)) for step in pipeline.steps]
    return data


def _step(step: Step, name: str) -> dict[str, Any]:
    place = {} if step.place == Place() else {"place": plugins.describe(step.place)}
    return {"use": name, **plugins.describe(step.stage), **place}


def dumps(spec: Spec, form: str = "toml") -> str:
    """The text of a pipeline file; ``loads(dumps(spec)) == spec``."""
    data: dict[str, Any] = {"pipeline": {pipeline.name: plain(pipeline) for pipeline in spec.pipelines}}
    if spec.runner is not None:
        data["runner"] = {"use": plugins.name_of("runners", spec.runner), **plugins.describe(spec.runner)}
    if spec.report is not None:
        data["report"] = plugins.describe(spec.report)
    if form == "yaml":
        return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    return tomli_w.dumps(data)


def dump(spec: Spec, path: str | Path) -> None:
    """Write a pipeline file; the suffix says whether TOML or YAML."""
    path = Path(path)
    path.write_text(dumps(spec, "yaml" if path.suffix in (".yaml", ".yml") else "toml"), encoding="utf-8")


# --- the schema for editors ------------------------------------------------------------------------------


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of pipeline files, over all parts that are installed."""
    definitions: dict[str, Any] = {}
    kinds = {kind: _one_of(kind, definitions) for kind in plugins.KINDS if kind != "clusters"}
    body = {
        "source": kinds["sources"],
        "sink": kinds["sinks"],
        "step": {"type": "array", "items": kinds["stages"]},
        "read": _schema_of(Place, definitions),
        **{key: adapter.json_schema() for key, adapter in _LIMITS.items()},
    }
    line = {"type": "object", "properties": body, "required": ["source", "sink"], "additionalProperties": False}
    both = {"runner": kinds["runners"], "report": _schema_of(View, definitions)}
    many = {"pipeline": {"type": "object", "additionalProperties": line}, **both}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Penstock pipeline file",
        "oneOf": [
            {"type": "object", "properties": many, "required": ["pipeline"], "additionalProperties": False},
            {**line, "properties": {**body, **both}},
        ],
        "$defs": definitions,
    }


def _one_of(kind: plugins.Kind, definitions: dict[str, Any]) -> dict[str, Any]:
    return {"oneOf": [_use_schema(kind, name, definitions) for name in plugins.named(kind)]}


def _use_schema(kind: plugins.Kind, name: str, definitions: dict[str, Any]) -> dict[str, Any]:
    schema = dict(_schema_of(plugins.load(kind, name), definitions))
    extra = {"place": _schema_of(Place, definitions)} if kind == "stages" else {}
    schema["properties"] = {"use": {"const": name}, **extra, **schema.get("properties", {})}
    schema["required"] = ["use", *schema.get("required", [])]
    schema["additionalProperties"] = False
    return schema


def _schema_of(part: type[Any], definitions: dict[str, Any]) -> dict[str, Any]:
    schema = dict(plugins.adapter(part).json_schema(ref_template="#/$defs/{model}"))
    definitions.update(schema.pop("$defs", {}))
    schema["additionalProperties"] = False
    return schema

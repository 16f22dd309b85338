"""Pipeline files: TOML or YAML to frozen objects and back, with one truth, the dataclasses themselves.

::

    [pipeline.embeddings]
    source = { use = "fasta", uri = "chains.fasta" }
    sink = { use = "parquet", uri = "out/embeddings" }

    [[pipeline.embeddings.step]]
    use = "encode"
    model = "antiberty"
    place = { kind = "actor", replicas = [1, 2] }

``[train.NAME]`` is a training, and ``[stream.NAME]`` feeds a solver that runs meanwhile: it has ``into`` instead of a
sink. A file with one pipeline may leave out the ``pipeline.NAME`` and write ``source``, ``[[step]]`` and
``sink`` at the top; it is then called as the file is. Relative addresses start at the file's folder.
A text may name environment variables, ``"${env:BUCKET}/embeddings"``.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import tomli_w
import yaml
from pydantic import Field, TypeAdapter, ValidationError

from penstock.core import plugins
from penstock.core.nouns import Fit, Pipeline, Place, Runner, Step, Stream
from penstock.core.storage import Uri
from penstock.errors import SpecError

__all__ = [
    "Range",
    "Spec",
    "Tune",
    "View",
    "dump",
    "dumps",
    "json_schema",
    "load",
    "loads",
    "plain",
    "read_by",
    "value_of",
    "written",
]

Line: TypeAlias = Pipeline | Fit | Stream
"""What a file has by name, and what is run."""

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
class Range:
    """Numbers from *low* to *high*, whole ones where both are whole; with *log* each factor of ten is as likely."""

    low: int | float
    high: int | float
    log: bool = False

    def __post_init__(self) -> None:
        if self.low >= self.high or (self.log and self.low <= 0):
            raise ValueError(
                f"low is {self.low} and high {self.high}; low must be below high, and with log above 0 as well"
            )


@dataclass(frozen=True)
class Tune:
    """How the best settings of a training are searched; see `penstock.trainings.search`.

    Attributes:
        train: the name of the training.
        space: what is tried, by dotted keys as ``--set`` has them: a list of values, or a range. Where values are
            tables of dotted keys, these are changed together, and the key is a name for them.
        metric: by which trials are compared, one of those that the training reports.
        mode: whether the metric shall be high or low.
        samples: how many trials are drawn; 0 tries every combination of lists.
        epochs: of the longest trials; 0 takes the training's own.
        seed: of what is drawn.
        max_units: trials learn from so many units of each source at most; 0 takes all.
        uri: the trials' folder; empty stands for the training's own with ``-tune`` behind it.
    """

    train: str
    space: Mapping[str, tuple[Any, ...] | Range]
    metric: str = "likeness"
    mode: Literal["max", "min"] = "max"
    samples: int = 16
    epochs: int = 0
    seed: int = 0
    max_units: int = 0
    uri: Uri = ""

    def __post_init__(self) -> None:
        if min(self.samples, self.epochs, self.max_units) < 0:
            raise ValueError("samples, epochs and max_units must not be negative")
        if not self.space or not all(self.space.values()):
            raise ValueError('nothing is to be tried; write [tune.space] and "train.NAME.rate" = [0.01, 0.1] there')
        ranges = [key for key, values in self.space.items() if isinstance(values, Range)]
        if ranges and not self.samples:
            raise ValueError(f"a range has no end of values, so samples = 0 cannot try them all: {ranges[0]}")


@dataclass(frozen=True)
class Spec:
    """What a file says: pipelines in the order in which they run, who runs them, what is trained, fed and shown."""

    pipelines: tuple[Pipeline, ...]
    runner: Runner | None = None
    report: View | None = None
    fits: tuple[Fit, ...] = ()
    tune: Tune | None = None
    streams: tuple[Stream, ...] = ()

    @property
    def lines(self) -> tuple[Line, ...]:
        """Pipelines, trainings and streams in the order in which they run."""
        return _in_order([*self.pipelines, *self.fits, *self.streams])

    def line(self, name: str) -> Line:
        """The pipeline, training or stream called *name*. Raises `SpecError`."""
        beside: list[Line] = [*self.fits, *self.streams]
        return next((line for line in beside if line.name == name), None) or self.pipeline(name)

    def pipeline(self, name: str) -> Pipeline:
        """The pipeline called *name*. Raises `SpecError`."""
        for pipeline in self.pipelines:
            if pipeline.name == name:
                return pipeline
        raise SpecError(f"there is no pipeline '{name}'; there are: {', '.join(p.name for p in self.pipelines)}")


# --- reading ---------------------------------------------------------------------------------------------


def load(path: str | Path, changes: Mapping[str, Any] | None = None) -> Spec:
    """Read a pipeline file.

    Args:
        path: the file; ``.yaml`` and ``.yml`` are YAML, all others TOML.
        changes: values that replace those of the file, by dotted key: ``pipeline.NAME.source.uri``,
            ``step.0.model``; texts are read as TOML values where they are some.

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
    changes: Mapping[str, Any] | None = None,
) -> Spec:
    """Read a pipeline file from a text; see `load`."""
    data, lines = (_read_yaml if form == "yaml" else _read_toml)(text, name)
    for key, value in (changes or {}).items():
        _change(data, key, value)
    reader = _Reader(name, lines, folder)
    return reader.spec(reader.filled(data, ()))


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


def _change(data: dict[str, Any], dotted: str, value: Any) -> None:
    *keys, last = dotted.split(".")
    place: Any = data
    try:
        for key in keys:
            place = place[int(key)] if isinstance(place, list) else place.setdefault(key, {})
        place[int(last) if isinstance(place, list) else last] = value_of(value) if isinstance(value, str) else value
    except (ValueError, IndexError, TypeError, AttributeError) as error:
        raise SpecError(
            f"cannot set '{dotted}': there is no such place; write keys with dots between them, and a step by its "
            "number from 0: pipeline.NAME.step.0.model"
        ) from error


_VARIABLE = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")


def value_of(text: str) -> Any:
    """*text* as a TOML value, or as it is where it is none."""
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

    def filled(self, data: Any, trail: Trail) -> Any:
        """*data* with the values of environment variables where its texts say ``${env:NAME}``."""
        if isinstance(data, dict):
            return {key: self.filled(value, (*trail, key)) for key, value in data.items()}
        if isinstance(data, list):
            return [self.filled(value, (*trail, at)) for at, value in enumerate(data)]
        return _VARIABLE.sub(lambda found: self._variable(found[1], trail), data) if isinstance(data, str) else data

    def _variable(self, name: str, trail: Trail) -> str:
        if name not in os.environ:
            raise self.fail(trail, f"the environment variable {name} is not set; export it, or change this by --set")
        return os.environ[name]

    def spec(self, data: Mapping[str, Any]) -> Spec:
        single = {"source", "step", "sink"} & set(data)
        body = {f.name for f in dataclasses.fields(Pipeline)} - {"name", "steps"} | {"step"}
        self.known(data, (), _BESIDE | (body if single else {"pipeline"}))
        pipelines = {Path(self.name).stem: (data, ())} if single else self._named(data)
        runner, report, tune = data.get("runner"), data.get("report"), data.get("tune")
        fits = [self.fit(name, body) for name, body in self.mapping(data.get("train", {}), ("train",)).items()]
        streams = [
            self.stream(name, found) for name, found in self.mapping(data.get("stream", {}), ("stream",)).items()
        ]
        lines = _in_order([*(self.pipeline(name, *found) for name, found in pipelines.items()), *fits, *streams])
        return Spec(
            tuple(line for line in lines if isinstance(line, Pipeline)),
            None if runner is None else self.part("runners", runner, ("runner",)),
            None if report is None else self.plain(View, self.mapping(report, ("report",)), ("report",)),
            tuple(line for line in lines if isinstance(line, Fit)),
            None if tune is None else self.tune(self.mapping(tune, ("tune",)), {fit.name for fit in fits}),
            tuple(line for line in lines if isinstance(line, Stream)),
        )

    def tune(self, data: Mapping[str, Any], trainings: set[str]) -> Tune:
        space: dict[str, Any] = dict(_dotted(self.mapping(data.get("space", {}), ("tune", "space"))))
        for key, value in space.items():
            if isinstance(value, Mapping):
                space[key] = self.plain(Range, value, ("tune", "space", key))
        found: Tune = self.plain(Tune, {**data, "space": space}, ("tune",))
        if found.train not in trainings:
            text = f"there is no training '{found.train}'; there are: {', '.join(sorted(trainings)) or 'none'}"
            raise self.fail(("tune", "train"), text)
        return found

    def fit(self, name: str, data: Any) -> Fit:
        trail = ("train", name)
        body = dict(self.mapping(data, trail))
        place = body.pop("place", None)
        training = self.part("trainings", body, trail, beside={"place"})
        return (
            Fit(name, training) if place is None else Fit(name, training, self.plain(Place, place, (*trail, "place")))
        )

    def stream(self, name: str, data: Any) -> Stream:
        trail = ("stream", name)
        body = self.mapping(data, trail)
        self.known(body, trail, {"source", "step", "into", "ahead", "allow_noncommercial"})
        for key in ("source", "into"):
            if key not in body:
                raise self.fail(trail, f"'{key}' is missing; write {key} = {{ use = \"...\", ... }}")
        return Stream(
            name,
            self.part("sources", body["source"], (*trail, "source")),
            self.part("solvers", body["into"], (*trail, "into")),
            self.steps(body, trail),
            **{key: self.value(_LIMITS[key], body[key], (*trail, key)) for key in _LIMITS if key in body},
        )

    def _named(self, data: Mapping[str, Any]) -> dict[str, tuple[Mapping[str, Any], Trail]]:
        named = self.mapping(data.get("pipeline", {}), ("pipeline",))
        if not named and "stream" not in data:
            raise self.fail((), "there is no pipeline; write [pipeline.NAME] with a source and a sink")
        return {name: (self.mapping(body, ("pipeline", name)), ("pipeline", name)) for name, body in named.items()}

    def pipeline(self, name: str, data: Mapping[str, Any], trail: Trail) -> Pipeline:
        own = {f.name for f in dataclasses.fields(Pipeline)} - {"name", "steps"}
        self.known(data, trail, own | {"step"} | (set() if trail else _BESIDE))
        for key in ("source", "sink"):
            if key not in data:
                raise self.fail(trail, f'\'{key}\' is missing; write {key} = {{ use = "...", uri = "..." }}')
        rest = {key: data[key] for key in own - {"source", "sink", "read"} if key in data}
        read = {"read": self.plain(Place, data["read"], (*trail, "read"))} if "read" in data else {}
        return Pipeline(
            name,
            self.part("sources", data["source"], (*trail, "source")),
            self.part("sinks", data["sink"], (*trail, "sink")),
            self.steps(data, trail),
            **read,
            **{key: self.value(_LIMITS[key], value, (*trail, key)) for key, value in rest.items()},
        )

    def steps(self, data: Mapping[str, Any], trail: Trail) -> tuple[Step, ...]:
        steps = data.get("step", [])
        if not isinstance(steps, Sequence) or isinstance(steps, str):
            raise self.fail((*trail, "step"), "a list of steps was needed; write [[step]] with two brackets")
        return tuple(self.step(step, (*trail, "step", at)) for at, step in enumerate(steps))

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


def _dotted(data: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The values of a space by their dotted keys, however many of the dots TOML took for tables."""
    for key, value in data.items():
        if isinstance(value, Mapping) and not {"low", "high"} & set(value):
            yield from ((f"{key}.{inner}", found) for inner, found in _dotted(value))
        else:
            yield key, value


_BESIDE = {"runner", "report", "train", "tune", "stream"}
"""The keys that may stand beside those of a file's only pipeline."""

_LIMITS: Mapping[str, TypeAdapter[Any]] = {
    "ahead": TypeAdapter(int),
    "max_bad_rows": TypeAdapter(int),
    "max_bad_units": TypeAdapter(int),
    "max_units": TypeAdapter(Annotated[int, Field(ge=0)]),
    "record": TypeAdapter(str),
    "record_units": TypeAdapter(Annotated[int, Field(ge=1)]),
    "allow_noncommercial": TypeAdapter(bool),
}


def _in_order(lines: Sequence[Line]) -> tuple[Line, ...]:
    """Sort so that each stands after those that it reads.

    Raises:
        SpecError: they read each other in a circle, or two write to one place.
    """
    makers = _makers(lines)
    waiting, done = list(lines), []
    while waiting:
        names = {line.name for line in waiting}
        free = [line for line in waiting if not {makers[uri] for uri in read_by(line) if uri in makers} & names]
        if not free:
            raise SpecError(f"these pipelines read each other in a circle: {', '.join(sorted(names))}")
        done.append(free[0])
        waiting.remove(free[0])
    return tuple(done)


def _makers(lines: Sequence[Line]) -> dict[str, str]:
    """Which of them writes to which address."""
    makers: dict[str, str] = {}
    names: set[str] = set()
    for line in lines:
        uri = written(line)
        if line.name in names:
            raise SpecError(
                f"two lines are called '{line.name}', of pipelines, trainings and streams; give each its own name"
            )
        names.add(line.name)
        if makers.setdefault(uri, line.name) != line.name:
            raise SpecError(
                f"the pipelines '{makers[uri]}' and '{line.name}' both write to {uri}; give each its own place"
            )
    return makers


def written(line: Line) -> str:
    """The address that a pipeline, a training or a fed solver writes to."""
    end = line.sink if isinstance(line, Pipeline) else line.training if isinstance(line, Fit) else line.into
    return end.uri.rstrip("/")


def read_by(line: Line) -> list[str]:
    """The addresses that are read: the source's, and those of steps that read datasets and tables."""
    if isinstance(line, Fit):
        return [line.training.reads.rstrip("/")]
    parts = [line.source, *(step.stage for step in line.steps)]
    found = (getattr(part, name, None) for part in parts for name in ("uri", "dataset", "table", "model"))
    return [uri.rstrip("/") for uri in found if uri]


# --- writing ---------------------------------------------------------------------------------------------


def plain(pipeline: Pipeline, name: Callable[[plugins.Kind, Any], str] = plugins.name_of) -> dict[str, Any]:
    """A pipeline as plain data, as in a file; defaults are left out.

    Args:
        pipeline: what is described.
        name: gives the ``use`` of a part: `plugins.name_of` for files, `plugins.called` for records.

    Raises:
        SpecError: a part has no name.
    """
    data = _common(pipeline, name)
    data["sink"] = {"use": name("sinks", pipeline.sink), **plugins.describe(pipeline.sink)}
    if pipeline.read != Pipeline.read:
        data["read"] = plugins.describe(pipeline.read)
    return data


def _common(line: Pipeline | Stream, name: Callable[[plugins.Kind, Any], str]) -> dict[str, Any]:
    """What pipelines and streams both have."""
    default = {f.name: f.default for f in dataclasses.fields(line)}
    data: dict[str, Any] = {
        key: getattr(line, key) for key in _LIMITS if key in default and getattr(line, key) != default[key]
    }
    data["source"] = {"use": name("sources", line.source), **plugins.describe(line.source)}
    if line.steps:
        data["step"] = [_step(step, name("stages", step.stage)) for step in line.steps]
    return data


def _stream(stream: Stream) -> dict[str, Any]:
    into = {"use": plugins.name_of("solvers", stream.into), **plugins.describe(stream.into)}
    return {**_common(stream, plugins.name_of), "into": into}


def _step(step: Step, name: str) -> dict[str, Any]:
    place = {} if step.place == Place() else {"place": plugins.describe(step.place)}
    return {"use": name, **plugins.describe(step.stage), **place}


def _fit(fit: Fit) -> dict[str, Any]:
    place = {} if fit.place == Fit.place else {"place": plugins.describe(fit.place)}
    return {"use": plugins.name_of("trainings", fit.training), **plugins.describe(fit.training), **place}


def dumps(spec: Spec, form: str = "toml") -> str:
    """The text of a pipeline file; ``loads(dumps(spec)) == spec``."""
    data: dict[str, Any] = {"pipeline": {pipeline.name: plain(pipeline) for pipeline in spec.pipelines}}
    if spec.fits:
        data["train"] = {fit.name: _fit(fit) for fit in spec.fits}
    if spec.streams:
        data["stream"] = {stream.name: _stream(stream) for stream in spec.streams}
    if spec.runner is not None:
        data["runner"] = {"use": plugins.name_of("runners", spec.runner), **plugins.describe(spec.runner)}
    if spec.report is not None:
        data["report"] = plugins.describe(spec.report)
    if spec.tune is not None:
        data["tune"] = plugins.describe(spec.tune)
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
    limits = {key: adapter.json_schema() for key, adapter in _LIMITS.items()}
    common = {"source": kinds["sources"], "step": {"type": "array", "items": kinds["stages"]}}
    own = {f.name for f in dataclasses.fields(Pipeline)}
    body = {
        **common,
        "sink": kinds["sinks"],
        "read": _schema_of(Place, definitions),
        **{key: limits[key] for key in _LIMITS if key in own},
    }
    line = {"type": "object", "properties": body, "required": ["source", "sink"], "additionalProperties": False}
    fits = {"type": "object", "additionalProperties": kinds["trainings"]}
    both = {"runner": kinds["runners"], "report": _schema_of(View, definitions), "train": fits}
    both["tune"] = _schema_of(Tune, definitions)
    fed = {**common, "into": kinds["solvers"], **{key: limits[key] for key in ("ahead", "allow_noncommercial")}}
    both["stream"] = {
        "type": "object",
        "additionalProperties": {
            "type": "object",
            "properties": fed,
            "required": ["source", "into"],
            "additionalProperties": False,
        },
    }
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
    extra = {"place": _schema_of(Place, definitions)} if kind in ("stages", "trainings") else {}
    schema["properties"] = {"use": {"const": name}, **extra, **schema.get("properties", {})}
    schema["required"] = ["use", *schema.get("required", [])]
    schema["additionalProperties"] = False
    return schema


def _schema_of(part: type[Any], definitions: dict[str, Any]) -> dict[str, Any]:
    schema = dict(plugins.adapter(part).json_schema(ref_template="#/$defs/{model}"))
    definitions.update(schema.pop("$defs", {}))
    schema["additionalProperties"] = False
    return schema

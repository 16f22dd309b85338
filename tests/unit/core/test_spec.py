"""Pipeline files: there and back, and errors that name file, line and key."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from pathlib import Path

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.core import plugins, spec
from penstock.core.nouns import Pipeline, Place, Step
from penstock.core.spec import Spec, View, dump, dumps, json_schema, load, loads
from penstock.errors import SpecError

PACKAGE = '''
"""Parts of another package, found by their entry points."""
from __future__ import annotations
from dataclasses import dataclass, field
from typing import Literal
from penstock.core.plugins import ClusterField
from penstock.core.storage import Uri

@dataclass(frozen=True)
class Inner:
    depth: int = 1
    names: tuple[str, ...] = ()

@dataclass(frozen=True)
class From:
    uri: Uri
    glob: str = "*"

@dataclass(frozen=True)
class Rich:
    count: int = 1
    share: float = 0.5
    name: str = "x"
    flag: bool = False
    kind: Literal["a", "b"] = "a"
    pair: tuple[int, int] = (1, 2)
    inner: Inner = Inner()
    options: dict[str, float] = field(default_factory=dict)
    maybe: int | None = None
    def open(self): ...

@dataclass(frozen=True)
class Needs:
    dataset: Uri
    def open(self): ...

@dataclass(frozen=True)
class Solves:
    cluster: ClusterField
    def open(self): ...

@dataclass(frozen=True)
class Into:
    uri: Uri
    file_bytes: int = 10

@dataclass(frozen=True)
class Queue:
    partition: str = "main"

@dataclass(frozen=True)
class Walk:
    speed: int = 1

class NoData: ...
'''
POINTS = """
[penstock.sources]
from = otherparts:From
broken = otherparts:Gone
absent = notinstalled:X
[penstock.stages]
rich = otherparts:Rich
needs = otherparts:Needs
solves = otherparts:Solves
nodata = otherparts:NoData
[penstock.sinks]
into = otherparts:Into
[penstock.clusters]
queue = otherparts:Queue
[penstock.runners]
walk = otherparts:Walk
"""


@pytest.fixture(scope="module", autouse=True)
def other(tmp_path_factory):
    """A package beside Penstock that brings parts of its own; as installed as any."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "otherparts.py").write_text(PACKAGE)
    about = folder / "otherparts-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: otherparts\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(POINTS)
    sys.path.insert(0, str(folder))
    plugins.named.cache_clear()
    import otherparts

    yield otherparts
    sys.path.remove(str(folder))
    del sys.modules["otherparts"]
    plugins.named.cache_clear()
    plugins.load.cache_clear()


GOOD = """\
[pipeline.one]
source = { use = "from", uri = "in" }
sink = { use = "into", uri = "out" }
max_bad_rows = 7

[[pipeline.one.step]]
use = "rich"
count = 3
place = { kind = "actor", replicas = [1, 2] }

[[pipeline.one.step]]
use = "rich"
inner = { depth = 2, names = ["a"] }

[pipeline.two]
source = { use = "from", uri = "out" }
sink = { use = "into", uri = "out2" }

[runner]
use = "walk"
speed = 2

[report]
pipeline = "one"
title = "Größe"
"""
YAML = """\
pipeline:
  one:
    source: {use: from, uri: in}
    sink: {use: into, uri: out}
    max_bad_rows: 7
    step:
      - use: rich
        count: 3
        place:
          kind: actor
          replicas: [1, 2]
      - use: rich
        inner:
          depth: 2
          names: [a]
  two:
    source: {use: from, uri: out}
    sink: {use: into, uri: out2}
runner:
  use: walk
  speed: 2
report:
  pipeline: one
  title: Größe
"""


@pytest.fixture
def wanted(other) -> Spec:
    steps = (
        Step(other.Rich(count=3), Place("actor", (1, 2))),
        Step(other.Rich(inner=other.Inner(2, ("a",)))),
    )
    one = Pipeline("one", other.From("in"), other.Into("out"), steps, max_bad_rows=7)
    two = Pipeline("two", other.From("out"), other.Into("out2"))
    return Spec((one, two), other.Walk(2), View("one", title="Größe"))


# --- reading ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "form"), [(GOOD, "toml"), (YAML, "yaml")], ids=["toml", "yaml"])
def test_a_file_says_the_same_in_toml_and_yaml(wanted, text, form):
    assert loads(text, form) == wanted


def test_a_file_with_one_pipeline_needs_no_name_for_it(tmp_path, other):
    path = tmp_path / "größe.toml"
    path.write_text(
        'source = { use = "from", uri = "in" }\nsink = { use = "into", uri = "/out" }\n[[step]]\nuse = "rich"\n'
        '[runner]\nuse = "walk"\n',
        encoding="utf-8",
    )
    found = load(path)
    (pipeline,) = found.pipelines
    assert (pipeline.name, found.runner) == ("größe", other.Walk())
    assert pipeline.source.uri == str(tmp_path / "in"), "from the file's folder"
    assert pipeline.sink.uri == "/out"
    assert pipeline.steps == (Step(other.Rich()),)


def test_addresses_in_stages_start_at_the_folder_too(tmp_path):
    path = tmp_path / "p.yaml"
    text = "source: {use: from, uri: a}\nsink: {use: into, uri: s3://b/c}\nstep: [{use: needs, dataset: ../d}]\n"
    path.write_text(text)
    (pipeline,) = load(path).pipelines
    assert pipeline.steps[0].stage.dataset == str(tmp_path.parent / "d")
    assert pipeline.sink.uri == "s3://b/c"


def test_pipelines_stand_after_those_that_they_read():
    lines = {"c": ("b", "c"), "a": ("raw", "a"), "b": ("a/", "b"), "d": ("raw", "d")}
    text = "".join(
        f'[pipeline.{name}]\nsource = {{ use = "from", uri = "{source}" }}\nsink = {{ use = "into", uri = "{sink}" }}\n'
        for name, (source, sink) in lines.items()
    )
    assert [p.name for p in loads(text).pipelines] == ["a", "b", "c", "d"]
    joined = text + '[[pipeline.a.step]]\nuse = "needs"\ndataset = "d"\n'
    assert [p.name for p in loads(joined).pipelines] == ["d", "a", "b", "c"], "a step reads too"


def test_a_part_inside_a_part(other):
    text = GOOD + '[[pipeline.two.step]]\nuse = "solves"\ncluster = { use = "queue", partition = "big" }\n'
    found = loads(text)
    assert found.pipelines[1].steps[0].stage == other.Solves(other.Queue("big"))
    assert loads(dumps(found)) == found


def test_a_pipeline_by_name(wanted):
    assert wanted.pipeline("two") is wanted.pipelines[1]
    with pytest.raises(SpecError, match="there is no pipeline 'three'; there are: one, two"):
        wanted.pipeline("three")


# --- changes from the command line -----------------------------------------------------------------------


def test_values_are_replaced_by_dotted_keys(other):
    changes = {
        "pipeline.one.step.0.count": "12",
        "pipeline.one.step.1.name": "plain text",
        "pipeline.one.step.1.pair": "[3, 4]",
        "pipeline.one.step.0.place.kind": '"task"',
        "pipeline.two.max_bad_units": "3",
        "runner.speed": "9",
    }
    found = loads(GOOD, changes=changes)
    first, second = found.pipelines[0].steps
    assert (first.stage.count, first.place.kind, second.stage.name, second.stage.pair) == (
        12,
        "task",
        "plain text",
        (3, 4),
    )
    assert (found.pipelines[1].max_bad_units, found.runner) == (3, other.Walk(9))


@pytest.mark.parametrize("key", ["pipeline.one.step.5.count", "pipeline.one.step.x.count", "report.title.deep.er"])
def test_places_that_are_not_there_cannot_be_set(key):
    with pytest.raises(SpecError, match=rf"cannot set '{key}': there is no such place; write keys with dots between"):
        loads(GOOD, changes={key: "1"})


def test_a_change_is_checked_as_the_file_is():
    with pytest.raises(SpecError, match=r"pipeline.one.step.0.cuont: 'cuont' is not known here; did you mean 'count'"):
        loads(GOOD, changes={"pipeline.one.step.0.cuont": "12"})


# --- errors ----------------------------------------------------------------------------------------------


def without(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new, 1)


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        (
            "max_bad_rows = 7",
            "max_bad_row = 7",
            "f.toml:4: pipeline.one.max_bad_row: 'max_bad_row' is not known here; did you mean 'max_bad_",
        ),
        (
            "count = 3",
            "cuont = 3",
            "f.toml:8: pipeline.one.step.0.cuont: 'cuont' is not known here; did you mean 'count'?",
        ),
        (
            "replicas =",
            "replica =",
            "f.toml:9: pipeline.one.step.0.place.replica: 'replica' is not known here; did you mean",
        ),
        ("[report]", "[reports]", "f.toml:23: reports: 'reports' is not known here; did you mean 'report'?"),
        ("speed = 2", "spede = 2", "f.toml:21: runner.spede: 'spede' is not known here; did you mean 'speed'?"),
        ('title = "', 'titel = "', "f.toml:25: report.titel: 'titel' is not known here; did you mean 'title'?"),
        ('uri = "in"', 'uir = "in"', "f.toml:2: pipeline.one.source.uir: 'uir' is not known here; did you mean 'uri'?"),
        (
            "count = 3",
            "zzz = 3",
            "'zzz' is not known here; known are: count, flag, inner, kind, maybe, name, options, pair, share",
        ),
        (
            'use = "rich"',
            'use = "rihc"',
            "f.toml:7: pipeline.one.step.0.use: there is no stage called 'rihc'; did you mean 'rich'?",
        ),
        ('use = "rich"', 'uses = "rich"', "f.toml:6: pipeline.one.step.0: 'use' is missing; it names the stage: "),
        (
            'source = { use = "from", uri = "in" }',
            "",
            "f.toml:1: pipeline.one: 'source' is missing; write source = { use = ",
        ),
        ('sink = { use = "into", uri = "out" }', "", "f.toml:1: pipeline.one: 'sink' is missing; write sink = { use"),
        ('{ use = "from", uri = "in" }', '{ use = "from" }', "f.toml:2: pipeline.one.source.uri: Field required"),
        (
            "count = 3",
            'count = "many"',
            "f.toml:8: pipeline.one.step.0.count: Input should be a valid integer, unable to parse",
        ),
        ("count = 3", 'kind = "c"', "f.toml:8: pipeline.one.step.0.kind: Input should be 'a' or 'b'; found 'c'"),
        (
            "replicas = [1, 2]",
            "replicas = [3, 2]",
            "step.0.place: replicas must be [fewest, most] with 1 <= fewest <= most, not [3, 2]",
        ),
        ("depth = 2", 'depth = "deep"', "f.toml:13: pipeline.one.step.1.inner.depth: Input should be a valid integer"),
        (
            "max_bad_rows = 7",
            'max_bad_rows = "x"',
            "f.toml:4: pipeline.one.max_bad_rows: Input should be a valid integer",
        ),
        ("max_bad_rows = 7", "read = 5", "f.toml:4: pipeline.one.read: a table was needed, found 5"),
        (
            'source = { use = "from", uri = "in" }',
            'source = "in"',
            "f.toml:2: pipeline.one.source: a table was needed, found 'in'",
        ),
        (
            "[pipeline.two]",
            "[pipeline.two]\nstep = 5",
            "f.toml:16: pipeline.two.step: a list of steps was needed; write",
        ),
        ("[runner]\nuse", "[runner\nuse", "f.toml: not TOML: "),
        ("count = 3", "count = 3\ncount = 4", "f.toml: not TOML: Cannot overwrite a value (at line 9, column 10)"),
        (
            'use = "rich"',
            'use = "nodata"',
            "stage 'nodata' (otherparts:NoData) is not a dataclass; make it a frozen one",
        ),
        (
            'use = "from"',
            'use = "broken"',
            "'broken' (otherparts:Gone) cannot be imported: module 'otherparts' has no attribute",
        ),
        (
            'use = "from"',
            'use = "absent"',
            "(notinstalled:X) cannot be imported: No module named 'notinstalled'; mend or uninst",
        ),
    ],
)
def test_errors_name_file_line_and_key(old, new, wanted):
    with pytest.raises(SpecError) as caught:
        loads(without(GOOD, old, new), name="f.toml")
    assert wanted in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        (
            "count: 3",
            "cuont: 3",
            "f.yaml:8: pipeline.one.step.0.cuont: 'cuont' is not known here; did you mean 'count'?",
        ),
        (
            "replicas:",
            "replica:",
            "f.yaml:11: pipeline.one.step.0.place.replica: 'replica' is not known here; did you mean",
        ),
        ("depth: 2", "depth: deep", "f.yaml:14: pipeline.one.step.1.inner.depth: Input should be a valid integer"),
        ("count: 3", "count: 3\n        count: 4", "f.yaml:9: 'count' is given twice, first in line 8; keep one"),
        ("max_bad_rows: 7", "max_bad_rows: [", "f.yaml: not YAML: "),
        ("    step:", "    step: &a [*a]\n    stp:", "f.yaml: not YAML: "),
        ("    step:", "    step: rich\n    steps:", "f.yaml:7: pipeline.one.steps: 'steps' is not known here; did you"),
    ],
)
def test_errors_in_yaml_do_too(old, new, wanted):
    with pytest.raises(SpecError) as caught:
        loads(without(YAML, old, new), "yaml", name="f.yaml")
    assert wanted in str(caught.value)


@pytest.mark.parametrize(
    ("text", "form", "wanted"),
    [
        ("", "toml", "f: there is no pipeline; write [pipeline.NAME] with a source and a sink"),
        ("[runner]\nuse = 'walk'", "toml", "f: there is no pipeline; write [pipeline.NAME]"),
        ("- a\n- b", "yaml", "f: a mapping with 'pipeline' was needed, found list"),
        ("", "yaml", "f: a mapping with 'pipeline' was needed, found NoneType"),
        ("pipeline = 5", "toml", "f:1: pipeline: a table was needed, found 5"),
    ],
)
def test_what_is_no_pipeline_file(text, form, wanted):
    with pytest.raises(SpecError) as caught:
        loads(text, form, name="f")
    assert str(caught.value).startswith(wanted)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(SpecError, match=r"none.toml: cannot be read: .*No such file"):
        load(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes("größe = 1".encode("latin-1"))
    with pytest.raises(SpecError, match=r"latin.toml: cannot be read: 'utf-8' codec"):
        load(tmp_path / "latin.toml")


def circle(*pairs: tuple[str, str]) -> str:
    return "".join(
        f'[pipeline.p{at}]\nsource = {{ use = "from", uri = "{a}" }}\nsink = {{ use = "into", uri = "{b}" }}\n'
        for at, (a, b) in enumerate(pairs)
    )


def test_pipelines_that_read_each_other_in_a_circle_are_refused():
    with pytest.raises(SpecError, match="these pipelines read each other in a circle: p1, p2, p3"):
        loads(circle(("raw", "x"), ("a", "b"), ("b", "c"), ("c", "a")))
    with pytest.raises(SpecError, match="these pipelines read each other in a circle: p0"):
        loads(circle(("a", "a/")))


def test_two_pipelines_do_not_write_to_one_place():
    with pytest.raises(SpecError, match="the pipelines 'p0' and 'p1' both write to out; give each its own place"):
        loads(circle(("a", "out"), ("b", "out/")))


def test_two_packages_that_give_one_name_are_named(other, monkeypatch):
    from importlib.metadata import EntryPoint

    group = "penstock.stages"
    points = [EntryPoint("rich", "a:X", group), EntryPoint("rich", "a:X", group), EntryPoint("rich", "b:Y", group)]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points)
    plugins.named.cache_clear()
    try:
        with pytest.raises(SpecError, match="stage 'rich' is given twice, by a:X and b:Y; uninstall one"):
            plugins.named("stages")
    finally:
        plugins.named.cache_clear()


# --- writing ---------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
NAME = st.text("abcäß-_. 1\"'#[]", min_size=1, max_size=8).filter(lambda name: name.strip() == name)
NUMBER = st.floats(allow_nan=False)


def specs() -> st.SearchStrategy[Spec]:
    """Specs of all the kinds of fields that a part can have."""
    other = sys.modules["otherparts"]
    inner = st.builds(other.Inner, st.integers(-9, 9), st.lists(TEXT, max_size=3).map(tuple))
    rich = st.builds(
        other.Rich,
        count=st.integers(-(2**60), 2**60),
        share=NUMBER,
        name=TEXT,
        flag=st.booleans(),
        kind=st.sampled_from(["a", "b"]),
        pair=st.tuples(st.integers(), st.integers()).map(lambda pair: tuple(x % 2**60 for x in pair)),
        inner=inner,
        options=st.dictionaries(TEXT, NUMBER, max_size=3),
        maybe=st.none() | st.integers(0, 9),
    )
    solves = st.builds(other.Solves, st.builds(other.Queue, TEXT))
    counts = st.integers(1, 9).flatmap(lambda low: st.tuples(st.just(low), st.integers(low, 20)))
    places = st.builds(
        Place,
        st.sampled_from(["function", "task", "actor"]),
        counts,
        st.floats(0, 64),
        st.floats(0, 8),
        st.integers(0, 2**40),
    )
    steps = st.lists(st.builds(Step, rich | solves, places | st.just(Place())), max_size=3).map(tuple)

    def lines(names: list[str]) -> st.SearchStrategy[tuple[Pipeline, ...]]:
        one = [
            st.builds(
                Pipeline,
                st.just(name),
                st.builds(other.From, st.just(f"in/{at}"), TEXT),
                st.builds(other.Into, st.just(f"out/{at}"), st.integers(0, 99)),
                steps,
                places | st.just(Place("task")),
                max_bad_rows=st.integers(0, 2000),
                max_bad_units=st.integers(0, 2),
                allow_noncommercial=st.booleans(),
            )
            for at, name in enumerate(names)
        ]
        return st.tuples(*one)

    pipelines = st.lists(NAME, min_size=1, max_size=3, unique=True).flatmap(lines)
    views = st.builds(View, NAME, TEXT, st.lists(TEXT, max_size=2).map(tuple), TEXT, TEXT)
    return st.builds(Spec, pipelines, st.none() | st.builds(other.Walk, st.integers()), st.none() | views)


@pytest.mark.parametrize("form", ["toml", "yaml"])
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(data=st.data())
def test_what_is_written_reads_as_it_was(form, data):
    one = data.draw(specs())
    assert loads(dumps(one, form), form) == one


@pytest.mark.parametrize("name", ["a.toml", "a.yaml", "a.yml"])
def test_a_written_file_reads_as_it_was(tmp_path, wanted, name):
    rooted = [
        dataclasses.replace(p, source=dataclasses.replace(p.source, uri=f"/{p.source.uri}"), sink=p.sink)
        for p in wanted.pipelines
    ]
    rooted = [dataclasses.replace(p, sink=dataclasses.replace(p.sink, uri=f"/{p.sink.uri}")) for p in rooted]
    one = dataclasses.replace(wanted, pipelines=tuple(rooted))
    dump(one, tmp_path / name)
    assert load(tmp_path / name) == one
    assert (b"use: rich" in (tmp_path / name).read_bytes()) == (name != "a.toml")


def test_defaults_are_left_out(other):
    plain = spec.plain(Pipeline("p", other.From("a"), other.Into("b"), (Step(other.Rich()),)))
    assert plain == {
        "source": {"use": "from", "uri": "a"},
        "sink": {"use": "into", "uri": "b"},
        "step": [{"use": "rich"}],
    }


def test_a_part_without_a_name_cannot_be_written_but_can_be_recorded(other):
    @dataclasses.dataclass(frozen=True)
    class Mine:
        uri: str

    pipeline = Pipeline("p", Mine("a"), other.Into("b"))
    with pytest.raises(SpecError, match=r"Mine is no entry point of penstock.sources; add it to your pyproject.toml"):
        dumps(Spec((pipeline,)))
    use = spec.plain(pipeline, plugins.called)["source"]["use"]
    assert use == f"{Mine.__module__}:{Mine.__qualname__}"
    assert spec.plain(pipeline, plugins.called)["sink"]["use"] == "into"


# --- the schema for editors ------------------------------------------------------------------------------


@functools.cache
def checker() -> jsonschema.Draft202012Validator:
    """The schema over the parts that can be imported."""
    points = {kind: plugins.named(kind) for kind in plugins.KINDS}
    with pytest.MonkeyPatch.context() as patch:
        bad = {"broken", "absent", "nodata"}
        patch.setattr(plugins, "named", lambda kind: {n: p for n, p in points[kind].items() if n not in bad})
        schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(json.loads(json.dumps(schema)))


def tables(text: str, form: str) -> dict:
    import tomllib

    import yaml

    return yaml.safe_load(text) if form == "yaml" else tomllib.loads(text)


@pytest.mark.parametrize(("text", "form"), [(GOOD, "toml"), (YAML, "yaml")], ids=["toml", "yaml"])
def test_editors_accept_good_files(text, form):
    assert [error.message for error in checker().iter_errors(tables(text, form))] == []


def test_editors_accept_a_file_with_one_pipeline():
    one = {"source": {"use": "from", "uri": "a"}, "sink": {"use": "into", "uri": "b"}, "step": [{"use": "rich"}]}
    assert checker().is_valid({**one, "runner": {"use": "walk"}, "max_bad_rows": 3})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("max_bad_rows = 7", "max_bad_row = 7"),
        ("count = 3", "cuont = 3"),
        ("count = 3", 'count = "many"'),
        ("count = 3", 'kind = "c"'),
        ("depth = 2", 'depth = "x"'),
        ('use = "rich"', 'use = "rihc"'),
        ('source = { use = "from", uri = "in" }', ""),
        ('{ use = "from", uri = "in" }', '{ use = "from" }'),
        ("speed = 2", "spede = 2"),
        ("replicas =", "replica ="),
        ('title = "', 'titel = "'),
    ],
)
def test_editors_refuse_what_reading_refuses(old, new):
    text = without(GOOD, old, new)
    with pytest.raises(SpecError):
        loads(text)
    assert not checker().is_valid(tables(text, "toml"))


def test_the_schema_covers_every_part_that_penstock_brings():
    text = json.dumps(checker().schema)
    ours = [n for kind in plugins.KINDS for n, p in plugins.named(kind).items() if p.module.startswith("penstock")]
    assert [name for name in ours if f'"{name}"' not in text] == []


def test_all_parts_that_penstock_brings_can_be_imported():
    points = [
        (kind, n) for kind in plugins.KINDS for n, p in plugins.named(kind).items() if p.module.startswith("pens")
    ]
    assert len(points) > 10
    assert all(dataclasses.is_dataclass(plugins.load(kind, name)) for kind, name in points)
    assert Path(plugins.load("sinks", "hdf5").__module__.replace(".", "/")).name == "hdf5"


# --- environment variables -------------------------------------------------------------------------------


def test_texts_may_name_environment_variables(monkeypatch):
    monkeypatch.setenv("PLACE", "s3://bucket")
    monkeypatch.setenv("NAME", "out")
    text = (
        'sink = { use = "parquet", uri = "${env:PLACE}/${env:NAME}" }\nsource = { use = "text", uri = "$NAME ${NAME}" }'
    )
    [line] = loads(text, name="line.toml").pipelines
    assert (line.sink.uri, line.source.uri) == ("s3://bucket/out", "$NAME ${NAME}"), "what shells expand is left alone"


def test_a_variable_that_is_not_set_is_refused_with_its_place(monkeypatch):
    monkeypatch.delenv("PLACE", raising=False)
    text = 'source = { use = "text", uri = "in" }\nsink = { use = "parquet", uri = "${env:PLACE}" }'
    with pytest.raises(SpecError, match=r"line.toml:2: sink.uri: the environment variable PLACE is not set; export it"):
        loads(text, name="line.toml")
    assert loads(text, changes={"sink.uri": "out"}).pipelines[0].sink.uri == "out"

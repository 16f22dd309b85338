"""A small world to report on: two datasets, made by the inline runner, one from the other."""

import dataclasses
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint

import numpy as np
import pyarrow as pa
import pytest

from penstock.core import plugins
from penstock.core.batch import adding, tensor_column, tensor_type, with_columns
from penstock.core.dataset import existing
from penstock.core.nouns import Licence, Pipeline, Step, Unit
from penstock.core.reading import read_table
from penstock.core.spec import Spec, View
from penstock.core.storage import Uri
from penstock.errors import RowErrors
from penstock.runners.inline import Inline
from penstock.sinks.parquet import Parquet

FAMILIES = ("lysozyme", "globin", "kinase", "<b>odd & bold</b>")
EVIL = "<script>alert(1)</script>"


@dataclass(frozen=True)
class Made:
    """A source whose rows are made up; the last row of each unit is bad."""

    uri: Uri
    files: int = 4
    rows: int = 25

    def schema(self):
        return pa.schema([("id", pa.string()), ("family", pa.string())])

    def units(self):
        return (Unit.of(f"{self.uri}/{at}.fasta", "1", 0, self.rows) for at in range(self.files))

    def read(self, unit):
        ids = [f"{unit.uri.rsplit('/', 1)[-1]}:{row}" for row in range(self.rows)]
        families = [FAMILIES[(row * 7) % len(FAMILIES)] for row in range(self.rows)]
        batch = pa.table({"id": [*ids[:-1], f"{EVIL}{ids[-1]}"], "family": families})
        raise RowErrors(batch.slice(0, self.rows - 1), batch.slice(self.rows - 1), [f"bad letters {EVIL}"])


@dataclass(frozen=True)
class Vectors:
    """A stage that gives each family a direction and each row some noise around it."""

    dim: int = 16

    def schema(self, given):
        return adding(given, {"embedding": tensor_type("float32", self.dim), "length": pa.float64()})

    def identity(self):
        return {"weights": "abc123" * 10}

    def weights_bytes(self):
        return 0

    def licences(self):
        return [Licence("toy weights", "CC-BY-4.0", True)]

    @contextmanager
    def open(self):
        yield self._transform

    def _transform(self, batch):
        lines = zip(batch["id"].to_pylist(), batch["family"].to_pylist(), strict=True)
        rows = np.stack([self._vector(family, 3.0) + self._vector(name, 0.4) for name, family in lines])
        columns = {"embedding": tensor_column(rows.astype("float32")), "length": pa.array(np.linalg.norm(rows, axis=1))}
        return with_columns(batch, columns)

    def _vector(self, text, size):
        return size * np.random.default_rng(zlib.crc32(text.encode())).normal(size=self.dim)


@dataclass(frozen=True)
class Earlier:
    """A source that takes an earlier dataset as one unit."""

    uri: Uri

    def schema(self):
        return existing(self.uri).schema

    def units(self):
        found = existing(self.uri)
        return [Unit.of(self.uri, found.sha256, 0, found.rows)]

    def read(self, unit):
        return read_table(self.uri)


@dataclass(frozen=True)
class Groups:
    """A stage that gives what a spectral clustering gives, from the families themselves."""

    most: int = 6

    def schema(self, given):
        more = {"cluster": pa.int32(), "clusters": tensor_type("int32", self.most - 1)}
        return adding(given, {**more, "eigenvalues": tensor_type("float64", self.most)})

    @contextmanager
    def open(self):
        yield self._transform

    def _transform(self, batch):
        known = np.unique(batch["family"].to_pylist(), return_inverse=True)[1].astype("int32")
        noise = np.arange(len(known)) % 3
        sweep = np.stack([known % k if k <= 4 else known + 4 * (noise < k - 4) for k in range(2, self.most + 1)], 1)
        values = np.tile(np.array([0.0, 0.01, 0.02, 0.04, 0.7, 0.8])[: self.most], (len(known), 1))
        return with_columns(
            batch,
            {
                "cluster": pa.array(known),
                "clusters": tensor_column(sweep.astype("int32")),
                "eigenvalues": tensor_column(values),
            },
        )


def entries(group):
    """The parts above and the sink, as if a package had installed them."""
    parts = {
        "penstock.sources": {"made": Made, "dataset": Earlier},
        "penstock.stages": {"vectors": Vectors, "groups": Groups},
        "penstock.sinks": {"parquet": Parquet},
        "penstock.runners": {"inline": Inline},
    }
    found = parts.get(group, {})
    return [EntryPoint(name, f"{kind.__module__}:{kind.__qualname__}", group) for name, kind in found.items()]


@dataclass(frozen=True)
class World:
    """Where the datasets lie, and the pipelines that made them."""

    spec: Spec
    embeddings: str
    clusters: str

    def again(self):
        """Run everything once more; nothing is left to do."""
        for pipeline in self.spec.pipelines:
            Inline().run(pipeline)

    def viewed(self, **changes):
        return dataclasses.replace(self.spec.report, **changes)


def make(root):
    """Run both pipelines below *root*."""
    embeddings, clusters = f"{root}/embeddings", f"{root}/clusters"
    pipelines = (
        Pipeline("embed", Made(f"{root}/raw"), Parquet(embeddings), (Step(Vectors()),)),
        Pipeline("group", Earlier(embeddings), Parquet(clusters), (Step(Groups()),)),
    )
    for pipeline in pipelines:
        Inline().run(pipeline)
    view = View("group", "embedding", ("cluster", "family", "length"), "family", f"Families & {EVIL}")
    return World(Spec(pipelines, None, view), embeddings, clusters)


@contextmanager
def installed():
    """The parts of this file are entry points inside, as if a package had brought them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plugins, "entry_points", entries)
        plugins.named.cache_clear()
        yield
    plugins.named.cache_clear()


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    with installed():
        return make(tmp_path_factory.mktemp("world"))


@pytest.fixture(autouse=True)
def parts_are_installed(world):
    with installed():
        yield

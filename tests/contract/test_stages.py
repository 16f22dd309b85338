"""The shipped suite over every stage of penstock.stages; solvers have their own place."""

import numpy as np
import pyarrow as pa
import pytest

from penstock.core import plugins
from penstock.core.batch import tensor_column, with_columns
from penstock.core.nouns import Pipeline, Place, Record, Step, Unit
from penstock.core.spec import Spec, dumps, loads
from penstock.sinks.parquet import Parquet
from penstock.sources.text import Text
from penstock.stages.clean import Clean
from penstock.stages.encode import Encode
from penstock.stages.extract import Extract
from penstock.stages.function import Function
from penstock.stages.join import Join
from penstock.stages.tokens import Tokens
from penstock.testing import StageTests
from penstock.testing.models import tiny_encoder

SEQUENCES = pa.table(
    {
        "id": [f"s{i}" for i in range(6)],
        "description": ["GN=IGHV1", "nothing", "GN=IGKV2 x", "GN=IGLV3", None, "GN=IGHV1"],
        "sequence": ["MKTAYIAKQR", " mk-ta*", "", "GAVLI1", None, "MKTAYIAKQR"],
    }
)
IDS = pa.table(
    {"input_ids": pa.array([[2, 5, 6, 3], [2, *range(5, 31), 3], [], [2, 7, 3], None], pa.list_(pa.int32()))}
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return str(tiny_encoder(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Three rows, published."""
    sink, unit = Parquet(str(tmp_path_factory.mktemp("dataset"))), Unit.of("memory", "1", 0, 3)
    table = pa.table({"name": ["a", "b", "c"], "vector": tensor_column(np.eye(3, dtype=np.float32))})
    provenance = {"schema": table.schema.serialize().to_pybytes().hex(), "fingerprint": "0" * 64}
    return sink.commit(lambda: [(unit, Record(unit.key, sink.write(unit, table)))], provenance).uri


def lengths(batch):
    """The function under test of `Function`."""
    return with_columns(batch, {"length": pa.array([len(name) for name in batch["id"].to_pylist()], pa.int64())})


class TestClean(StageTests):
    stage = Clean(alphabet="protein", case="upper", normal_form="NFKC", max_length=9)
    batch = SEQUENCES
    needs = ("sequence",)


class TestCleanWithUnique(StageTests):
    stage = Clean(alphabet="protein", unique=("sequence",))
    batch = SEQUENCES
    needs = ("sequence",)
    rowwise = False


class TestExtract(StageTests):
    stage = Extract(r"GN=(?P<gene>(?P<family>IG[HKL]V)\S*)")
    batch = SEQUENCES
    needs = ("description",)


class TestTokens(StageTests):
    stage = Tokens("residue:protein", max_length=11, too_long="truncate")
    batch = SEQUENCES
    needs = ("sequence",)


class TestEncode(StageTests):
    batch = IDS
    needs = ("input_ids",)
    tolerance = 1e-5

    @pytest.fixture(autouse=True)
    def _made(self, tiny):
        self.stage = Encode(tiny, special="exclude", normalize=True, batch_tokens=40)


class TestEncodeWithoutPooling(TestEncode):
    @pytest.fixture(autouse=True)
    def _made(self, tiny):
        self.stage = Encode(tiny, pooling="none", layer=1)


class TestFunction(StageTests):
    stage = Function(f"{__name__}:lengths", adds={"length": "int64"}, drops=("description",))
    batch = SEQUENCES
    needs = ("description",)


class TestJoinByRow(StageTests):
    batch = pa.table({"row": pa.array([2, 0, 9, 1, None], pa.int64()), "name": list("vwxyz")})
    needs = ("row",)

    @pytest.fixture(autouse=True)
    def _made(self, dataset):
        self.stage = Join(dataset, ("name", "vector"))


class TestJoinByKey(TestJoinByRow):
    batch = pa.table({"name": ["c", "a", "zz", "b", None]})
    needs = ("name",)

    @pytest.fixture(autouse=True)
    def _made(self, dataset):
        self.stage = Join(dataset, ("vector",), on="name")


SPECIMENS = (
    TestClean.stage,
    TestCleanWithUnique.stage,
    TestExtract.stage,
    TestTokens.stage,
    Encode("antiberty", pooling="none", special="exclude", layer=3, dtype="float16", device="cpu"),
    TestFunction.stage,
    Join("/data/other", ("name", "vector"), on="name"),
)


def test_every_stage_has_a_specimen():
    ours = {name for name, point in plugins.named("stages").items() if point.module.startswith("penstock.stages.")}
    assert {plugins.name_of("stages", stage) for stage in SPECIMENS} == ours


@pytest.mark.parametrize("form", ["toml", "yaml"])
def test_stages_come_back_from_a_file(form):
    place = Place("actor", replicas=(1, 2))
    steps = tuple(Step(stage, place) for stage in SPECIMENS)
    spec = Spec((Pipeline("all", Text("/data/in.txt"), Parquet("/data/out"), steps),))
    assert loads(dumps(spec, form), form) == spec

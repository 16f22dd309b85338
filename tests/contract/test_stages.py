"""The shipped suite over every stage of penstock.stages; solvers have their own place."""

import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from penstock.core import plugins
from penstock.core.batch import tensor_column, with_columns
from penstock.core.nouns import Pipeline, Place, Record, Step, Unit
from penstock.core.spec import Spec, dumps, loads
from penstock.models import planes
from penstock.models.kmers import Letters
from penstock.sinks.parquet import Parquet
from penstock.sources.text import Text
from penstock.stages.clean import Clean
from penstock.stages.cut import Cut
from penstock.stages.drop import Drop
from penstock.stages.embedding import Embedding
from penstock.stages.encode import Encode
from penstock.stages.extract import Extract
from penstock.stages.frames import Frames
from penstock.stages.function import Function
from penstock.stages.generate import Generate
from penstock.stages.join import Join
from penstock.stages.kmer import Kmer
from penstock.stages.kolmogorov import Kolmogorov
from penstock.stages.lookup import Lookup
from penstock.stages.quality import Quality
from penstock.stages.shots import Shots
from penstock.stages.tokens import Tokens
from penstock.stages.vision import Vision
from penstock.tables.making import create
from penstock.testing import StageTests
from penstock.testing.models import tiny_encoder, tiny_generator, tiny_resnet
from penstock.testing.videos import moving, write_video

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


class TestKmer(StageTests):
    stage = Kmer(patterns=("1101", "1011"), positions=True)
    batch = pa.table({"sequence": ["ACGTTGCA", "acgtnacgu", "AC", None, "TTTTNTTTT", "GATTACAGATTACA"]})
    needs = ("sequence",)


class TestKmerByPlanes(TestKmer):
    @pytest.fixture(autouse=True)
    def _made(self, tmp_path):
        self.stage = Kmer(planes=str(tmp_path / "planes.npz"), empty="keep")
        planes.save(planes.fit(Letters.of(self.batch["sequence"]), 4, 10, bands=3), self.stage.planes)


class TestKolmogorov(StageTests):
    stage = Kolmogorov(16, wavenumber=2, spin_up_seconds=0.2, snapshots=2, every_seconds=0.2, pair_seconds=0.04)
    batch = pa.table({"seed": [3, 1, 4, 2, 5], "viscosity": [0.01, 0.02, -9e9, 0.03, 0.01]})
    needs = ("seed",)


class TestTokens(StageTests):
    stage = Tokens("residue:protein", max_length=11, too_long="truncate")
    batch = SEQUENCES
    needs = ("sequence",)


@pytest.fixture(scope="module")
def spans(tmp_path_factory):
    """Two spans of one video, one of another, a truncated one, one of no video, and one that is named by nothing."""
    folder = tmp_path_factory.mktemp("videos")
    one = write_video(folder / "one.mp4", [*moving(1, 30), *moving(2, 30)])
    other = write_video(folder / "other.avi", moving(3, 40), codec="mpeg4")
    (folder / "half.mkv").write_bytes(write_video(folder / "whole.mkv", moving(4, 60)).read_bytes()[:4000])
    (folder / "none.mp4").write_bytes(b"no video")
    names = [str(one), str(one), str(other), str(folder / "half.mkv"), str(folder / "none.mp4"), None]
    edges = {"start_seconds": [0.0, 1.0, 0.0, 0.0, 0.0, 0.0], "stop_seconds": [1.0, 2.4, 1.6, 2.4, 1.0, 1.0]}
    return pa.table({"id": list("abcdef"), "uri": names, **edges})


class TestShots(StageTests):
    stage = Shots(minimum_seconds=0.2)
    needs = ("id", "uri")

    @pytest.fixture(autouse=True)
    def _made(self, spans):
        self.batch = spans


class TestFrames(TestShots):
    stage = Frames(2, 16, 24)
    needs = ("uri",)


class TestCut(TestShots):
    needs = ("uri", "start_seconds", "stop_seconds")

    @pytest.fixture(autouse=True)
    def _made(self, spans, tmp_path):
        self.stage, self.batch = Cut(str(tmp_path)), spans


class TestQuality(StageTests):
    stage = Quality()
    batch = pa.table({"frames": tensor_column(np.stack([moving(seed, 3, 16, 24) for seed in range(5)]))})
    needs = ("frames",)


class TestDrop(StageTests):
    stage = Drop(("description",))
    batch = SEQUENCES
    needs = ("description",)


class TestEmbedding(StageTests):
    batch = IDS
    needs = ("input_ids",)

    @pytest.fixture(autouse=True)
    def _made(self, tiny):
        self.stage = Embedding(tiny)


class TestEmbeddingPadded(TestEmbedding):
    @pytest.fixture(autouse=True)
    def _made(self, tiny):
        self.stage = Embedding(tiny, part="inputs_embeds", length=6, dtype="float16", threads=1)


class TestEmbeddingInWindows(TestEmbedding):
    @pytest.fixture(autouse=True)
    def _made(self, tiny):
        self.stage = Embedding(tiny, window=9, overlap=2, length=12)


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


class TestGenerate(StageTests):
    batch = pa.table({"seed": [3, 1, -4, 2, 5], "viscosity": [0.01, 0.02, 9.0, 0.03, 0.04]})
    needs = ("seed",)
    kind = "psi_vae"

    @pytest.fixture(autouse=True)
    def _made(self, tmp_path):
        self.stage = Generate(str(tiny_generator(tmp_path, self.kind)), device="cpu")


class TestGenerateByStylegan(TestGenerate):
    kind = "psi_stylegan"


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


class TestLookup(StageTests):
    batch = IDS
    needs = ("input_ids",)

    @pytest.fixture(autouse=True)
    def _made(self, tmp_path):
        self.stage = Lookup(create(str(tmp_path), 30, 4).uri)


class TestLookupWithoutPooling(TestLookup):
    @pytest.fixture(autouse=True)
    def _made(self, tmp_path):
        self.stage = Lookup(create(str(tmp_path), 30, 4, "int8").uri, pool="none", into="vectors", dtype="float16")


def encoded(seed, form="PNG"):
    """A small image of random colours."""
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 11, 3), np.uint8)).save(out, form)
    return out.getvalue()


class TestVision(StageTests):
    batch = pa.table({"image": pa.array([encoded(1), b"", encoded(2, "JPEG"), encoded(1), None, encoded(3, "GIF")])})
    needs = ("image",)
    tolerance = 1e-3

    @pytest.fixture(autouse=True)
    def _made(self, tmp_path):
        self.stage = Vision(str(tiny_resnet(tmp_path)), batch=2, device="cpu")


class TestVisionOfFrames(TestVision):
    batch = pa.table(
        {"clip": tensor_column(np.random.default_rng(0).integers(0, 256, (4, 2, 9, 11, 3)).astype(np.uint8))}
    )
    needs = ("clip",)

    @pytest.fixture(autouse=True)
    def _made(self, tmp_path):
        self.stage = Vision(str(tiny_resnet(tmp_path)), column="clip", frames="none", output="map", device="cpu")


SPECIMENS = (
    TestClean.stage,
    TestCleanWithUnique.stage,
    Cut("/data/clips", where="keep", mode="encode", codec="mpeg4", options=(("q", "5"),), sound="none"),
    TestDrop.stage,
    TestExtract.stage,
    Frames(4, 112, 96, fit="stretch", pick="keyframes", preview_height=0),
    TestKmer.stage,
    TestKolmogorov.stage,
    TestTokens.stage,
    Vision("efficientnet-lite0", column="frames", normalize=True, decode="draft", device="cpu"),
    Embedding("minilm", part="inputs_embeds", length=128, window=128, overlap=32, dtype="float16"),
    Encode("antiberty", pooling="none", special="exclude", layer=3, dtype="float16", device="cpu"),
    TestFunction.stage,
    Generate("/data/model", viscosity=0.01, device="cpu"),
    Join("/data/other", ("name", "vector"), on="name"),
    Lookup("/data/table", "kmers", pool="sum", dtype="float16"),
    Quality(least_brightness=0, least_motion=1.5),
    Shots("stride", stride_seconds=4),
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

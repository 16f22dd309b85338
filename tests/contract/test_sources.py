"""Every source that Penstock brings keeps the promises of `SourceTests`."""

import gzip
import io
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from penstock.core import plugins
from penstock.core.batch import tensor_column, to_numpy
from penstock.core.dataset import existing
from penstock.core.nouns import Pipeline
from penstock.core.storage import store_of
from penstock.formats.openfoam import Field, write_dictionary, write_field
from penstock.runners.inline import Inline
from penstock.sinks.parquet import Parquet as ParquetSink
from penstock.sources.dataset import Dataset
from penstock.sources.fasta import Fasta, Fastq
from penstock.sources.fields import Fields
from penstock.sources.images import Images
from penstock.sources.parquet import Parquet
from penstock.sources.seeds import Seeds
from penstock.sources.text import Csv, Jsonl, Text
from penstock.sources.videos import Videos
from penstock.testing import SourceTests
from penstock.testing.videos import moving, write_video

IDS = ["a", "b", "c", "d"]


class TestFasta(SourceTests):
    @pytest.fixture
    def source(self, tmp_path):
        (tmp_path / "1.fa").write_bytes(b">a one two\nMKV\nAA\n>none\n>b\nGG")
        (tmp_path / "2.fasta.gz").write_bytes(gzip.compress(b">c x\r\nMMM\r\n"))
        (tmp_path / "3.faa").write_bytes(b"")
        (tmp_path / "4.fna").write_bytes(b"junk\n>d\nACGT\n")
        return Fasta(str(tmp_path))

    @pytest.fixture
    def expected(self):
        return pa.table(
            {"id": IDS, "description": ["one two", "", "x", ""], "sequence": ["MKVAA", "GG", "MMM", "ACGT"]}
        )


class TestFastq(SourceTests):
    @pytest.fixture
    def source(self, tmp_path):
        (tmp_path / "1.fq").write_bytes(b"@a 1\nAC\n+\n@@\n@b\nACG\n+b\n+@+\n@bad\nA\n+\nII\n")
        (tmp_path / "2.fastq.gz").write_bytes(gzip.compress(b"@c\nA\n+\nI\n@d\nAA\n+\nII"))
        return Fastq(str(tmp_path))

    @pytest.fixture
    def expected(self):
        columns = [IDS, ["1", "", "", ""], ["AC", "ACG", "A", "AA"], ["@@", "+@+", "I", "II"]]
        return pa.table(dict(zip(["id", "description", "sequence", "quality"], columns, strict=True)))


class TestText(SourceTests):
    @pytest.fixture
    def source(self, tmp_path):
        (tmp_path / "1.txt").write_bytes("one\n\nthr\u00e9e\r\n".encode() + b"\xff\n")
        (tmp_path / "2.txt.gz").write_bytes(gzip.compress(b"four"))
        return Text(str(tmp_path))

    @pytest.fixture
    def expected(self):
        return pa.table({"text": ["one", "", "thrée", "four"]})


class TestJsonl(SourceTests):
    @pytest.fixture
    def source(self, tmp_path):
        (tmp_path / "1.jsonl").write_text('{"id": "a", "n": 1}\nbroken\n\n{"n": 2, "id": "b"}\n{"id": "c"}')
        (tmp_path / "2.ndjson.gz").write_bytes(gzip.compress(b'{"id": "d", "n": 4, "more": {}}'))
        return Jsonl(str(tmp_path), {"n": "int32", "id": "string"})

    @pytest.fixture
    def expected(self):
        return pa.table({"n": pa.array([1, 2, None, 4], pa.int32()), "id": IDS})


class TestCsv(SourceTests):
    @pytest.fixture
    def source(self, tmp_path):
        (tmp_path / "1.csv").write_text('id;n\na;1\nbroken\n"b";2\r\n')
        (tmp_path / "2.tsv.gz").write_bytes(gzip.compress(b"n;id\n;c\n4;d"))
        return Csv(str(tmp_path), {"n": "int32", "id": "string"}, delimiter=";")

    @pytest.fixture
    def expected(self):
        return pa.table({"n": pa.array([1, 2, None, 4], pa.int32()), "id": IDS})


class TestParquet(SourceTests):
    sizes_bytes = (1, 300, 1 << 30)

    @pytest.fixture
    def source(self, tmp_path, expected):
        pq.write_table(expected.slice(0, 3), tmp_path / "1.parquet", row_group_size=1)
        pq.write_table(expected.slice(3, 0), tmp_path / "2.parquet")
        pq.write_table(expected.slice(3).append_column("more", [[1]]), tmp_path / "3.parquet")
        return Parquet(str(tmp_path), ("n", "id"))

    @pytest.fixture
    def expected(self):
        return pa.table({"n": pa.array([1, 2, None, 4], pa.int32()), "id": IDS})


class TestDataset(SourceTests):
    @pytest.fixture
    def source(self, tmp_path):
        (tmp_path / "1.txt").write_text("a\nb\nc\nd")
        sink = ParquetSink(str(tmp_path / "out"), file_bytes=1500)
        Inline().run(Pipeline("p", Text(str(tmp_path / "1.txt"), unit_bytes=2), sink))
        return Dataset(sink.uri, ("text",))

    @pytest.fixture
    def expected(self):
        return pa.table({"text": IDS})


class TestDatasetWhole(TestDataset):
    @pytest.fixture
    def source(self, tmp_path):
        (tmp_path / "1.txt").write_text("a\nb")
        Inline().run(Pipeline("p", Text(str(tmp_path / "1.txt")), ParquetSink(str(tmp_path / "out"))))
        return Dataset(str(tmp_path / "out"), whole=True)

    @pytest.fixture
    def expected(self, source):
        manifest = existing(source.uri)
        return pa.table({"dataset": [source.uri], "version": [1], "rows": [2], "sha256": [manifest.sha256]})


class TestSeeds(SourceTests):
    @pytest.fixture
    def source(self):
        return Seeds(5, 3, 2, choices={"drag": (0.1, 0.2)}, ranges={"viscosity": (0.01, 0.02)})

    @pytest.fixture
    def expected(self):
        seeds = [3, 4, 5, 6, 7]
        drawn = [np.random.default_rng((seed, zlib.crc32(b"viscosity"))).uniform(0.01, 0.02) for seed in seeds]
        return pa.table({"seed": seeds, "drag": [0.2, 0.1, 0.2, 0.1, 0.2], "viscosity": drawn})


class TestFields(SourceTests):
    @pytest.fixture
    def source(self, tmp_path, expected):
        write_dictionary(tmp_path / "case" / "system" / "controlDict", {})
        for time, values in zip(("0", "0.5"), to_numpy(expected["velocity"]), strict=True):
            write_field(tmp_path / "case" / time / "U", Field(values))
        return Fields(str(tmp_path / "case"))

    @pytest.fixture
    def expected(self, tmp_path):
        values = tensor_column(np.arange(24.0).reshape(2, 4, 3))
        return pa.table({"case": [str(tmp_path / "case")] * 2, "time": [0.0, 0.5], "velocity": values})


class TestImages(SourceTests):
    @pytest.fixture
    def source(self, tmp_path, expected):
        for name, data in zip(expected["id"].to_pylist(), expected["image"].to_pylist(), strict=True):
            (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "photos" / name).write_bytes(data)
        (tmp_path / "photos" / "b" / "2.jpg").write_bytes(b"no image")
        return Images(str(tmp_path / "photos"))

    @pytest.fixture
    def expected(self):
        def encoded(size, form):
            out = io.BytesIO()
            Image.new("RGB", size, "teal").save(out, form)
            return out.getvalue()

        rows = [("a.png", (3, 4), "PNG"), ("b/1.jpg", (5, 6), "JPEG"), ("b/3.webp", (7, 8), "WEBP")]
        sizes = {"width": pa.array([3, 5, 7], pa.int32()), "height": pa.array([4, 6, 8], pa.int32())}
        data = pa.array([encoded(size, form) for _, size, form in rows], pa.binary())
        return pa.table({"id": [row[0] for row in rows], "image": data, **sizes, "format": [row[2] for row in rows]})


class TestVideos(SourceTests):
    @pytest.fixture
    def source(self, tmp_path, expected):
        (tmp_path / "none.mp4").write_bytes(b"no video")
        return Videos(str(tmp_path))

    @pytest.fixture
    def expected(self, tmp_path):
        paths = [write_video(tmp_path / name, moving(1, 5)) for name in ("a.mp4", "b.mkv")]
        known = {"codec": ["h264"] * 2, "width": [128] * 2, "height": [96] * 2, "frame_rate": [25.0] * 2}
        columns = {
            "id": ["a.mp4", "b.mkv"],
            "uri": [str(path) for path in paths],
            "etag": [store_of(str(path)).entry(str(path)).etag for path in paths],
            "container": ["mov", "matroska"],
            **known,
            "duration_seconds": [0.2, 0.2],
            "frame_count": [5, None],
            "start_seconds": [0.0, 0.0],
            "stop_seconds": [None, None],
        }
        return pa.table(columns, Videos("").schema())


def test_no_source_is_forgotten():
    tested = {kind.__name__.removeprefix("Test").lower() for kind in SourceTests.__subclasses__()}
    assert set(plugins.named("sources")) <= tested

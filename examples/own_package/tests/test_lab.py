"""The laboratory's parts, held to the rules of Penstock's own."""

import os
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from lab import Binned, Mgf, Npz, Within

from penstock.core.batch import to_numpy
from penstock.core.nouns import Job, Unit
from penstock.errors import RowErrors
from penstock.testing import ClusterTests, SinkTests, SourceTests, StageTests

SPECTRA = """# two good ones and four that are none
BEGIN IONS
TITLE=a = b
PEPMASS=413.5 1e6
CHARGE=2+
; a remark
300.5 12 1+
200.25\t4.5
END IONS

BEGIN IONS
TITLE=cut short
PEPMASS=1
BEGIN IONS
TITLE=no precursor
1 2
END IONS
BEGIN IONS
PEPMASS=1
100
200
END IONS
BEGIN IONS
PEPMASS=1
100 high
END IONS
BEGIN IONS
PEPMASS=500
CHARGE=2+ and 3+
END IONS
"""
ROWS = {"title": ["a = b", ""], "precursor_mz": [413.5, 500.0], "charge": [2, 0]}
PEAKS = {"mz": [[300.5, 200.25], []], "intensity": [[12.0, 4.5], []]}


class TestMgf(SourceTests):
    @pytest.fixture
    def source(self, tmp_path):
        (tmp_path / "a.mgf").write_text(SPECTRA)
        return Mgf(str(tmp_path))

    @pytest.fixture
    def expected(self, source):
        return pa.table({**ROWS, **PEAKS}, source.schema())

    def test_what_is_no_spectrum_is_told_with_its_text(self, source):
        with pytest.raises(RowErrors) as caught:
            source.read(next(source.units()))
        assert caught.value.reasons == [
            "END IONS is missing",
            "PEPMASS= or the intensity of a peak is missing",
            "PEPMASS= or the intensity of a peak is missing",
            "could not convert string to float: 'high'",
        ]
        assert "cut short" in caught.value.bad["title"][0].as_py()


class TestBinned(StageTests):
    stage = Binned(bins=300)
    batch = pa.table(
        {
            "mz": [[100.0, 101.5], [399.0], [250.0, 250.1, 9e9], [120.0]],
            "intensity": [[9.0, 16.0], [1.0], [1.0, 2.0, 5.0], [7.0]],
        }
    )
    needs = ("mz", "intensity")

    def test_a_row_is_roots_of_sums_scaled(self):
        with self.stage.open() as transform:
            spectra = to_numpy(transform(self.batch)["spectrum"])
        assert spectra[0, :3] == pytest.approx([0.6, 0.8, 0])
        assert spectra[2].nonzero()[0].tolist() == [149, 150]

    def test_a_spectrum_without_a_peak_in_the_range_is_refused(self):
        with (
            self.stage.open() as transform,
            pytest.raises(ValueError, match=r"no peak lies between 100 and 400\.15 Th"),
        ):
            transform(pa.table({"mz": [[99.9, 401.0]], "intensity": [[1.0, 1.0]]}))


class TestNpz(SinkTests):
    @pytest.fixture
    def sink(self, root):
        return Npz(root, file_bytes=9000)

    def test_numpy_alone_reads_a_part(self, sink, batch):
        part = np.load(f"{sink.uri}/{sink.write(Unit.of('u', '1', 0, 1), batch).path}")
        assert part["text"].tolist() == batch["text"].to_pylist()
        assert part["image"].shape == (20, 2, 3)


class TestWithin(ClusterTests):
    @pytest.fixture
    def cluster(self):
        return Within(("nice", "-n", "7"))

    def sized(self, cluster, **changes):
        return replace(cluster, cluster=replace(cluster.cluster, **changes))

    def test_jobs_run_within_the_command(self, cluster, folder):
        self.ended(cluster, cluster.submit(Job("k", ("nice",), str(folder))))
        assert int((folder / "stdout").read_text()) == min(os.nice(0) + 7, 19)

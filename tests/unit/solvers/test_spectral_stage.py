import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from penstock.clusters.local import Local
from penstock.core import plugins, spec
from penstock.core.batch import tensor_column, to_numpy
from penstock.core.ledger import identity_of
from penstock.errors import DatasetError, SchemaError, SpecError, UnitError
from penstock.solvers.neighbours import Neighbours
from penstock.solvers.reference import REFERENCE
from penstock.solvers.spectral import Spectral


def solve(stage, reference):
    with stage.open() as transform:
        return transform(reference)


@pytest.mark.parametrize("form", ["hdf5", "parquet"])
def test_the_stage_gives_a_line_for_each_row_and_leaves_no_files(blobs, published, graph_of, here, tmp_path, form):
    reference = published(graph_of(*Neighbours(k=8).nearest(blobs(200, sigma=0.4))), form=form)
    stage = Spectral(max_clusters=5, cluster=here)
    table = solve(stage, reference)
    assert table.schema == stage.schema(REFERENCE)
    assert table["row"].to_pylist() == list(range(200))
    np.testing.assert_array_equal(to_numpy(table["cluster"]), np.arange(200) % 4)
    np.testing.assert_array_equal(to_numpy(table["clusters"])[:, 2], np.arange(200) % 4)
    values = to_numpy(table["eigenvalues"])
    assert (values == values[0]).all()
    assert (np.diff(values[0]) >= -1e-7).all()
    assert to_numpy(table["coordinates"]).shape == (200, 5)
    assert list((tmp_path / "work").iterdir()) == []


def test_without_a_folder_it_works_in_a_private_temporary_one(published, graph_of, here, tmp_path, monkeypatch):
    here = dataclasses.replace(here, folder="")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    ring = (np.arange(40)[:, None] + [-1, 1]) % 40
    solve(Spectral(max_clusters=3, cluster=here), published(graph_of(ring)))
    (folder,) = (tmp_path / "tmp").iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert list((folder / "jobs").iterdir()) == []


def test_a_missing_part_is_not_taken_for_data(published, graph_of, here, tmp_path):
    reference = published(graph_of((np.arange(90)[:, None] + [-1, 1]) % 90))
    parts = sorted((tmp_path / "dataset" / "parts").iterdir())
    parts[1].rename(tmp_path / "lost.h5")
    with pytest.raises(DatasetError, match="the manifest names this file, but it cannot be read"):
        solve(Spectral(max_clusters=3, cluster=here), reference)


def test_a_dataset_that_is_no_graph_is_refused(published, here):
    reference = published(pa.table({"row": np.arange(9), "embedding": tensor_column(np.zeros((9, 2), np.float32))}))
    with pytest.raises(SchemaError, match=r"lacks neighbour, similarity; it has row, embedding. Spectral reads what"):
        solve(Spectral(cluster=here), reference)


def test_too_few_rows_are_refused(published, graph_of, here):
    reference = published(graph_of((np.arange(12)[:, None] + [-1, 1]) % 12))
    with pytest.raises(UnitError, match="12 rows cannot be parted into up to 12 clusters; lower max_clusters"):
        solve(Spectral(cluster=here), reference)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"max_clusters": 1}, "max_clusters must be 2 or more, not 1"),
        ({"clusters": 1}, r"clusters must be 0 or from 2 to max_clusters \(12\), not 1"),
        ({"clusters": 13}, "not 13"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        Spectral(**options)


def test_where_it_runs_does_not_change_what_it_is():
    def plain(stage):
        return identity_of("stages", stage)["plain"]

    assert plain(Spectral(cluster=Local(tasks=3, mpiexec="/x", folder="/y", time_minutes=9))) == plain(Spectral())
    assert plain(Spectral(seed=1)) != plain(Spectral())


FILE = """
source = {{ use = "fasta", uri = "x" }}
sink = {{ use = "parquet", uri = "y" }}
[[step]]
use = "spectral"
cluster = {}
"""


def test_the_cluster_is_written_to_files_and_read_again():
    read = spec.loads(FILE.format('{ use = "local", tasks = 3, mpiexec = "/opt/mpiexec" }'))
    assert read.pipelines[0].steps[0].stage == Spectral(cluster=Local(tasks=3, mpiexec="/opt/mpiexec"))
    assert spec.loads(spec.dumps(read)) == read
    assert spec.loads(spec.dumps(read, "yaml"), "yaml") == read


@pytest.mark.parametrize(
    ("cluster", "text"),
    [
        ('{ use = "lokal" }', "there is no cluster called 'lokal'; did you mean 'local'?"),
        ('{ use = "local", mpiexek = "x" }', "'mpiexek' is not known here; known are: cpus_per_task, folder, mpiexec"),
        ('{ mpiexec = "x" }', "'use' is missing; it names the cluster"),
        ('"local"', "a cluster was needed, as { use = "),
    ],
)
def test_a_misspelt_cluster_is_told_of_with_its_line(cluster, text):
    with pytest.raises(SpecError) as caught:
        spec.loads(FILE.format(cluster), name="file.toml")
    assert text in str(caught.value)
    assert str(caught.value).startswith("file.toml:6: step.0.cluster")


def test_the_schema_for_editors_knows_the_clusters():
    schema = plugins.adapter(Spectral).json_schema()["properties"]["cluster"]
    assert "local" in schema["properties"]["use"]["enum"]
    assert schema["required"] == ["use"]


def test_the_program_is_found_where_the_package_is():
    import penstock.solvers.programs.spectral as program

    assert Path(program.__file__).name == "spectral.py"

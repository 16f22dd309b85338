from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import adjusted_rand_score

from penstock.clusters.local import Local
from penstock.core import spec
from penstock.core.batch import tensor_column, to_numpy
from penstock.core.ledger import identity_of
from penstock.errors import SchemaError, UnitError
from penstock.solvers.graph import Graph
from penstock.solvers.neighbours import Neighbours
from penstock.solvers.reference import REFERENCE


def solve(stage, reference):
    with stage.open() as transform:
        return transform(reference)


@pytest.fixture
def doubled(blobs, published, graph_of):
    """Points of which the last 20 are almost the first 20."""
    points = blobs(180, sigma=0.5)
    points = np.concatenate([points, points[:20] + 1e-4])
    return published(graph_of(*Neighbours(k=8).nearest(points)))


@pytest.mark.parametrize("keep", ["component", "greedy"])
def test_near_duplicates_give_way_to_the_first_of_them(doubled, here, keep):
    stage = Graph(keep=keep, duplicate_similarity=0.9999, cluster=here)
    table = solve(stage, doubled)
    assert table.schema == stage.schema(REFERENCE)
    assert table["row"].to_pylist() == list(range(200))
    assert table["kept"].to_pylist() == [True] * 180 + [False] * 20
    assert table["duplicate_of"].to_pylist() == [*range(180), *range(20)]


def test_ranks_components_and_communities_are_there_for_each_row(doubled, here, tmp_path):
    table = solve(Graph(cluster=here), doubled)
    assert to_numpy(table["pagerank"]).sum() == pytest.approx(1)
    assert table["component"][0].as_py() == 0
    communities = to_numpy(table["community"])[:180]
    assert len(set(communities.tolist())) < 12
    assert adjusted_rand_score(np.arange(180) % 4, communities) > 0.7
    assert list((tmp_path / "work").iterdir()) == []


def test_a_dataset_that_is_no_graph_is_refused(published, here):
    reference = published(pa.table({"row": np.arange(9), "embedding": tensor_column(np.zeros((9, 2), np.float32))}))
    with pytest.raises(SchemaError, match=r"graph reads what the neighbours stage gives, so .* needs a column 'neighb"):
        solve(Graph(cluster=here), reference)


def test_it_takes_no_rows_of_text():
    with pytest.raises(SchemaError, match="graph needs all rows at once"):
        Graph().schema(pa.schema([("text", pa.string())]))


def test_a_result_that_cannot_be_read_is_made_anew(doubled, here, monkeypatch):
    monkeypatch.setattr("penstock.solvers.programs.graph.write_arrays", lambda path, arrays: Path(path).touch())
    with pytest.raises(UnitError, match=r"the job ended well and its result cannot be read .*run again"):
        solve(Graph(cluster=here), doubled)
    monkeypatch.undo()
    assert solve(Graph(cluster=here), doubled).num_rows == 200


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"damping": 1.0}, "damping must be from 0 to below 1, not 1.0"),
        ({"least_similarity": -0.1}, "similarities go from 0 to 1; least_similarity is -0.1"),
        ({"duplicate_similarity": 0}, "duplicate_similarity 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        Graph(**options)


def test_where_it_runs_does_not_change_what_it_is():
    def plain(stage):
        return identity_of("stages", stage)["plain"]

    assert plain(Graph(cluster=Local(tasks=3))) == plain(Graph())
    assert plain(Graph(keep="greedy")) != plain(Graph())


def test_it_is_written_to_files_and_read_again():
    text = """
        source = { use = "dataset", uri = "graph", whole = true }
        sink = { use = "parquet", uri = "y" }
        [[step]]
        use = "graph"
        keep = "greedy"
        cluster = { use = "local", tasks = 3 }
    """
    read = spec.loads(text)
    assert read.pipelines[0].steps[0].stage == Graph(keep="greedy", cluster=Local(tasks=3))
    assert spec.loads(spec.dumps(read)) == read

"""What is read from a dataset: runs, lineage, quarantine."""

import shutil

import pyarrow.parquet as pq
import pytest

from penstock.core.dataset import existing
from penstock.errors import DatasetError
from penstock.report import story


def test_a_run_tells_what_each_step_did(world):
    (run,) = story.runs(world.embeddings)
    read, vectors, write = story.steps(run)
    assert [read.step, vectors.step, write.step] == ["read", "1-vectors", "write"]
    assert (read.units, read.rows_in, read.rows_out, read.rows_bad) == (4, 100, 96, 4)
    assert (vectors.rows_in, vectors.rows_out, vectors.rows_bad) == (96, 96, 0)
    assert (run.carried_rows, run.workers) == (96, 1)
    assert run.rows_per_second == pytest.approx(96 / run.facts["seconds"])
    assert run.peak_bytes > 1 << 20


def test_shares_and_queues_follow_from_the_traces(world):
    (run,) = story.runs(world.embeddings)
    lines = run.traces.to_pylist()
    for step in story.steps(run):
        own = [line for line in lines if line["step"] == step.step]
        assert step.busy_share == pytest.approx(sum(line["seconds"] for line in own) / run.facts["seconds"])
        assert step.queue == pytest.approx(sum(line["waited_seconds"] for line in own) / run.facts["seconds"])


def test_a_run_that_had_nothing_to_do_is_listed_and_not_told(world, tmp_path):
    copied = shutil.copytree(world.embeddings, tmp_path / "copy")
    world.again()
    newest, first = story.runs(world.embeddings)
    assert (newest.facts["skipped"], newest.traces.num_rows, newest.rows_per_second) == (4, 0, None)
    assert story.steps(newest) == []
    assert story.telling([newest, first]) is first
    assert story.telling([newest]) is newest
    shutil.rmtree(world.embeddings)
    shutil.copytree(copied, world.embeddings)


def test_traces_of_an_earlier_run_that_was_killed_are_not_counted_again(world, tmp_path):
    root = shutil.copytree(world.embeddings, tmp_path / "copy")
    (name,) = (root / "runs").glob("*.parquet")
    table = pq.read_table(name)
    half = table.set_column(8, "finished", [[0.0] * 6 + table["finished"].to_pylist()[6:]])
    pq.write_table(half, name)
    (run,) = story.runs(str(root))
    assert run.carried_rows == 48


def test_a_dataset_without_runs_has_none(tmp_path):
    assert story.runs(str(tmp_path)) == []
    assert story.telling([]) is None


def test_the_lineage_goes_back_to_the_files(world):
    near, far = story.lineage(world.clusters)
    assert (near.uri, near.depth, near.files) == (world.clusters, 0, 0)
    assert (far.uri, far.depth, far.files, len(far.first_files)) == (world.embeddings, 1, 4, 3)
    assert far.first_files[0].endswith("raw/0.fasta")
    assert far.manifest.provenance["identity"] == {"1-vectors": {"weights": "abc123" * 10}}
    assert far.manifest.provenance["licences"] == [{"what": "toy weights", "name": "CC-BY-4.0", "commercial": True}]


def test_a_lineage_goes_on_where_an_ancestor_is_gone(world, tmp_path):
    hidden = tmp_path / "hidden"
    shutil.move(world.embeddings, hidden)
    try:
        found = story.lineage(world.clusters)
    finally:
        shutil.move(hidden, world.embeddings)
    assert [ancestor.manifest is None for ancestor in found] == [False, True]


def linked(monkeypatch, **reads):
    """Datasets that exist by name alone, each made from others."""
    monkeypatch.setattr(story, "existing", lambda uri: None)
    monkeypatch.setattr(story, "_ancestor", lambda uri: story.Ancestor(uri, 0, None, tuple(reads[uri])))


def test_a_dataset_stands_after_all_that_was_made_from_it(monkeypatch):
    linked(monkeypatch, clusters=["embeddings", "graph"], graph=["arrays"], arrays=["embeddings"], embeddings=[])
    found = [(ancestor.uri, ancestor.depth) for ancestor in story.lineage("clusters/")]
    assert found == [("clusters", 0), ("graph", 1), ("arrays", 2), ("embeddings", 3)]


def test_datasets_that_were_made_from_each_other_in_turn_do_not_hang(monkeypatch):
    linked(monkeypatch, a=["b"], b=["a", "c"], c=[])
    assert [ancestor.uri for ancestor in story.lineage("a")] == ["a", "b", "c"]


def test_joined_datasets_are_ancestors_once(world):
    made = existing(world.clusters)
    made.provenance["pipeline"]["step"].append({"use": "join", "dataset": world.embeddings + "/"})
    made.provenance["pipeline"]["step"].append({"use": "join", "dataset": "/else"})
    assert list(story._parents(made)) == [world.embeddings, world.embeddings, "/else"]
    assert story.lineage(world.clusters)[0].reads == (world.embeddings,)


def test_nothing_there_has_no_lineage(tmp_path):
    with pytest.raises(DatasetError, match="there is no manifest, so no finished dataset"):
        story.lineage(str(tmp_path / "none"))


def test_quarantined_rows_come_with_error_origin_and_content(world):
    rows = story.quarantine(existing(world.embeddings))
    assert len(rows) == 4
    assert rows[0].step == "read"
    assert rows[0].error.startswith("bad letters")
    assert rows[0].uri.endswith("raw/0.fasta")
    assert rows[0].preview == "id: <script>alert(1)</script>0.fasta:24, family: lysozyme"


def test_no_more_quarantined_rows_are_read_than_are_shown(world):
    assert len(story.quarantine(existing(world.embeddings), most=3)) == 3


def test_previews_are_short():
    assert story._preview({"sequence": "M" * 500}).endswith("M…")
    assert len(story._preview({"sequence": "M" * 500})) == 160
    assert story._preview({"vector": [0.0] * 99, "_error": "x"}) == "vector: 99 values"

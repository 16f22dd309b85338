"""What is read of datasets: which there are, how they stand, what is sampled, and where the limits are."""

import json
import re
import shutil
import time
import tomllib

import boto3
import numpy as np
import pyarrow as pa
import pytest
import tomli_w

from penstock.core import spec, storage
from penstock.core.batch import tensor_column
from penstock.dashboard import activity, charts, finding, quarantine, rows
from penstock.dashboard.activity import Activity, looked
from penstock.dashboard.finding import datasets
from penstock.dashboard.kept import Kept
from penstock.dashboard.model import Model
from penstock.dashboard.standing import State, standing
from penstock.errors import StorageError
from penstock.runners.inline import Inline


def model(root):
    return Model(str(root), least_seconds=0.0)


# --- which datasets there are ----------------------------------------------------------------------------


def test_datasets_are_folders_with_manifests_or_a_ledger(tmp_path):
    for name in (
        "a/manifests",
        "b/deep/ledger",
        "b/deep/parts/x/manifests",
        "arrays/ledger",
        "parts/y/ledger",
        "c/runs",
    ):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / ".hidden" / "ledger").mkdir(parents=True)
    assert datasets(str(tmp_path)).names == ("a", "arrays", "b/deep", "parts/y")


def test_the_root_may_be_a_dataset_itself(made):
    assert datasets(str(made / "out" / "profiles")).names == ("",)
    assert model(made / "out" / "profiles").card("").title == "profiles"


def test_links_are_not_followed(tmp_path, made):
    (tmp_path / "out").symlink_to(made / "out")
    assert datasets(str(tmp_path)).names == ()


def test_the_limits_of_looking_are_told(tmp_path, monkeypatch):
    for at in range(5):
        (tmp_path / str(at) / "ledger").mkdir(parents=True)
    monkeypatch.setattr(finding, "_MOST_DATASETS", 3)
    assert datasets(str(tmp_path)).limit == "Only the first 3 datasets are shown; serve a folder further down."
    monkeypatch.setattr(finding, "_MOST_DATASETS", 9)
    monkeypatch.setattr(finding, "_MOST_FOLDERS", 4)
    found = datasets(str(tmp_path))
    assert found.limit == "Only the first 4 folders below this root were looked at; serve a folder further down."
    assert found.names == ("0", "1", "2")


def test_a_root_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(StorageError, match="there is no such folder; give the folder below which runs write"):
        datasets(str(tmp_path / "nowhere"))


def test_objects_say_by_their_names_where_datasets_are():
    keys = ["a/b/manifests/00000001.json", "a/b/parts/x.parquet", "c/ledger/f/u.json", "d/parts/x", "ledger/f/u.json"]
    assert [[*finding._marked(key)] for key in keys] == [["a/b"], [], ["c"], [], [""]]


# --- how they stand --------------------------------------------------------------------------------------


def test_a_finished_dataset(made):
    card = model(made).card("out/profiles")
    assert card.standing.state is State.FINISHED
    assert card.standing.why.startswith("committed ")
    assert (card.manifest.rows, card.bad_rows, card.activity.units) == (54, 6, 0)
    assert card.size.units == card.run.facts["units"] > 3
    parts = [*(made / "out" / "profiles" / "parts").iterdir()]
    assert (card.size.files, card.size.size_bytes) == (len(parts), sum(part.stat().st_size for part in parts))
    assert [box.name for box in card.boxes] == ["jsonl", "clean", "Profile", "parquet"]
    assert [box.units for box in card.boxes] == [f"{card.size.units} units"] * 4


def test_a_run_that_goes_on(ledger, tmp_path):
    ledger.add(3)
    card = model(tmp_path).card("out/live")
    assert card.standing.state is State.RUNNING
    assert re.fullmatch(r"last unit \d+ s ago", card.standing.why)
    assert (card.activity.units, card.activity.rows, card.bad_rows) == (3, 30, 3)
    assert [box.name for box in card.boxes] == ["read", "encode", "write"]
    assert card.boxes[1].busy == "1.5 s busy"
    assert card.boxes[1].wait == "250 ms mean wait"


def plan(root, units, fingerprint):
    (root / "planned.json").write_text(json.dumps({"fingerprint": fingerprint, "units": units, "started": 0.0}))


def test_a_run_that_said_how_many_units_there_are(ledger, tmp_path):
    ledger.add(30)
    assert model(tmp_path).card("out/live").planned is None
    plan(ledger.root, 120, ledger.fingerprint + "0" * 32)
    card = model(tmp_path).card("out/live")
    assert (card.planned, card.done) == (120, 30)
    assert card.left_seconds == pytest.approx(90 / card.activity.rate(card.looked))
    plan(ledger.root, 20, ledger.fingerprint)
    assert model(tmp_path).card("out/live").done == 20, "records of units that are no more"


@pytest.mark.parametrize(
    "told",
    [
        '{"units": 3}',
        '{"fingerprint": "ffff", "units": "x"}',
        '{"fingerprint": "ffff", "units": Infinity}',
        "[1]",
        "{",
        "",
    ],
)
def test_a_plan_of_others_or_that_cannot_be_understood_is_none(ledger, tmp_path, told):
    ledger.add(2)
    (ledger.root / "planned.json").write_text(told)
    card = model(tmp_path).card("out/live")
    assert (card.planned, card.left_seconds) == (None, None)


def test_units_that_were_committed_before_count_as_done(commit, ledger_at, tmp_path):
    root = commit("out/d")
    made = model(tmp_path).card("out/d")
    own = made.manifest.fingerprint
    assert json.loads((root / "planned.json").read_text())["units"] == made.size.units
    time.sleep(0.01)
    ledger_at(root, own[:32]).add(2)
    plan(root, made.size.units + 8, own)
    card = model(tmp_path).card("out/d")
    assert (card.done, card.planned) == (made.size.units + 2, made.size.units + 8)


def test_a_run_that_was_broken_off(ledger, tmp_path):
    ledger.add(3, ago_seconds=7200)
    card = model(tmp_path).card("out/live")
    assert card.standing.state is State.UNCOMMITTED
    assert card.standing.why == (
        "last unit 2 h 00 min ago; 3 finished units wait for a commit, the same command goes on from there"
    )
    assert "looks the same" in card.standing.doubt


def test_a_later_run_that_was_broken_off(commit, ledger_at, tmp_path):
    root = commit("out/profiles")
    ledger_at(root).add(2)
    assert model(tmp_path).card("out/profiles").standing.state is State.RUNNING
    shutil.rmtree(root / "ledger")
    (facts,) = (root / "runs").glob("*.json")
    facts.write_text(json.dumps({**json.loads(facts.read_text()), "started": time.time() - 9000}))
    ledger_at(root).add(2, ago_seconds=4000)
    card = model(tmp_path).card("out/profiles")
    assert card.standing.state is State.INTERRUPTED
    assert card.manifest.rows == 18


def test_records_older_than_the_commit_are_left_overs(commit, ledger_at, tmp_path):
    root = commit("out/profiles")
    ledger_at(root).add(2, ago_seconds=4000)
    card = model(tmp_path).card("out/profiles")
    assert card.standing.state is State.FINISHED
    assert card.standing.why.endswith("2 older records left in the ledger")


def test_a_slow_run_is_given_the_time_that_its_units_take(ledger, tmp_path):
    ledger.add(5, ago_seconds=500, gap_seconds=120)
    card = model(tmp_path).card("out/live")
    assert card.activity.patience_seconds == pytest.approx(1200, rel=0.01)
    assert card.standing.state is State.RUNNING


def test_records_that_the_manifest_holds_do_not_wait(commit, ledger_at, tmp_path):
    """A run that was ended between its commit and its sweep."""
    root = commit("out/profiles")
    manifest = model(tmp_path).card("out/profiles").manifest
    unit = manifest.parts()["unit"][0].as_py()
    ledger = ledger_at(root, manifest.fingerprint[:32])
    ledger.add(1)
    (path,) = (root / "ledger" / ledger.fingerprint).iterdir()
    path.rename(path.with_name(f"{unit}.json"))
    card = model(tmp_path).card("out/profiles")
    assert (card.standing.state, card.waiting, card.bad_rows) == (State.FINISHED, False, 2)


def test_the_first_rows_of_a_run_that_has_not_committed_are_shown(commit, ledger_at, tmp_path):
    root = commit("out/profiles")
    part = next((root / "parts").iterdir()).rename(root / "parts" / "0.parquet")
    shutil.rmtree(root / "manifests")
    ledger_at(root).add(1)
    reader = model(tmp_path)
    card = reader.card("out/profiles")
    assert (card.standing.state, part.exists()) == (State.RUNNING, True)
    assert reader.depth(card).sample.found.lines[0] == ("<b>r0</b>", "AAAAA", "float32[4], norm 5: 5, 0, 0, 0")


@pytest.mark.parametrize(
    "told",
    [[], {"pipeline": 5}, {"pipeline": {"source": [], "step": [1, {"use": None, "cluster": "x"}], "sink": "y"}},
     {"licences": {"a": 1}, "identity": [1], "versions": "no"}, {"licences": [None], "identity": {"a": 1}}],
)  # fmt: skip
def test_a_manifest_in_which_anything_stands_is_shown(commit, tmp_path, client, told):
    root = commit("out/profiles")
    (path,) = (root / "manifests").glob("*.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "provenance": told}))
    (facts,) = (root / "runs").glob("*.json")
    facts.write_text(json.dumps({**json.loads(facts.read_text()), "started": "yesterday"}))
    visit = client(tmp_path)
    assert [visit.get(page).status_code for page in ("/", "/dataset/out/profiles", "/jobs", "/live")] == [200] * 4


def test_an_empty_ledger_says_that_nothing_is_known():
    stands = standing(None, None, Activity(), 0.0)
    assert (stands.state, stands.why) == (State.UNCOMMITTED, "no unit is finished yet")


def test_damage_in_one_dataset_leaves_the_others(commit, tmp_path):
    commit("out/good")
    bad = commit("out/bad")
    next((bad / "manifests").glob("*.json")).write_text("{")
    cards = {card.name: card for card in model(tmp_path).overview().cards}
    assert "its manifest cannot be understood" in cards["out/bad"].trouble
    assert cards["out/good"].standing.state is State.FINISHED


# --- the ledger ------------------------------------------------------------------------------------------


def test_what_was_read_is_not_read_again(ledger, monkeypatch):
    ledger.add(4)
    before = looked(str(ledger.root))
    read: list[str] = []
    one = activity._record
    monkeypatch.setattr(activity, "_record", lambda name: read.append(name) or one(name))
    ledger.add(1)
    after = looked(str(ledger.root), before)
    assert (before.units, after.units, len(read)) == (4, 5, 1)
    assert looked(str(ledger.root), after).records.keys() == after.records.keys()


def test_of_many_records_the_newest_are_read_and_sums_are_estimates(ledger, monkeypatch):
    ledger.add(40)
    monkeypatch.setattr(activity, "_READ_AT_ONCE", 10)
    found = looked(str(ledger.root))
    newest = sorted(record.finished for record in found.records.values())
    assert len(newest) == 10
    assert time.time() - newest[0] < 30
    assert (found.units, found.rows, found.exact, found.estimated) == (40, 400, False, False)


def test_of_very_many_names_the_hashes_say_how_many_there_are(ledger, monkeypatch):
    ledger.add(400)
    monkeypatch.setattr(activity, "MOST_NAMES", 200)
    found = looked(str(ledger.root))
    assert found.estimated
    assert found.units == pytest.approx(400, rel=0.25)
    assert len(found.times) == 200


def test_the_rate_is_that_of_the_last_minute(ledger):
    ledger.add(200, gap_seconds=0.5)
    assert looked(str(ledger.root)).rate(time.time()) == pytest.approx(2.0, rel=0.2)


def test_a_record_that_cannot_be_understood_is_counted_and_not_read(ledger):
    ledger.add(2)
    (ledger.root / "ledger" / ledger.fingerprint / f"{'e' * 64}.json").write_text("{}")
    found = looked(str(ledger.root))
    assert (found.units, len(found.records)) == (3, 2)


def test_nothing_is_written(made, ledger, tmp_path):
    ledger.add(2)
    everything = {path: path.stat().st_mtime_ns for top in (made, tmp_path) for path in top.rglob("*")}
    for root in (made, tmp_path):
        reader = model(root)
        for card in reader.overview().cards:
            reader.depth(card)
            reader.quarantine(card, 1, "")
    assert {path: path.stat().st_mtime_ns for top in (made, tmp_path) for path in top.rglob("*")} == everything


# --- rows, plots -----------------------------------------------------------------------------------------


def test_cells_are_short_and_tell_shape_and_norm(made):
    depth = model(made).depth(model(made).card("out/profiles"))
    assert [(column.name, column.kind) for column in depth.columns] == [
        ("name", "string"),
        ("sequence", "string"),
        ("profile", "float32[4]"),
    ]
    assert len(depth.sample.found.lines) == 20
    assert depth.sample.found.lines[0] == ("<b>r0</b>", "AAAAA", "float32[4], norm 5: 5, 0, 0, 0")
    long = pa.array(["x" * 500, None], pa.string())
    assert [len(rows.cell(value)) for value in long] == [120, 4]
    matrix = tensor_column(np.arange(12, dtype=np.float64).reshape(1, 3, 4))
    assert rows.cell(matrix[0]) == "float64[3 x 4], norm 22.49: 0, 1, 2, 3 …"
    assert rows.cell(pa.array([list(range(9))])[0]) == "9 values: 0, 1, 2, 3 …"
    assert rows.cell(pa.array([b"1234"])[0]) == "4 bytes"


def test_norms_are_those_of_the_rows(made):
    manifest = model(made).card("out/profiles").manifest
    found = rows.norms(manifest)
    assert found.column == "profile"
    assert len(found.values) == 54
    assert sorted({round(float(value), 3) for value in found.values}) == [5.0, 7.071, 8.66, 10.0]


def test_norms_of_a_large_dataset_are_taken_in_four_places(made, monkeypatch):
    monkeypatch.setattr(rows, "_NORM_ROWS", 3)
    assert len(rows.norms(model(made).card("out/profiles").manifest).values) == 12


def test_plots_of_a_dataset_are_its_pace_and_its_norms(made):
    reader = model(made)
    found = reader.depth(reader.card("out/profiles")).plots
    assert [chart.key for chart in found.found] == ["course", "norms"], found.trouble


def test_a_chart_covers_its_numbers():
    chart = charts.bars("k", "t", "c", np.array([1.0, 2.0, 2.0, 3.0]))
    assert [tick.text for tick in chart.up] == ["0", "0.5", "1", "1.5", "2"]
    assert [tick.text for tick in chart.across] == ["1", "1.5", "2", "2.5", "3"]
    assert chart.path.count("L") == 2 * 8 + 1
    same = charts.bars("k", "t", "c", np.full(5, 2.0))
    assert [tick.text for tick in same.across] == ["1.6", "1.8", "2", "2.2", "2.4"]


def test_a_run_that_found_all_done_does_not_hide_the_one_that_worked(commit, tmp_path):
    commit("out/profiles")
    commit("out/profiles")
    card = model(tmp_path).card("out/profiles")
    assert (card.run.facts["skipped"], card.worked.facts["skipped"]) == (card.size.units, 0)
    assert card.boxes[0].units == f"{card.size.units} units"


def test_versions_and_runs_are_listed(commit, tmp_path):
    commit("out/profiles")
    commit("out/profiles", rows=40)
    reader = model(tmp_path)
    depth = reader.depth(reader.card("out/profiles"))
    assert [(one.number, one.rows, one.bad_rows) for one in depth.versions.found] == [(2, 36, 4), (1, 18, 2)]
    assert [run.facts["manifest"] for run in depth.runs] == [2, 1]


# --- quarantine ------------------------------------------------------------------------------------------


def test_bad_rows_are_paged_filtered_and_counted_by_error(made, evil, monkeypatch):
    reader = model(made)
    card = reader.card("out/profiles")
    found = reader.quarantine(card, 1, "")
    assert (found.found, found.pages, found.others, found.limit) == (6, 1, 0, "")
    assert found.errors == [("sequence has '<' at position 1, which is no letter of 'protein'", 6)]
    assert {row.preview for row in found.rows} == {f"name: <b>r{at}</b>, sequence: {evil}" for at in range(3, 60, 10)}
    assert {row.step for row in found.rows} == {"1-clean"}
    monkeypatch.setattr(quarantine, "PAGE_ROWS", 4)
    pages = [reader.quarantine(card, number, "") for number in (1, 2, 99)]
    assert [(page.number, len(page.rows)) for page in pages] == [(1, 4), (2, 2), (2, 2)]
    assert reader.quarantine(card, 1, "POSITION 1,").found == 6
    assert reader.quarantine(card, 1, "no such error").found == 0


def test_the_file_that_feeds_rows_back_is_a_pipeline_that_begins_at_their_step(commit, tmp_path):
    root = commit("out/profiles")
    reader = model(tmp_path)
    (feeding,) = reader.quarantine(reader.card("out/profiles"), 1, "").feedings
    told = tomllib.loads(feeding.text)["pipeline"]["mended"]
    assert feeding.step == "1-clean"
    assert told["source"] == {"use": "parquet", "uri": f"{root}/quarantine/1-clean", "columns": ["name", "sequence"]}
    assert (told["step"][0]["use"], len(told["step"])) == ("clean", 2)
    kept = {"source": told["source"], "sink": told["sink"], "step": [{**told["step"][0], "alphabet": "text"}]}
    pipeline = spec.loads(tomli_w.dumps({"pipeline": {"mended": kept}}), name="mended.toml").pipelines[0]
    done = Inline().run(pipeline)
    assert (done.rows, done.bad_rows, done.manifest.uri) == (2, 0, f"{root}-mended")


def test_without_a_version_the_source_alone_is_told(commit, ledger_at, tmp_path):
    root = commit("out/profiles")
    manifest = model(tmp_path).card("out/profiles").manifest
    shutil.rmtree(root / "manifests")
    ledger_at(root, manifest.fingerprint[:32]).add(1)
    reader = model(tmp_path)
    (feeding,) = reader.quarantine(reader.card("out/profiles"), 1, "").feedings
    assert tomllib.loads(feeding.text).keys() == {"source"}


def test_files_of_other_settings_and_damaged_ones_are_told(commit, tmp_path):
    root = commit("out/profiles")
    folder = root / "quarantine" / "1-clean"
    (folder / f"{'0' * 16}-{'1' * 32}.parquet").write_bytes(b"x")
    reader = model(tmp_path)
    card = reader.card("out/profiles")
    (folder / f"{card.fingerprint[:16]}-{'1' * 32}.parquet").write_bytes(b"no table")
    found = reader.quarantine(card, 1, "")
    assert (found.found, found.others, len(found.damaged)) == (2, 1, 1)


# --- S3 --------------------------------------------------------------------------------------------------


def test_a_bucket_is_read_as_a_folder_is(made, ledger, monkeypatch):
    from moto import mock_aws

    with mock_aws():
        objects = boto3.client("s3", "us-east-1", aws_access_key_id="x", aws_secret_access_key="y")
        monkeypatch.setattr(storage, "_client", lambda: objects)
        objects.create_bucket(Bucket="lake")
        ledger.add(3)
        root = ledger.root.parent.parent
        for top in (made, root):
            for path in (path for path in top.rglob("*") if path.is_file() and "out" in path.parts):
                objects.upload_file(str(path), "lake", f"deep/{path.relative_to(top)}")
        reader = model("s3://lake/deep")
        assert [card.name for card in reader.overview().cards] == ["out/live", "out/profiles"]
        live, card = reader.card("out/live"), reader.card("out/profiles")
        assert (live.standing.state, live.activity.units, live.activity.rows) == (State.RUNNING, 3, 30)
        assert (card.standing.state, card.manifest.rows) == (State.FINISHED, 54)
        assert len(reader.depth(card).sample.found.lines) == 20
        assert [chart.key for chart in reader.depth(card).plots.found] == ["course", "norms"]
        assert reader.quarantine(card, 1, "").found == 6
        ledger.add(1)
        (new,) = (p for p in (ledger.root / "ledger").rglob("*.json") if p.stem not in live.activity.times)
        objects.upload_file(str(new), "lake", f"deep/{new.relative_to(root)}")
        assert reader.card("out/live").activity.units == 4


# --- answers that are kept -------------------------------------------------------------------------------


def test_a_dear_answer_is_asked_for_seldom(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("penstock.dashboard.kept.time.monotonic", lambda: clock[0])

    def ask(before):
        clock[0] += 2.0
        return (before or 0) + 1

    kept = Kept(ask, lambda _: 1.5)
    assert kept.get() == 1
    clock[0] = 21.0
    assert kept.get() == 1
    clock[0] = 22.5
    assert kept.get() == 2

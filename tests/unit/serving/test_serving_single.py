"""One stage by itself: on pipes by the command line, and over HTTP as a step of a pipeline."""

import http.client
import io
import subprocess
import sys
import threading
from contextlib import contextmanager

import pyarrow as pa
import pytest

from penstock.core import wire
from penstock.core.nouns import Pipeline, Place, Step
from penstock.errors import PlanError, RowErrors, TooManyBadUnits, UnitError
from penstock.runners import service
from penstock.runners.inline import Inline
from penstock.serving.single import on_http
from penstock.sinks.parquet import Parquet
from penstock.stages.clean import Clean
from penstock.testing.parts import Numbers, Squares

ROWS = pa.table({"sequence": ["ACGT", "acgtx", "GG"]})


def stage(*words, given=b""):
    return subprocess.run([sys.executable, "-m", "penstock", "stage", *words], input=given, capture_output=True)


def test_arrow_in_and_arrow_out():
    done = stage("clean", "--config", '{"alphabet": "dna"}', given=wire.asked(ROWS) + wire.asked(ROWS.slice(0, 1)))
    assert done.returncode == 0, done.stderr
    assert pa.ipc.open_stream(done.stdout).read_all()["sequence"].to_pylist() == ["ACGT", "GG"]
    answers = io.BytesIO(done.stdout)
    with pytest.raises(RowErrors) as refused:
        wire.heard(answers)
    assert refused.value.bad["sequence"].to_pylist() == ["acgtx"]
    assert wire.heard(answers)["sequence"].to_pylist() == ["ACGT"]


def test_what_a_stage_prints_does_not_get_among_the_batches(tmp_path):
    (tmp_path / "loud.py").write_text(
        "import os\n\n\ndef shout(batch):\n    print('hello')\n    os.write(1, b'from below')\n    return batch\n"
    )
    config = '{"function": "loud:shout"}'
    done = subprocess.run(
        [sys.executable, "-m", "penstock", "stage", "function", "--config", config],
        input=wire.asked(ROWS),
        capture_output=True,
        cwd=tmp_path,
        env={"PYTHONPATH": f"{tmp_path}:" + ":".join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    assert wire.heard(io.BytesIO(done.stdout)).equals(ROWS)
    assert b"hello" in done.stderr
    assert b"from below" in done.stderr


@pytest.mark.parametrize(
    ("words", "status", "problem"),
    [
        (["clean", "--config", "{"], 2, "--config is no JSON"),
        (["clean", "--config", "[]"], 2, "--config must be a JSON object of the stage's fields"),
        (["clean", "--config", '{"alphabet": "klingon"}'], 2, "klingon"),
        (["clear"], 2, "did you mean 'clean'?"),
        (["clean"], 1, "no Arrow IPC stream could be read"),
    ],
)
def test_what_is_wrong_is_told(words, status, problem):
    done = stage(*words, given=b"this is no Arrow" * 10)
    assert done.returncode == status
    assert problem in " ".join(done.stderr.decode().split())
    assert done.stdout == b""


@contextmanager
def answering(step, most_bytes=1 << 20):
    with on_http(step, "127.0.0.1", 0, most_bytes) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_service_is_a_place(tmp_path):
    near = Inline().run(line(tmp_path / "near", Place()))
    with answering(Step(Squares(bad=(33,)))) as address:
        far = Inline().run(line(tmp_path / "far", Place("serve", address=address)))
    assert far.manifest.sha256 == near.manifest.sha256
    assert (far.rows, far.bad_rows) == (99, 1)


def line(folder, place):
    return Pipeline("line", Numbers(5), Parquet(str(folder)), (Step(Squares(bad=(33,)), place),))


def test_a_service_that_is_away_costs_units_and_no_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(service, "_PAUSE_SECONDS", 0.001)
    with pytest.raises(TooManyBadUnits, match=r"http://127\.0\.0\.1:9 cannot be reached .*is the service up"):
        Inline().run(line(tmp_path / "out", Place("serve", address="http://127.0.0.1:9")))
    assert not (tmp_path / "out" / "quarantine").exists()


def test_an_address_that_is_none_is_told(tmp_path):
    with pytest.raises(PlanError, match=r"place\.address is 'host:80'; http://HOST:PORT was needed"):
        Inline().run(line(tmp_path / "out", Place("serve", address="host:80")))


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("GET", "/healthz", None, {}, 200),
        ("GET", "/secret", None, {}, 404),
        ("POST", "/other", b"", {}, 404),
        ("POST", "/rows", b"", {}, 422),
        ("POST", "/rows", b"no arrow at all", {}, 422),
        ("POST", "/rows", b"x" * 2000, {}, 413),
        ("POST", "/rows", None, {"transfer-encoding": "chunked"}, 411),
    ],
)
def test_requests_that_make_no_sense_get_an_answer_and_the_service_stays(method, path, body, headers, status):
    with answering(Step(Clean()), most_bytes=1000) as address:
        for _ in range(2):
            connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=10)
            connection.putrequest(method, path)
            for name, value in {**({"content-length": str(len(body))} if body is not None else {}), **headers}.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            assert connection.getresponse().status == status
            connection.close()


def test_an_answer_that_is_no_batch_is_told(tmp_path):
    with answering(Step(Clean()), most_bytes=10) as address:
        step = Step(Squares(), Place("serve", address=address))
        with service.opened(step) as transform, pytest.raises(UnitError, match="answered 413: the request has"):
            transform(ROWS)

"""Hand-made roots: datasets that runs have left, finished, going on or broken off."""

import hashlib
import json
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from pydantic import TypeAdapter

from penstock.core.batch import adding, tensor_column, tensor_type, with_columns
from penstock.core.nouns import Part, Pipeline, Record, Step, Trace
from penstock.dashboard.model import Model
from penstock.dashboard.web import application
from penstock.runners.inline import Inline
from penstock.sinks.parquet import Parquet
from penstock.sources.text import Jsonl
from penstock.stages.clean import Clean

EVIL = "<script>alert(1)</script>"
FINGERPRINT = "f" * 32


@dataclass(frozen=True)
class Profile:
    """A stage that counts letters into a vector."""

    def schema(self, given):
        return adding(given, {"profile": tensor_type("float32", 4)})

    @contextmanager
    def open(self):
        yield self._transform

    @staticmethod
    def _transform(batch):
        rows = [[text.count(letter) for letter in "ACDE"] for text in batch["sequence"].to_pylist()]
        return with_columns(batch, {"profile": tensor_column(np.array(rows, np.float32).reshape(-1, 4))})


def _line(at: int) -> dict[str, str]:
    return {"name": f"<b>r{at}</b>", "sequence": EVIL if at % 10 == 3 else "ACDE"[: 1 + at % 4] * 5}


def committed(root: Path, name: str = "out/profiles", rows: int = 60) -> Path:
    """A dataset of a real run in this process: every tenth row is bad, and all names hold markup."""
    (root / "in").mkdir(parents=True, exist_ok=True)
    file = root / "in" / f"{rows}.jsonl"
    if not file.exists():  # one that is written again would be new work
        file.write_text("".join(json.dumps(_line(at)) + "\n" for at in range(rows)))
    source = Jsonl(str(file), {"name": "string", "sequence": "string"}, unit_bytes=400)
    steps = (Step(Clean(alphabet="protein")), Step(Profile()))
    Inline().run(Pipeline("profiles", source, Parquet(str(root / name)), steps))
    return root / name


def unit_of(at: int) -> str:
    """The key of a unit that is made up."""
    return hashlib.sha256(str(at).encode()).hexdigest()


def record(at: int, finished: float, rows: int = 10, bad_rows: int = 1) -> Record:
    """What the ledger holds of it."""
    traces = (
        Trace("read", 0.1, 0.0, rows, rows, 0, began=finished - 1),
        Trace("1-encode", 0.5, 0.25, rows, rows, bad_rows, began=finished - 0.6),
        Trace("write", 0.05, 0.01, rows, rows, 0, began=finished - 0.1),
    )
    return Record(unit_of(at), Part(f"parts/{at}.parquet", rows, "0" * 64, 100), (), bad_rows, traces, "h:1", finished)


@dataclass(frozen=True)
class Ledger:
    """A ledger that a test writes to as a run does."""

    root: Path
    fingerprint: str = FINGERPRINT

    def add(self, count: int, ago_seconds: float = 0.0, gap_seconds: float = 1.0) -> None:
        """So many units more, the last of them so long ago."""
        folder = self.root / "ledger" / self.fingerprint
        folder.mkdir(parents=True, exist_ok=True)
        before, now = len(list(folder.iterdir())), time.time()
        for at in range(count):
            made = record(before + at, now - ago_seconds - gap_seconds * (count - 1 - at))
            data = TypeAdapter(Record).dump_json(made)
            (folder / f"{made.unit}.json").write_bytes(data)


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A root with one dataset that is finished; tests only read it."""
    root = tmp_path_factory.mktemp("made")
    committed(root)
    return root


@pytest.fixture
def evil():
    """Markup that stands in the data."""
    return EVIL


@pytest.fixture
def commit(tmp_path):
    """Runs a pipeline to its end below the root of the test."""
    return lambda name, rows=20: committed(tmp_path, name, rows)


@pytest.fixture
def ledger(tmp_path):
    """The ledger of a run that has not committed."""
    return Ledger(tmp_path / "out" / "live")


@pytest.fixture
def ledger_at():
    """The same of a dataset that is there already."""
    return Ledger


def _client(root, **how):
    app = application(Model(str(root), least_seconds=0.0), **how)
    return TestClient(app, base_url="http://127.0.0.1:8000", follow_redirects=False)


@pytest.fixture
def client():
    """Visitors of the dashboard over a root, which looks anew each time."""
    return _client


@pytest.fixture
def visit(made):
    """A visitor of the finished dataset."""
    return _client(made)

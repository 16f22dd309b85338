import re

import numpy as np
import pytest
from typer.testing import CliRunner

from penstock.cli import app
from penstock.tables.client import open_table


def call(*words):
    return CliRunner().invoke(app, ["table", *(str(word) for word in words)])


def shown(done):
    assert done.exit_code == 0, done.output
    return re.sub(r" +", " ", done.stdout)


def test_plan_says_what_a_table_would_take():
    text = shown(call("plan", "--k", 15, "--nodes", 4, "--memory", "64GB"))
    assert "k-mers 536,870,912 of length 15, counted once for both strands" in text
    assert "rows 1,073,741,824 of 100 x float32, 400 bytes each" in text
    assert "size 429.5 GB" in text
    assert "107.4 GB on each of 4 with 64.0 GB: 59.6% of it in memory, the rest on disk" in text
    assert "52.2 KB for a bag of 128 ids when rows travel; 2.7 KB when pooled in the shards (19.7 times less)" in text


def test_make_and_info(tmp_path):
    words = (tmp_path / "table", "--rows", 5000, "--dim", 8, "--dtype", "int8", "--scheme", "hashed", "--seed", 3)
    assert f"{tmp_path / 'table'}: version 1, 5,000 rows" in shown(call("make", *words))
    text = shown(call("info", tmp_path / "table"))
    assert "scheme hashed (rows 5000, hashes 1, seed 0)" in text
    assert "rows 5,000 of 8 x int8, 12 bytes each" in text
    assert "seed 3" in text


def test_make_of_an_array(tmp_path):
    np.save(tmp_path / "rows.npy", np.eye(5))
    shown(call("make", tmp_path / "table", "--array", tmp_path / "rows.npy", "--dtype", "float16"))
    with open_table(str(tmp_path / "table")) as client:
        assert (client.lookup([2]) == [0, 0, 1, 0, 0]).all()


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (("plan",), 2, "the scheme 'exact' needs --rows, or --k for k-mers"),
        (("plan", "--rows", 5, "--memory", "much"), 2, "'much' is not a size; write it as 64MB or 16GiB"),
        (("plan", "--scheme", "bands", "--bits", 40, "--parts", 2), 2, "2 bands of 40 bits are 80; ids have 63 bits"),
        (("make", "out", "--array", "none.npy"), 2, "a .npy file of numbers was needed"),
        (("info", "none"), 1, "none: there is no manifest"),
    ],
)
def test_mistakes_are_told(words, status, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = call(*words)
    assert (done.exit_code, text in done.stderr) == (status, True), done.output

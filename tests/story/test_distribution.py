"""What is given away: the wheel and the sdist, and that the wheel alone, with the core dependencies, is of use."""

import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(1800)  # far less on two free cores
SHIPPED = ("src", "plugins", "docs", "examples", "CHANGELOG.md")
NEVER = re.compile(r"(^|/)(__pycache__|\.venv|\.git|\.cache|\.hypothesis|out|report\.html)(/|$)|\.pyc$")
NEEDS_MORE = {"penstock.testing": "its users have pytest, by the extra 'testing'; without it nothing there can be used"}
"""Modules that the core dependencies do not suffice for, and why."""

IMPORTS = """
import importlib, json, pkgutil
import penstock

failed, count = {}, 0
for module in pkgutil.walk_packages(penstock.__path__, "penstock.", onerror=lambda name: None):
    count += 1
    try:
        importlib.import_module(module.name)
    except BaseException as error:
        failed[module.name] = str(error)
from penstock.core import plugins

parts = sum(plugins.load(kind, name) is not None for kind in plugins.KINDS for name in plugins.named(kind))
print(json.dumps({"file": penstock.__file__, "count": count, "parts": parts, "failed": failed}))
"""

PIPELINE = """
[pipeline.named]
source = { use = "jsonl", uri = "papers.jsonl", columns = { id = "string", text = "string" }, unit_bytes = 40 }
sink = { use = "parquet", uri = "out/named" }

[[pipeline.named.step]]
use = "clean"
column = "text"
alphabet = "text"
case = "lower"
min_length = 3

[[pipeline.named.step]]
use = "extract"
column = "text"
pattern = 'gene (?P<gene>\\w+)'
missing = "keep"

[pipeline.measured]
source = { use = "csv", uri = "measured.csv", columns = { id = "string", mass = "float64" } }
sink = { use = "parquet", uri = "out/measured" }

[[pipeline.measured.step]]
use = "join"
dataset = "out/named"
on = "id"
columns = ["gene"]
"""

EXTRAS = {
    "hdf5": ('sink = { use = "hdf5", uri = "o" }', "hdf5 needs h5py"),
    "zarr": ('sink = { use = "zarr", uri = "o" }', "zarr needs zarr"),
    "s3": ('sink = { use = "parquet", uri = "s3://bucket/o" }', "s3:// needs boto3"),
    "ray": ('sink = { use = "parquet", uri = "o" }\nrunner = { use = "ray" }', "ray needs ray"),
    "solvers": ('sink = { use = "parquet", uri = "o" }\nstep = [{ use = "neighbours" }]', "neighbours needs faiss"),
    "genomes": ('sink = { use = "parquet", uri = "o" }\nstep = [{ use = "kmer", k = 3 }]', "kmer needs numba"),
    "video": ('sink = { use = "parquet", uri = "o" }\nstep = [{ use = "shots" }]', "shots needs av"),
}


def call(folder: Path, *words: str | Path, code: int = 0) -> str:
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(words, cwd=folder, env=plain, capture_output=True, text=True, timeout=900)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist, the wheel built from it, and the wheel built from the tree."""
    folder = tmp_path_factory.mktemp("built")
    build = (sys.executable, "-m", "build", "--no-isolation", "--outdir")
    call(folder, *build, folder / "both", ROOT)
    call(folder, *build, folder / "tree", "--wheel", ROOT)
    [wheel], [direct] = (folder / "both").glob("*.whl"), (folder / "tree").glob("*.whl")
    [sdist] = (folder / "both").glob("*.tar.gz")
    return SimpleNamespace(wheel=wheel, direct=direct, sdist=sdist)


@pytest.fixture(scope="module")
def bare(built, tmp_path_factory):
    """A new environment with the wheel and its core dependencies, pinned as for everybody else."""
    folder = tmp_path_factory.mktemp("bare")
    call(folder, sys.executable, "-m", "venv", "--without-pip", folder / "venv")
    pip = (sys.executable, "-m", "pip", "--python", folder / "venv/bin/python", "--disable-pip-version-check")
    call(folder, *pip, "install", "--quiet", "--constraint", ROOT / "requirements/constraints.txt", built.wheel)
    (folder / "work").mkdir()
    return SimpleNamespace(
        work=folder / "work", python=folder / "venv/bin/python", penstock=folder / "venv/bin/penstock"
    )


def hashes(wheel: Path) -> dict[str, str]:
    with zipfile.ZipFile(wheel) as file:
        return {name: hashlib.sha256(file.read(name)).hexdigest() for name in file.namelist()}


def test_the_wheel_holds_the_package_and_nothing_else(built):
    names = set(hashes(built.wheel))
    package = {name for name in names if not re.match(r"penstock-[^/]+\.dist-info/", name)}
    files = [path for path in (ROOT / "src" / "penstock").rglob("*") if path.is_file()]
    wanted = {path.relative_to(ROOT / "src").as_posix() for path in files if not NEVER.search(path.as_posix())}
    assert package == wanted
    for name in (
        "penstock/py.typed",
        "penstock/report/templates/page.html",
        "penstock/clusters/slurm/scripts/job.sh",
        "penstock/solvers/programs/readers/slab.c",
        "penstock/solvers/programs/readers/slab.f90",
        "penstock/infra/schemas/kuberay.json",
    ):
        assert name in package
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_sdist_holds_what_is_built_and_read_and_no_test(built):
    with tarfile.open(built.sdist) as file:
        names = {member.name.partition("/")[2] for member in file.getmembers() if member.isfile()}
    listing = call(ROOT, "git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", *SHIPPED)
    wanted = {name for name in listing.split("\0") if name and (ROOT / name).exists()}
    assert names == wanted | {"PKG-INFO", "pyproject.toml", "README.md", "LICENSE", ".gitignore"}
    assert not [name for name in names if NEVER.search(name) or name.startswith(("tests/", "benchmarks/"))]
    assert {"plugins/openfoam/exchange.C", "plugins/openfoam/LICENSE", "examples/own_package/pyproject.toml"} <= names
    assert [name for name in names if name.startswith("examples/flow/models/")], "the flow example brings its weights"


def test_the_sdist_builds_the_wheel_that_the_tree_builds(built):
    assert hashes(built.wheel) == hashes(built.direct)


def test_every_module_and_part_is_imported_from_the_bare_wheel(bare):
    told = json.loads(call(bare.work, bare.python, "-c", IMPORTS))
    assert Path(told["file"]).is_relative_to(bare.python.parents[1])
    assert told["failed"].keys() == NEEDS_MORE.keys()
    assert told["failed"]["penstock.testing"] == "the conformance suites need pytest: pip install 'penstock[testing]'"
    assert told["count"] > 250
    assert told["parts"] > 40


def test_the_bare_wheel_carries_pipelines_to_parquet(bare):
    (bare.work / "papers.jsonl").write_text(
        '{"id": "a", "text": " The Gene BRCA1 "}\n{"id": "b", "text": "no name"}\n{"id": "bad", "text": "x"}\n'
    )
    (bare.work / "measured.csv").write_text("id,mass\nb,2.5\na,1\n")
    (bare.work / "pipeline.toml").write_text(PIPELINE)
    call(bare.work, bare.penstock, "check", "pipeline.toml")
    said = call(bare.work, bare.penstock, "run", "pipeline.toml")
    assert "named: 2 rows, 3 units (0 were done before), 1 rows quarantined" in said
    call(bare.work, bare.penstock, "verify", "out/measured")
    [part] = (bare.work / "out/measured/parts").iterdir()
    assert pq.read_table(part).to_pylist() == [
        {"id": "b", "mass": 2.5, "gene": ""},
        {"id": "a", "mass": 1.0, "gene": "brca1"},
    ]


@pytest.mark.parametrize("extra", EXTRAS)
def test_what_needs_more_says_which_extra_brings_it(bare, extra):
    more, why = EXTRAS[extra]
    (bare.work / "in.csv").write_text("sequence\nACGT\n")
    source = 'source = { use = "csv", uri = "in.csv", columns = { sequence = "string" } }'
    (bare.work / "more.toml").write_text(f"{source}\n{more}\n")
    said = " ".join(call(bare.work, bare.penstock, "run", "more.toml", code=1).split())
    assert why in said
    assert f"pip install 'penstock[{extra}]'" in said
    assert "Traceback" not in said

import subprocess
import sys
from pathlib import Path

import pytest

import penstock
from penstock import errors

BARE = """
import importlib, pkgutil, sys

class Refuse:
    heavy = {"torch", "transformers", "tokenizers", "safetensors", "ray", "h5py", "zarr", "boto3", "botocore", "faiss",
             "mpi4py", "scipy", "sklearn", "plotly", "jinja2", "fastapi", "starlette", "uvicorn", "prometheus_client"}
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.heavy:
            raise ImportError(f"{name} is not in the bare wheel")

sys.meta_path.insert(0, Refuse())
import penstock
for module in pkgutil.walk_packages(penstock.__path__, "penstock."):
    if not module.name.startswith(("penstock.testing", "penstock.solvers.programs.")):
        importlib.import_module(module.name)
print("imported")
"""


def test_the_bare_wheel_imports_everything():
    done = subprocess.run([sys.executable, "-c", BARE], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "imported", done.stderr


def test_public_names_are_sorted_and_there():
    assert sorted(penstock.__all__) == penstock.__all__
    assert all(hasattr(penstock, name) for name in penstock.__all__)


def test_the_drawn_tree_of_errors_is_the_real_one():
    drawn = {
        line.strip("│├└─ ").split()[0] for line in errors.__doc__.splitlines() if "Error" in line or "TooMany" in line
    }
    assert set(errors.__all__) <= drawn
    assert all(issubclass(getattr(errors, name), errors.PenstockError) for name in errors.__all__)


@pytest.mark.parametrize("folder", ["src", "tests", "examples", "benchmarks", "docs", "scripts"])
def test_no_file_names_a_place_of_this_machine(folder):
    root = Path(penstock.__file__).parents[2]
    needle = "/" + "root" + "/"
    for path in (root / folder).rglob("*"):
        if path.is_file() and path.suffix in (".py", ".md", ".toml", ".sh", ".json", ".txt"):
            assert needle not in path.read_text(errors="replace"), path

"""What `make setup` installs is locked: by version in one file, by the bytes in the other."""

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "requirements"


def pins(name):
    """``{package: version}`` of a requirements file."""
    found = re.findall(r"^([\w.-]+)==([^ \n;]+)", (FOLDER / name).read_text(), re.MULTILINE)
    return {re.sub("[-_.]+", "-", package).lower(): version for package, version in found}


def test_every_pin_is_locked_by_its_hashes():
    """All but torch, whose builds for CPU and CUDA have hashes of their own. The lock may know of other systems."""
    wanted, locked = pins("constraints.txt"), pins("lock.txt")
    assert {name: version for name, version in wanted.items() if locked.get(name) != version} == {
        "torch": wanted["torch"]
    }, "run scripts/lock"


@pytest.mark.parametrize("name", ["lock.txt", "weights.txt", "infra-tools.txt", "images.txt", "audit.txt"])
def test_every_requirement_has_hashes(name):
    text = re.sub(r"\\\n", " ", (FOLDER / name).read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert len(lines) == len(pins(name)) > 0
    assert [line for line in lines if not re.search(r"--hash=sha256:[0-9a-f]{64}\b", line)] == []

"""What several tests on Ray need."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def importable():
    """Workers that are started meanwhile import what lies beside these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        yield

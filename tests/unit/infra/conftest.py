"""The example's deployment, and its rendered files."""

from pathlib import Path

import pytest
import yaml

from penstock.infra import deployment as infra

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def example():
    """What deploy.toml of the example says."""
    return infra.load(ROOT / "deploy" / "deploy.toml")


@pytest.fixture
def changed():
    """The example with a text in it replaced."""
    text = (ROOT / "deploy/deploy.toml").read_text()

    def change(old, new):
        assert old in text
        return infra.loads(text.replace(old, new, 1))

    return change


@pytest.fixture(scope="session")
def golden():
    """The data of a rendered file."""
    return lambda name: yaml.safe_load((ROOT / "deploy" / "rendered" / name).read_text())

"""Those who are asked, a table's actors and a service's replicas, while the nodes on which they are get lost."""

import json
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import serve_drive
import table_drive
from machines import machines, wait_until

from penstock.core import spec
from penstock.core.reading import read_table
from penstock.runners.inline import Inline

NODES = 4
pytestmark = pytest.mark.timeout(1800)  # far less on two free cores


@pytest.fixture(scope="module")
def nodes():
    with machines(Path(tempfile.mkdtemp(prefix="pa", dir="/tmp")), NODES) as found:
        yield found


def answers(folder):
    path = folder / "answers"
    return path.read_text().splitlines() if path.exists() else []


def lose_nodes(nodes, folder, drive, having):
    """The answers of a driver that asks, while each node that has a process *having* a name is killed in turn."""
    driver, lost = nodes.driver(Path(drive.__file__), str(folder)), 0
    wait_until(lambda: len(answers(folder)) >= 3 or driver.poll() is not None, "answers come")
    for node in range(1, NODES):
        if driver.poll() is None and nodes.processes(node, having):
            before = len(answers(folder))
            nodes.kill(node)
            lost += 1
            wait_until(lambda: len(answers(folder)) >= before + 5 or driver.poll() is not None, "they go on")  # noqa: B023
            nodes.start(node)
    (folder / "stop").touch()
    _, err = driver.communicate(timeout=400)
    assert driver.returncode == 0, err[-3000:]
    assert lost >= 2, "they are spread over the nodes"
    return answers(folder)


def test_a_table_answers_though_its_nodes_are_lost(nodes, tmp_path):
    assert set(lose_nodes(nodes, tmp_path, table_drive, "_Holder")) == {"right"}


def test_a_service_answers_though_its_nodes_are_lost(nodes, tmp_path):
    found = [json.loads(line) for line in lose_nodes(nodes, tmp_path, serve_drive, "ServeReplica")]
    Inline().run(spec.load(tmp_path / "line.toml").pipeline("line"))
    wanted = read_table(str(tmp_path / "out")).to_pylist()
    assert [status for status, _ in found] == [200] * len(found)
    assert [answer["rows"] for _, answer in found] == [wanted] * len(found)

"""How much memory there is, by fake trees of control groups; version 1, version 2, and a container's."""

import os

import pytest

from penstock.tables.making import create
from penstock.tables.mapping import Mapped, memory_bytes

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
NO_LIMIT = "9223372036854771712"  # what version 1 says
JOB = "/slurm/uid_7/job_12/step_0"


def tree(root, cgroup, **limits):
    """``/proc/self/cgroup`` and files of limits, by their path below ``/sys/fs/cgroup``."""
    for path, text in {"proc/self/cgroup": cgroup, **{f"sys/fs/cgroup/{at}": to for at, to in limits.items()}}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text + "\n")
    return root


V1, V2 = "memory.limit_in_bytes", "memory.max"


@pytest.mark.parametrize(
    ("cgroup", "limits", "wanted"),
    [
        (f"4:memory:{JOB}", {f"memory{JOB}/{V1}": "1000000", f"memory/{V1}": NO_LIMIT}, 1_000_000),
        (f"4:cpu,memory:{JOB}", {f"memory/slurm/uid_7/job_12/{V1}": "5000"}, 5000),
        (f"0::{JOB}", {f"{JOB[1:]}/{V2}": "max", f"slurm/uid_7/job_12/{V2}": "7000"}, 7000),
        (f"0::{JOB}", {f"slurm/{V2}": "9000", f"slurm/uid_7/{V2}": "8000", f"{JOB[1:]}/{V2}": "max"}, 8000),
        ("4:memory:/docker/abc\n0::/", {f"memory/{V1}": "6000"}, 6000),  # the container's own group is the top
        ("0::/../../other", {V2: "4000"}, 4000),
        (f"4:memory:{JOB}", {f"memory/elsewhere/{V1}": "1", V2: "1"}, MACHINE),
        (f"3:cpuset:{JOB}", {f"memory{JOB}/{V1}": "1"}, MACHINE),
        ("0::/", {V2: "max"}, MACHINE),
    ],
)
def test_the_least_limit_of_the_groups_around_a_process_counts(tmp_path, cgroup, limits, wanted):
    assert memory_bytes(tree(tmp_path, cgroup, **limits)) == wanted


def test_without_control_groups_it_is_the_machines(tmp_path):
    assert memory_bytes(tmp_path) == MACHINE
    assert 0 < memory_bytes() <= MACHINE


@pytest.mark.parametrize("limit", [10_000, 100 << 20])
def test_a_table_larger_than_half_of_a_jobs_memory_is_not_read_ahead(tmp_path, monkeypatch, limit):
    monkeypatch.setattr("penstock.tables.mapping.memory_bytes", lambda: limit)
    advised = []

    class Watched(Mapped):
        def _advise(self, start, size):
            advised.append(size)
            super()._advise(start, size)

    monkeypatch.setattr("penstock.tables.mapping.Mapped", Watched)
    create(str(tmp_path / "table"), 5000, 8, shard_bytes=1)
    from penstock.tables.client import open_table

    with open_table(str(tmp_path / "table")) as client:
        client.lookup([0, 4999])
    assert len(advised) == (2 if limit == 10_000 else 0)

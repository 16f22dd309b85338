"""The shipped suite of clusters on a real Slurm: over SSH and by the local shell, with accounting and without."""

import pytest

from penstock.testing.clusters import ClusterTests


class Conformance(ClusterTests):
    # Slurm counts whole minutes: the time limit has a test of its own, whose job runs beside all others.
    test_a_job_is_ended_at_its_time_limit = None


class TestOverSsh(Conformance):
    @pytest.fixture
    def cluster(self, over_ssh):
        return over_ssh


class TestByLocalShell(Conformance):
    @pytest.fixture
    def cluster(self, slurm):
        with slurm.reached(local=True):
            yield slurm.cluster(host="")


class TestOverSshWithAccounting(Conformance):
    @pytest.fixture
    def cluster(self, with_accounting):
        return with_accounting


class TestByLocalShellWithAccounting(Conformance):
    @pytest.fixture
    def cluster(self, slurm_accounting):
        with slurm_accounting.reached(local=True):
            yield slurm_accounting.cluster(host="")

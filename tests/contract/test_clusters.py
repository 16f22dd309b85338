import pytest

from penstock.clusters.local import Local
from penstock.testing.clusters import ClusterTests


class TestLocal(ClusterTests):
    @pytest.fixture
    def cluster(self):
        return Local()

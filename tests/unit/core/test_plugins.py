import pytest

from penstock.core import plugins


@pytest.mark.parametrize(
    ("modules", "command"),
    [
        (["h5py"], "pip install 'penstock[hdf5]'"),
        (["h5py", "mpi4py"], "pip install 'penstock[solvers]'"),
        (["faiss", "scipy"], "pip install 'penstock[solvers]'"),
        (["PIL"], "pip install 'penstock[images]'"),
        (["torch", "safetensors"], "pip install 'penstock[models]'"),
        (["ray"], "pip install 'penstock[ray]'"),
        (["av", "zarr"], "pip install 'penstock[all]'"),
        (["pyteomics", "h5py"], "pip install h5py pyteomics"),
    ],
)
def test_the_smallest_extra_that_brings_all_is_named(modules, command):
    assert plugins.installing(modules) == command


@pytest.mark.parametrize("kind", plugins.KINDS)
def test_what_a_built_in_part_needs_comes_by_one_extra(kind):
    for name in plugins.named(kind):
        needs = getattr(plugins.load(kind, name), "NEEDS", ())
        assert "'penstock[" in plugins.installing(needs)
        assert "[all]" not in plugins.installing(needs)

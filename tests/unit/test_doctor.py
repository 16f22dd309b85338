"""What `doctor` says about machines of many kinds."""

import os
import shutil
import sys
from collections import namedtuple
from types import SimpleNamespace

import pytest

from penstock import doctor
from penstock.doctor import Finding, extras
from penstock.models.catalogue import CATALOGUE

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def absent(monkeypatch):
    """Make a package look as if it were not installed."""

    def hide(*names):
        real = doctor.find_spec
        monkeypatch.setattr(doctor, "find_spec", lambda name: None if name in names else real(name))

    return hide


def test_an_extra_is_ok_when_all_its_packages_are_new_enough():
    found = extras(["pyarrow>=17; extra == 'arrow'", 'rich>=13 ; extra == "arrow"'])
    assert [(one.name, one.state, one.mend) for one in found] == [("extra arrow", "ok", "")]
    assert "pyarrow 2" in found[0].found


def test_an_extra_is_missing_when_one_package_is():
    (found,) = extras(["pyarrow>=17; extra == 'x'", "no-such-package[data]>=2; extra == 'x'"])
    assert found.state == "missing"
    assert "no-such-package not installed" in found.found
    assert found.mend == "pip install --upgrade 'penstock[x]'"


def test_an_extra_is_broken_when_a_package_is_too_old():
    (found,) = extras(["pyarrow>=999.1; extra == 'x'"])
    assert found.state == "broken"
    assert "needed: pyarrow >= 999.1" in found.found


def test_requirements_of_the_package_itself_and_the_sum_of_all_are_left_out():
    assert extras(["numpy>=1.26", "numpy>=1; extra == 'all'"]) == []


@pytest.mark.parametrize(("older", "newer"), [("2.9", "2.10"), ("5", "5.1"), ("2.13.0+cpu", "2.13.1")])
def test_versions_are_compared_by_their_numbers(older, newer):
    assert doctor._numbers(older) < doctor._numbers(newer)


def torch(names, cuda="12.8"):
    here = SimpleNamespace(device_count=lambda: len(names), get_device_name=lambda at: names[at])
    return SimpleNamespace(__version__="2.13", __spec__=object(), cuda=here, version=SimpleNamespace(cuda=cuda))


def test_gpus_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", torch(["NVIDIA H200", "NVIDIA H200"]))
    assert doctor.gpu() == Finding("gpu", "ok", "torch 2.13, CUDA 12.8; NVIDIA H200, NVIDIA H200")


def test_a_driver_without_a_gpu_in_torch_is_broken(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", torch([], cuda=None))
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    found = doctor.gpu()
    assert (found.state, found.mend) == ("broken", "pip install --force-reinstall torch")
    assert "CPU only; it sees none of the GPUs here" in found.found


def test_a_machine_without_torch_is_told_how_to_get_it(absent):
    absent("torch")
    assert (doctor.gpu().state, doctor.gpu().mend) == ("missing", "pip install 'penstock[models]'")


def test_mpi_is_missing_without_mpi4py(absent):
    absent("mpi4py")
    assert doctor.mpi() == Finding("mpi", "missing", "mpi4py is not installed", "pip install 'penstock[solvers]'")


@pytest.mark.parametrize(
    ("printed", "state", "words"),
    [
        ("0 of 2\n1 of 2\n", "ok", "two ranks started"),
        ("1 of 2\nnoise\n0 of 2\n", "ok", "two ranks started"),
        ("0 of 1\n0 of 1\n", "broken", "0 of 1, 0 of 1; the launcher belongs to another MPI than mpi4py"),
    ],
)
def test_two_ranks_must_know_of_each_other(monkeypatch, absent, printed, state, words):
    monkeypatch.setattr(doctor, "find_spec", lambda name: object())

    def pretend(cluster, job):
        assert cluster.tasks == 2
        (doctor.Path(job.folder) / "stdout").write_text(printed)

    monkeypatch.setattr(doctor, "run_job", pretend)
    found = doctor.mpi()
    assert found.state == state
    assert words in found.found


def test_weights_that_are_not_installed_are_missing(absent):
    entry = CATALOGUE["antiberty"]
    absent(entry.package)
    found = doctor.weights(entry)
    assert (found.state, found.mend) == ("missing", f"pip install --no-deps {entry.requirement}")


def test_weights_with_another_hash_are_broken(monkeypatch, tmp_path):
    entry = CATALOGUE["antiberty"]
    (tmp_path / entry.package / entry.folder).mkdir(parents=True)
    (tmp_path / entry.package / "__init__.py").touch()
    (tmp_path / entry.package / entry.folder / entry.weights).write_bytes(b"other")
    monkeypatch.syspath_prepend(tmp_path)
    found = doctor.weights(entry)
    assert found.state == "broken"
    assert "was needed" in found.found


def test_a_full_disk_is_broken_and_a_free_one_is_not(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(1 << 40, 0, 1 << 30))
    assert (doctor.disk(tmp_path).state, "1.0 GiB free" in doctor.disk(tmp_path).found) == ("broken", True)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(1 << 40, 0, 1 << 35))
    assert doctor.disk(tmp_path).state == "ok"


def test_little_shared_memory_is_told_with_its_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(64 << 20, 0, 64 << 20))
    found = doctor.shared_memory(tmp_path)
    assert found.state == "missing"
    assert "--shm-size=8g" in found.mend
    assert doctor.shared_memory(tmp_path / "none").state == "missing"


@pytest.fixture
def bare_aws(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))


def test_credentials_are_found_and_never_shown(monkeypatch, bare_aws):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAVERYSECRET")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "topsecret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:password@localhost:1")
    found = doctor.aws()
    assert found == Finding("aws", "ok", "credentials from env, region eu-west-1, endpoint of your own")


def test_no_credentials_are_missing(bare_aws):
    assert doctor.aws() == Finding("aws", "missing", "no credentials; only s3:// needs them", "aws configure")


def test_every_finding_that_is_not_ok_says_what_mends_it(monkeypatch, bare_aws):
    monkeypatch.setattr(doctor, "mpi", lambda: Finding("mpi", "ok", "not started here"))
    found = doctor.examine()
    assert {one.name for one in found} >= {"python", "gpu", "mpi", "disk", "aws", "chromium", "openfoam"}
    assert all(one.found and (one.state == "ok") == (not one.mend) for one in found)


def test_a_program_is_looked_for_on_path(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    wanted = doctor.Program("flow", ("other", "solver"), "the step flow", "apt-get install flow")
    assert doctor.program(wanted) == doctor.Finding(
        "flow", "missing", "only needed by the step flow", "apt-get install flow"
    )
    (tmp_path / "solver").write_text("#!/bin/sh")
    (tmp_path / "solver").chmod(0o755)
    assert doctor.program(wanted) == doctor.Finding("flow", "ok", str(tmp_path / "solver"))

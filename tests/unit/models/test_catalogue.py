import sys

import pytest
from pydantic import TypeAdapter

from penstock.core.nouns import Licence
from penstock.errors import WeightsError
from penstock.models import catalogue
from penstock.models.catalogue import CATALOGUE, Entry, Model, folder_of, hash_of, licence_of, verify


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A catalogue entry whose package lies in a folder of the test and fails when it is imported."""
    package = tmp_path / "own_weights"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "model" / "w.bin").write_bytes(b"weights")
    sha256 = "9aefa66faa6a2b5ed0dc1e2f1cf1c5d7b2c7cbbd3e0d1c3f6e8a5e1b1b0f0c00"
    entry = Entry("own", "own_weights", "own-weights==1.0", 8, "MIT", True, "-", "model", "model", "w.bin", sha256)
    monkeypatch.setattr(catalogue, "CATALOGUE", {**CATALOGUE, "own": entry})
    monkeypatch.syspath_prepend(tmp_path)
    return package


def test_finds_a_package_without_importing_it(own):
    assert folder_of("own") == own / "model"
    assert "own_weights" not in sys.modules


def test_names_the_command_that_installs_a_missing_package(own, monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(WeightsError, match=r"not installed: pip install --no-deps own-weights==1.0"):
        folder_of("own")


def test_a_package_of_another_version_is_told(own):
    (own / "model" / "w.bin").rename(own / "w.bin")
    with pytest.raises(WeightsError, match=r"w.bin: found no such file.*--force-reinstall --no-deps own-weights==1.0"):
        verify("own")
    (own / "model").rmdir()
    with pytest.raises(WeightsError, match=r"another version is installed: pip install --no-deps own-weights==1.0"):
        folder_of("own")


def test_weights_with_another_hash_are_refused(own):
    found = hash_of(own / "model" / "w.bin")[:16]
    with pytest.raises(WeightsError, match=f"found sha256 {found}, sha256 9aefa66faa6a2b5e was needed; the package is"):
        verify("own")


def test_hash_follows_the_content(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"")
    assert hash_of(path) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    path.write_bytes(b"abc")
    assert hash_of(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_misspelt_name_is_answered_with_the_nearest():
    with pytest.raises(WeightsError, match=r"no model '.*antibert'.*did you mean 'antiberty'\?"):
        folder_of("/somewhere/antibert")
    with pytest.raises(WeightsError, match="names are: antiberty, minilm, iglm, unirep"):
        folder_of("xyz")


def test_models_that_are_only_known_are_not_loaded():
    with pytest.raises(
        WeightsError, match=r"'iglm' \(JHU .*\) is known, but Penstock does not load it; choose one of an"
    ):
        folder_of("iglm")
    assert licence_of("iglm").commercial is False


def test_names_stay_and_relative_folders_start_at_the_file():
    adapter = TypeAdapter(Model)
    context = {"folder": "/pipelines"}
    for name in ("antiberty", "residue:dna", "/models/own"):
        assert adapter.validate_python(name, context=context) == name
    assert adapter.validate_python("own", context=context) == "/pipelines/own"


@pytest.mark.parametrize(
    ("card", "name", "commercial"),
    [
        ("---\nlicense: apache-2.0\n---\n# Model", "apache-2.0", True),
        ("---\nlanguage: en\nlicense: cc-by-nc-4.0\n---\n", "cc-by-nc-4.0", False),
        ("---\nlicense: cc-by-nc-sa-4.0\n---\n", "cc-by-nc-sa-4.0", False),
        ("---\nlicense: other\nlicense_name: lab-non-commercial\n---\n", "other lab-non-commercial", False),
        ("---\nlicense: other\n---\n", "other", None),
        ("---\nlicense: bsd-3-clause\n---\n", "bsd-3-clause", True),
        ("---\nlicense: [not: closed\n---\n", "no licence in README.md", None),
        ("# No front matter\nlicense: mit", "no licence in README.md", None),
        (None, "no licence in README.md", None),
    ],
)
def test_reads_a_folders_licence_from_its_card(tmp_path, card, name, commercial):
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert licence_of(str(tmp_path)) == Licence(str(tmp_path), name, commercial)

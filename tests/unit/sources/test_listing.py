from pathlib import Path

import pytest

from penstock.errors import StorageError
from penstock.sources.listing import listed


@pytest.fixture
def folder(tmp_path):
    for name in ("b.fa", "a.FASTA", "notes.txt", "sub/c.fa.gz", ".hidden.fa"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(">x\nM\n")
    return tmp_path


def names(uri, *suffixes):
    return [Path(entry.uri).name for entry in listed(str(uri), suffixes)]


def test_a_folder_gives_its_files_with_a_suffix(folder):
    assert names(folder, ".fa", ".fasta", ".fa.gz") == ["a.FASTA", "b.fa", "c.fa.gz"]


def test_a_file_is_taken_whatever_its_name(folder):
    assert names(folder / "notes.txt", ".fa") == ["notes.txt"]
    assert names(f"file://{folder}/notes.txt", ".fa") == ["notes.txt"]


def test_a_glob_is_taken_whatever_the_names(folder):
    assert names(f"{folder}/*", ".fa") == ["a.FASTA", "b.fa", "notes.txt"]
    assert names(f"{folder}/**/*.gz", ".fa") == ["c.fa.gz"]


def test_a_folder_without_such_files_is_refused(folder):
    text = (
        r"there is no file that ends with \.fq or \.fastq, there are others, such as .*c\.fa\.gz; name them by a glob"
    )
    with pytest.raises(StorageError, match=text):
        names(folder, ".fq", ".fastq")


def test_a_glob_without_a_match_is_refused(folder):
    with pytest.raises(StorageError, match=r"there is no file that it matches; check the spelling"):
        names(f"{folder}/*.zip", ".fa")


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(StorageError, match=r"cannot list .*nowhere: no such file or folder"):
        names(tmp_path / "nowhere", ".fa")

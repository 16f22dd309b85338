import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from penstock.core.storage import Entry
from penstock.errors import RowErrors, SpecError, StorageError
from penstock.sources import images
from penstock.sources.images import Images


def write(path: Path, width=9, height=5, form="PNG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path, form)
    return path.read_bytes()


def read(source):
    return [row for unit in source.units() for row in source.read(unit).to_pylist()]


def test_a_row_holds_the_bytes_as_they_lie(tmp_path):
    data = write(tmp_path / "cats" / "a b,c%.JPG", 13, 7, "JPEG")
    assert read(Images(str(tmp_path))) == [
        {"id": "cats/a b,c%.JPG", "image": data, "width": 13, "height": 7, "format": "JPEG"}
    ]


def test_files_go_together_by_their_bytes(tmp_path):
    for name in "abcdef":
        write(tmp_path / f"{name}.png")
    each = (tmp_path / "a.png").stat().st_size
    assert [unit.stop for unit in Images(str(tmp_path), unit_bytes=each * 2).units()] == [2, 2, 2]
    assert [unit.stop for unit in Images(str(tmp_path), unit_bytes=1).units()] == [1] * 6
    (unit,) = Images(str(tmp_path)).units()
    assert unit.uri == f"{tmp_path}/a.png,b.png,c.png,d.png,e.png,f.png"
    assert unit.size_bytes == 6 * each


def test_many_small_files_are_several_units(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "_MOST_FILES", 4)
    for at in range(9):
        write(tmp_path / f"{at}.png")
    assert [unit.stop for unit in Images(str(tmp_path)).units()] == [4, 4, 1]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("", ["a.png", "sub/b.jpg", "sub/deep/c.png"]),
        ("sub", ["b.jpg", "deep/c.png"]),
        ("*/*.jpg", ["sub/b.jpg"]),
        ("a.png", ["a.png"]),
        ("sub/**/c*", ["deep/c.png"]),
    ],
)
def test_ids_are_paths_below_what_was_named(tmp_path, pattern, names):
    write(tmp_path / "a.png")
    write(tmp_path / "sub" / "b.jpg", form="JPEG")
    write(tmp_path / "sub" / "deep" / "c.png")
    (tmp_path / "notes.txt").write_text("no image")
    assert [row["id"] for row in read(Images(f"{tmp_path}/{pattern}"))] == names


def test_relative_addresses_work(tmp_path, monkeypatch):
    write(tmp_path / "a.png")
    write(tmp_path / "sub" / "b.png")
    monkeypatch.chdir(tmp_path)
    assert [row["id"] for row in read(Images("a.png"))] == ["a.png"]
    assert [row["id"] for row in read(Images("sub"))] == ["b.png"]
    assert [row["id"] for row in read(Images("*.png"))] == ["a.png"]


def test_a_new_file_moves_few_borders(tmp_path):
    data = write(tmp_path / "photos" / "0000.png")
    for at in range(1, 1200):
        (tmp_path / "photos" / f"{at:04d}.png").write_bytes(data)
    source = Images(f"{tmp_path}/photos", unit_bytes=40 * len(data))
    before = {unit.key for unit in source.units()}
    (tmp_path / "photos" / "0007a.png").write_bytes(data)
    after = {unit.key for unit in source.units()}
    assert 30 <= len(before) <= 60
    assert len(after - before) <= len(before) // 3


def test_a_changed_file_changes_its_unit_alone(tmp_path):
    for name in "abcd":
        write(tmp_path / f"{name}.png")
    source = Images(str(tmp_path), unit_bytes=2 * (tmp_path / "a.png").stat().st_size)
    before = [unit.key for unit in source.units()]
    os.utime(tmp_path / "d.png", ns=(1, 1))
    after = [unit.key for unit in source.units()]
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_what_is_no_image_costs_its_row(tmp_path):
    write(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"<html>not found</html>")
    (tmp_path / "c.png").write_bytes(b"")
    source = Images(str(tmp_path))
    (unit,) = source.units()
    with pytest.raises(RowErrors) as told:
        source.read(unit)
    assert told.value.good["id"].to_pylist() == ["a.png"]
    assert told.value.bad["id"].to_pylist() == ["b.png", "c.png"]
    assert told.value.bad["image"].to_pylist() == [b"<html>not found</html>", b""]
    assert told.value.reasons == [
        f"{tmp_path}/b.png is no image that Pillow knows: 22 bytes, the first are b'<html>no'",
        f"{tmp_path}/c.png has no bytes",
    ]
    sample, taken = source.sample(unit)
    assert sample.num_rows == 1
    assert taken == unit.size_bytes


def test_what_may_not_be_read_costs_its_row(tmp_path, monkeypatch):
    write(tmp_path / "a.png")
    write(tmp_path / "b.png")
    source, opened = Images(str(tmp_path)), Path.open

    def forbidden(path, *given, **more):
        if path.name == "b.png":
            raise PermissionError(13, "Permission denied")
        return opened(path, *given, **more)

    monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(RowErrors, match=r"b.png: permission denied; check owner and mode"):
        source.read(next(source.units()))


def test_a_file_that_changes_meanwhile_fails_its_unit(tmp_path):
    write(tmp_path / "a.png")
    source = Images(str(tmp_path))
    (unit,) = source.units()
    os.utime(tmp_path / "a.png", ns=(1, 1))
    with pytest.raises(StorageError, match="it changed while the run was going on; run again"):
        source.read(unit)


def test_a_folder_without_images_is_told(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(StorageError, match=r"no file that ends with .jpg or .*, there are others, such as .*notes.txt"):
        list(Images(str(tmp_path)).units())
    with pytest.raises(SpecError, match="unit_bytes = 0: 1 to 1073741824 was needed"):
        Images(str(tmp_path), unit_bytes=0)


class Bucket:
    """What S3 answers, from a dictionary."""

    def __init__(self, objects):
        self.objects, self.asked = objects, []

    def list(self, pattern):
        for uri, data in sorted(self.objects.items()):
            if uri.startswith(pattern.rstrip("/") + "/"):
                yield Entry(uri, len(data), f"tag-{len(data)}")

    def entry(self, uri):
        return None

    def below(self, folder):
        return self.list(folder)

    def open(self, uri, start=0, etag=None):
        self.asked.append((uri, etag))
        return io.BytesIO(self.objects[uri])


def test_objects_below_a_prefix_are_read_by_the_version_that_was_listed(tmp_path, monkeypatch):
    data = [write(tmp_path / f"{name}.png", width) for name, width in (("a", 3), ("b", 40))]
    uris = ["s3://lake/photos/x/a.png", "s3://lake/photos/y/b c.png"]
    bucket = Bucket(dict(zip(uris, data, strict=True)))
    for module in ("penstock.sources.images", "penstock.sources.listing", "penstock.core.storage"):
        monkeypatch.setattr(f"{module}.store_of", lambda uri: bucket)
    source = Images("s3://lake/photos/")
    (unit,) = source.units()
    assert unit.uri == "s3://lake/photos/x%2Fa.png,y%2Fb%20c.png"
    assert [(row["id"], row["image"]) for row in source.read(unit).to_pylist()] == [
        ("x/a.png", data[0]),
        ("y/b c.png", data[1]),
    ]
    assert bucket.asked == [(uri, f"tag-{len(each)}") for uri, each in zip(uris, data, strict=True)]

"""Images below a prefix of a real S3 server."""

import io

import pytest
from PIL import Image

from penstock.core.storage import join, store_of
from penstock.errors import RowErrors, StorageError
from penstock.sources.images import Images


def photo(colour):
    out = io.BytesIO()
    Image.new("RGB", (12, 8), colour).save(out, "JPEG")
    return out.getvalue()


def test_photos_in_a_bucket_are_rows_by_the_version_that_was_listed(s3_root):
    objects = {"a,b.jpg": photo("red"), "sub/c d%.jpg": photo("blue"), "sub/e.jpg": b"no image", "notes.txt": b"text"}
    for name, data in objects.items():
        store_of(s3_root).replace(join(s3_root, "photos", name), data)
    source = Images(join(s3_root, "photos"))
    (unit,) = source.units()
    with pytest.raises(RowErrors) as told:
        source.read(unit)
    rows = told.value.good.to_pylist()
    assert [(row["id"], row["image"], row["width"], row["format"]) for row in rows] == [
        ("a,b.jpg", objects["a,b.jpg"], 12, "JPEG"),
        ("sub/c d%.jpg", objects["sub/c d%.jpg"], 12, "JPEG"),
    ]
    assert told.value.bad["id"].to_pylist() == ["sub/e.jpg"]
    store_of(s3_root).replace(join(s3_root, "photos", "a,b.jpg"), photo("green"))
    with pytest.raises(StorageError, match="it changed while the run was going on; run again"):
        source.read(unit)
    assert next(source.units()).key != unit.key

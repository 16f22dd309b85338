import io
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from penstock.core.batch import tensor_column, to_numpy
from penstock.core.nouns import Licence
from penstock.errors import RowErrors, SchemaError
from penstock.models import vision
from penstock.models.pixels import IMAGENET, fitted
from penstock.stages.vision import Vision
from penstock.testing.models import tiny_resnet


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return str(tiny_resnet(tmp_path_factory.mktemp("tiny")))


def image(seed, width=60, height=40):
    few = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return Image.fromarray(few).resize((width, height), Image.Resampling.BICUBIC)


def encoded(picture, form="PNG"):
    out = io.BytesIO()
    picture.save(out, form)
    return out.getvalue()


IMAGES = [image(seed, 40 + 7 * seed, 90 - 5 * seed) for seed in range(7)]
TABLE = pa.table({"image": pa.array([encoded(each) for each in IMAGES], pa.binary())})


def ran(stage, table=TABLE):
    with stage.open() as transform:
        found = transform(table)
    assert found.schema.equals(stage.schema(table.schema))
    return found


def one_at_a_time(model, pictures=IMAGES, output="pooled"):
    with vision.opened(model, output, "cpu") as live:
        return np.stack([live(np.stack([fitted(np.asarray(each), IMAGENET)]))[0].numpy() for each in pictures])


@pytest.mark.parametrize("batch", [1, 2, 16])
@pytest.mark.parametrize("decoders", [1, 3])
def test_each_row_is_that_of_its_image_alone(tiny, batch, decoders):
    found = to_numpy(ran(Vision(tiny, batch=batch, decoders=decoders, device="cpu"))["embedding"])
    np.testing.assert_allclose(found, one_at_a_time(tiny), rtol=1e-4, atol=1e-4)


def test_large_binary_is_taken(tiny):
    table = pa.table({"image": pa.array(TABLE["image"].to_pylist(), pa.large_binary())})
    found = to_numpy(ran(Vision(tiny, device="cpu"), table)["embedding"])
    np.testing.assert_allclose(found, one_at_a_time(tiny), rtol=1e-4, atol=1e-4)


def test_maps_and_logits_have_columns_of_their_own(tiny):
    maps = to_numpy(ran(Vision(tiny, output="map", device="cpu"))["map"])
    assert maps.shape == (7, 32, 7, 7)
    np.testing.assert_allclose(maps.mean((2, 3)), one_at_a_time(tiny), rtol=1e-3, atol=1e-4)
    logits = to_numpy(ran(Vision(tiny, output="logits", device="cpu"))["logits"])
    np.testing.assert_allclose(logits, one_at_a_time(tiny, output="logits"), rtol=1e-3, atol=1e-3)


def test_normalised_vectors_have_length_one(tiny):
    expected = one_at_a_time(tiny)
    found = to_numpy(ran(Vision(tiny, normalize=True, dtype="float16", device="cpu"))["embedding"])
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected, axis=1, keepdims=True), rtol=0, atol=1e-3)


def test_frames_are_averaged_or_kept(tiny):
    frames = np.stack([np.asarray(image(seed)) for seed in range(6)]).reshape(2, 3, 40, 60, 3)
    alone = one_at_a_time(tiny, [image(seed) for seed in range(6)]).reshape(2, 3, 32)
    table = pa.table({"frames": tensor_column(frames)})
    mean = to_numpy(ran(Vision(tiny, column="frames", device="cpu"), table)["embedding"])
    np.testing.assert_allclose(mean, alone.mean(1), rtol=1e-4, atol=1e-4)
    every = to_numpy(ran(Vision(tiny, column="frames", frames="none", device="cpu"), table)["embedding"])
    np.testing.assert_allclose(every, alone, rtol=1e-4, atol=1e-4)
    single = pa.table({"image": tensor_column(frames[:, 0])})
    first = to_numpy(ran(Vision(tiny, device="cpu"), single)["embedding"])
    np.testing.assert_allclose(first, alone[:, 0], rtol=1e-4, atol=1e-4)


def test_bad_images_cost_their_rows_alone(tiny):
    sound = TABLE["image"].to_pylist()
    rows = [sound[0], b"", sound[1], None, b"text", encoded(image(0, 300, 300), "JPEG")[:900], sound[2]]
    table = pa.table({"name": list("abcdefg"), "image": pa.array(rows, pa.binary())})
    with Vision(tiny, batch=2, device="cpu").open() as transform, pytest.raises(RowErrors) as told:
        transform(table)
    assert told.value.good["name"].to_pylist() == ["a", "c", "g"]
    np.testing.assert_allclose(
        to_numpy(told.value.good["embedding"]), one_at_a_time(tiny, IMAGES[:3]), rtol=1e-4, atol=1e-4
    )
    assert told.value.bad.equals(table.take([1, 3, 4, 5]))
    empty, null, text, cut = told.value.reasons
    assert (empty, null) == ("image has no bytes", "image is null")
    assert text == "image is no image that Pillow knows: 4 bytes, the first are b'text'"
    assert cut.startswith("image cannot be decoded: image file is truncated")


def test_when_all_are_bad_none_is_left(tiny):
    table = pa.table({"image": pa.array([b"x", None], pa.binary())})
    with Vision(tiny, device="cpu").open() as transform, pytest.raises(RowErrors) as told:
        transform(table)
    assert told.value.good.num_rows == 0
    assert told.value.good.schema.equals(Vision(tiny).schema(table.schema))


def test_images_larger_than_most_pixels_are_not_decoded(tiny):
    with Vision(tiny, most_pixels=100 * 70, device="cpu").open() as transform, pytest.raises(RowErrors) as told:
        transform(pa.table({"image": [encoded(image(0, 100, 71)), encoded(image(0, 101, 69))]}))
    assert told.value.reasons == [
        "image has 100 x 71 pixels, more than most_pixels = 7,000; raise that, or shrink it",
        "image has 101 x 69 pixels and would have 374 x 256 when resized, more than most_pixels = 7,000; "
        "cut it into pieces that are less long",
    ]


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.list_(pa.uint8()),
        pa.fixed_shape_tensor(pa.float32(), [4, 4, 3]),
        pa.fixed_shape_tensor(pa.uint8(), [4, 4]),
    ],
)
def test_other_columns_are_refused(tiny, kind):
    with pytest.raises(
        SchemaError, match=r"needs column 'image' as binary .* or as a tensor uint8 of shape \[..., y, x"
    ):
        Vision(tiny).schema(pa.schema([("image", kind)]))


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"most_pixels": 10**9}, {"output": "map", "normalize": True}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=r"must be|was needed|goes with"):
        Vision("efficientnet-lite0", **wrong)


def test_the_weights_are_part_of_its_identity_and_have_a_licence(tiny):
    assert set(Vision(tiny).identity()) == {"model.safetensors"}
    assert Vision(tiny).licences() == (Licence(tiny, "apache-2.0", commercial=True),)
    assert Vision(f"{tiny}/model.safetensors").licences()[0].name == "apache-2.0"


def test_a_model_of_the_catalogue_is_planned_without_torch():
    code = (
        "import sys, pyarrow as pa\nfrom penstock.stages.vision import Vision\n"
        "kind = Vision('efficientnet-lite0').schema(pa.schema([('image', pa.binary())])).field('embedding').type\n"
        "assert list(kind.shape) == [1280] and 'torch' not in sys.modules and 'PIL' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)

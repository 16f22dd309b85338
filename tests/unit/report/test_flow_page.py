"""The page of a judgement, and the images in it."""

import base64
import json
import re
import struct
import zlib

import numpy as np
import pytest

from penstock.flows.baselines import random_phase
from penstock.flows.judging import Sample, judge
from penstock.flows.kolmogorov import random_start
from penstock.flows.statistics import Physics
from penstock.flows.steadiness import Course
from penstock.report import flow


def read_png(data):
    """By the specification: chunks with their sums, rows with their filter, which is none here."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        assert struct.unpack_from(">I", data, at + 8 + size) == (zlib.crc32(kind + body),)
        chunks[kind], at = body, at + 12 + size
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height, *kind = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert kind == [8, 2, 0, 0, 0]
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, 1 + 3 * width)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape(height, width, 3)


def test_a_png_comes_back():
    pixels = np.random.default_rng(1).integers(0, 256, (5, 7, 3), np.uint8)
    assert (read_png(flow.png(pixels)) == pixels).all()


def lightness(pixels):
    """CIE L* of sRGB colours: another measure than the one in which the colours were made."""
    value = pixels / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    y = linear @ [0.2126, 0.7152, 0.0722]
    return 116 * np.cbrt(y) - 16


def test_colours_grow_lighter_by_equal_steps():
    rising = lightness(flow.coloured(np.linspace(0, 1, 21), flow._RISING))
    assert (np.diff(rising) > 1).all()
    both = lightness(flow.coloured(np.linspace(0, 1, 21), flow._DIVERGING))
    np.testing.assert_allclose(both, both[::-1], atol=6)
    assert both[10] > 95


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    fields = np.stack([random_start(16, seed) for seed in range(12)]).astype(np.float32)
    samples = (
        Sample("generated", fields[:4]),
        Sample("truth", fields[4:]),
        Sample("random phase", random_phase(fields, 1)),
    )
    found = judge(*samples[:2], Physics(wavenumber=2))
    return found, flow.build(
        found, samples, tmp_path_factory.mktemp("page") / "j.html", "Judgement of <mine>"
    ).read_text()


def test_the_page_shows_fields_of_every_sample(page):
    _, text = page
    shown = re.findall(r'<img src="data:image/png;base64,([^"]+)" width="192" height="192" alt="([^"]+)"', text)
    assert [alt for _, alt in shown[:5]] == ["vorticity of a generated field"] * 4 + ["vorticity of a truth field"]
    assert len(shown) == 2 * 3 * 4
    assert read_png(base64.b64decode(shown[0][0])).shape == (48, 48, 3)


def test_the_page_tells_every_figure_and_draws_the_curves(page):
    found, text = page
    assert all(line.name in text for line in found.lines)
    curves = {
        k: json.loads(v)
        for k, v in re.findall(r'<script type="application/json" id="([^"]+)">(.*?)</script>', text, re.DOTALL)
    }
    assert {"spectrum", "ratio", "correlation", "vorticity", "increment2", "increment8"} == set(curves)
    truth = curves["spectrum"]["data"][1]
    assert truth["name"] == "truth"
    expected = [value for value in found.portraits["truth"].spectrum[1:6] if value]
    assert truth["y"] == pytest.approx(expected, rel=1e-4)


def test_the_title_is_text_and_not_html(page):
    assert "Judgement of &lt;mine&gt;" in page[1]


def test_the_way_to_the_steady_state_is_told_and_drawn(tmp_path):
    fields = np.stack([random_start(16, seed) for seed in range(8)]).astype(np.float32)
    samples = (Sample("generated", fields[:4]), Sample("truth", fields[4:]), Sample("random phase", fields[:4]))
    found = judge(*samples[:2], Physics(wavenumber=2))
    steps, energy = 10 * np.arange(40), 0.5 * np.ones(40)  # of all random starts
    enstrophy = found.portraits["truth"].enstrophy.mean() * np.ones(40)
    courses = [
        Course(name, 4, steps, 0.02, factor * energy, enstrophy, np.ones((40, 6)))
        for name, factor in (("generated", np.where(steps < 50, 2, 1)), ("rest", 3))
    ]
    text = flow.build(found, samples, tmp_path / "j.html", "Judgement", courses).read_text()
    cells = re.findall(r"<td>(\w+)</td><td class=\"n\">(\d+)</td>\s*<td class=\"n\">([\w ]+)</td>", text)
    assert cells == [("generated", "4", "50"), ("rest", "4", "not seen")]
    curve = json.loads(re.search(r'id="distance">(.*?)</script>', text, re.DOTALL)[1])
    assert [trace["name"] for trace in curve["data"]] == ["generated", "rest"]
    assert curve["data"][0]["y"][:2] == pytest.approx([1, 1], rel=1e-3)
    assert curve["layout"]["shapes"][0]["y1"] == pytest.approx(0.1)


def test_a_page_without_solvers_says_nothing_of_them(page):
    assert "Time to steady state" not in page[1]

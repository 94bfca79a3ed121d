"""The figures of the pages: what is drawn where."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from base64 import b64decode
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pydrift.report import figures
from tests.report.drift_reports import make


def test_a_map_without_a_strong_place_is_pale():
    tree = ET.fromstring(str(figures.place_map(((0.4, -1.0),))))
    assert 'fill-opacity="0.25"' in ET.tostring(tree, encoding="unicode")


def test_a_map_of_nothing_frames_nothing():
    assert "observed" not in str(figures.place_map(((None, None), (None, None))))


def test_gray_images_are_the_models_pixels() -> None:
    def pixels(image: np.ndarray) -> tuple[np.ndarray, figures.Picture]:
        shown = figures.picture(image.astype(np.float32))
        return np.asarray(Image.open(io.BytesIO(b64decode(shown.uri.split(",")[1])))), shown

    rng = np.random.default_rng(0)
    grey, rgb = rng.random((1, 28, 28)), rng.random((3, 32, 16))
    seen, shown = pixels(grey)
    np.testing.assert_array_equal(seen, np.rint(255 * grey.astype(np.float32)[0]))
    assert (shown.width, shown.height) == (56, 56)
    seen, shown = pixels(rgb)
    np.testing.assert_array_equal(seen, np.rint(255 * rgb.astype(np.float32)).transpose(1, 2, 0))
    assert (shown.width, shown.height) == (32, 64)
    seen, shown = pixels(rng.random((3, 224, 224)))
    assert seen.shape == (64, 64, 3)
    assert (shown.width, shown.height) == (64, 64)
    seen, _ = pixels(np.stack([np.zeros((4, 4)), np.ones((4, 4))]))
    assert seen.shape == (4, 4)
    assert (seen == 127).all()


def test_figures_scale_bars_and_dots() -> None:
    report = make()
    c = report.classes[3]
    tree = ET.fromstring(figures.score_bar(c, (-10.0, 40.0), smallest=3.0))
    bar = tree.find("rect")
    assert bar is not None
    assert float(bar.get("x", "")) == pytest.approx(figures.BAR_WIDTH * 10 / 50, abs=0.1)
    assert float(bar.get("width", "")) == pytest.approx(figures.BAR_WIDTH * 20 / 50, abs=0.1)
    limit = next(p for p in tree.findall("path") if p.get("class") == "limit")
    assert limit.get("d", "").startswith(f"M{figures.BAR_WIDTH * 13 / 50:.1f} ")

    strip = ET.fromstring(figures.null_strip(replace(c, null=(0.0, 0.0, 0.0, 5.0))))
    dots = next(p for p in strip.findall("path") if p.get("class") == "dots").get("d", "")
    assert re.findall(r"v-(\d+)", dots) == ["14", "0"]  # three stacked dots span two steps of 7, one dot none
    assert strip.get("aria-label") == "4 shadows between 0.00 and 5.00, candidate at 20.00"


@pytest.mark.parametrize(
    ("span", "about", "ticks"),
    [((-40, 10), 4, [-40, -20, 0]), ((-1.06, 1.06), 4, [-1, 0, 1]), ((-0.003, 0.011), 5, [0, 0.005, 0.01])],
)
def test_ticks_are_round_numbers(span: tuple[float, float], about: int, ticks: list[float]) -> None:
    assert figures._ticks(span, about) == pytest.approx(ticks)

"""Dots of pictures of cells: the same in a PNG and a PDF, and written at once."""

import re
import zlib

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_pdf import RendererPdf
from PIL import Image
from refmap.report import plots


def content_of(pdf):
    """All compressed streams of a PDF that are text."""
    streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf.read_bytes(), re.DOTALL)
    unpacked = []
    for stream in streams:
        try:
            unpacked.append(zlib.decompress(stream).decode("ascii"))
        except (zlib.error, UnicodeDecodeError):
            continue
    return "\n".join(unpacked)


@pytest.fixture
def page():
    page = plots.Page(2, 1)
    page.dot(np.array([[0.5, 0.25], [1.5, 0.75], [np.nan, 0.5]]), ["#ff0000", "#0000ff", "#00ff00"], size=400)
    page.dot(np.array([[1.0, 0.5]]), "#000000", size=100)
    return page


def test_dots_are_where_they_belong_in_a_png(page, tmp_path):
    plots.save_picture(page.finish(), tmp_path / "dots")
    pixels = np.asarray(Image.open(tmp_path / "dots.png").convert("RGB"))
    assert pixels.shape == (110, 220, 3)
    at = {(27, 55): (255, 0, 0), (82, 165): (0, 0, 255), (55, 110): (0, 0, 0), (5, 5): (255, 255, 255)}
    assert {place: tuple(pixels[place]) for place in at} == at
    # Each as wide as the root of its size, in points
    assert abs((pixels[27] == (255, 0, 0)).all(axis=1).sum() - 20 / 72 * 110) < 3
    assert not ((pixels[..., 1] > 200) & (pixels[..., 0] < 50)).any()  # no place, no dot


def test_a_pdf_has_all_dots_in_their_colours_and_places(page, tmp_path, monkeypatch):
    monkeypatch.setattr(RendererPdf, "draw_path_collection", lambda *args, **kwargs: pytest.fail("dot by dot"))
    plots.save_picture(page.finish(), tmp_path / "dots")
    found = re.findall(
        r"^(\S+) (\S+) (\S+) rg 1 0 0 1 (\S+) (\S+) cm /(\w+) Do$", content_of(tmp_path / "dots.pdf"), re.MULTILINE
    )
    assert [tuple(map(float, colors)) for *colors, _, _, _ in found] == [(1, 0, 0), (0, 0, 1), (0, 0, 0)]
    moves = np.array([[float(x), float(y)] for *_, x, y, _ in found])
    np.testing.assert_allclose(moves.cumsum(axis=0), [[36, 54], [108, 18], [72, 36]], atol=0.02)
    assert found[0][-1] == found[1][-1] != found[2][-1]


def test_many_dots_are_pixels_in_a_pdf(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "MOST_VECTOR_DOTS", 5)
    values = pd.Series(np.arange(6.0))
    plots.draw_cells([plots.Panel("numbers", values, np.random.default_rng(0).normal(size=(6, 2)))], "title", tmp_path / "cells")
    content = content_of(tmp_path / "cells.pdf")
    assert " rg 1 0 0 1 " not in content
    assert re.findall(r"/I\d Do", content) == ["/I1 Do", "/I2 Do"]  # the bar of colours, and all dots


@pytest.mark.parametrize("values", [[1.0, 1.0, 1.0], [0.0, 0.5, np.nan], [np.nan] * 3, [-1e9, 0, 1e9]])
def test_whatever_numbers_cells_have_are_drawn(tmp_path, values):
    plots.draw_cells([plots.Panel("numbers", pd.Series(values), np.eye(3)[:, :2])], "title", tmp_path / "cells")
    assert (tmp_path / "cells.png").stat().st_size and (tmp_path / "cells.pdf").stat().st_size


def test_a_picture_without_ink_is_white(tmp_path):
    from matplotlib.figure import Figure

    plots.save_png(Figure(figsize=(1, 1)), tmp_path / "white.png")
    assert (np.asarray(Image.open(tmp_path / "white.png").convert("RGB")) == 255).all()

"""What the files of pictures hold."""

import io
import re
import zlib

from fontTools.ttLib import TTFont
from refmap.report.plots import draw_history


def test_a_pdf_holds_the_glyphs_of_its_text_and_nothing_to_lay_it_out_by(tmp_path):
    draw_history({"elbo αβ": [(0, 1.0), (1, 2.0)]}, "lung/a", tmp_path / "training")
    streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", (tmp_path / "training.pdf").read_bytes(), flags=re.S)
    held = [unpacked(stream) for stream in streams]
    fonts = [TTFont(io.BytesIO(data)) for data in held if data[:4] == b"\0\1\0\0"]
    assert len(fonts) == 2  # one of them bold
    assert all("glyf" in font and {"GDEF", "GPOS", "GSUB"}.isdisjoint(font.keys()) for font in fonts)
    glyphs = set().union(*(font.getGlyphOrder() for font in fonts))
    assert {"alpha", "beta", "slash", "l", "u", "n", "g"} <= glyphs


def unpacked(stream: bytes) -> bytes:
    try:
        return zlib.decompress(stream)
    except zlib.error:
        return stream

"""Dots of as many colours as there are, as one artist of matplotlib; with this module matplotlib is imported."""

from __future__ import annotations

import numpy as np
from matplotlib.artist import allow_rasterization
from matplotlib.collections import PathCollection
from matplotlib.markers import MarkerStyle
from matplotlib.transforms import Affine2D, IdentityTransform


class Dots(PathCollection):
    """Opaque discs without an edge, in the coordinates of their axes.

    To a PDF they are written at once. For each of those of several colours matplotlib looks at all that may have changed since the one
    before, at 0.2 ms.

    Parameters
    ----------
    axis
        The axes that they are to be added to.
    at
        Where they are: n x 2.
    colors
        Of each: n x 4.
    sizes
        Of each the square of its diameter, in square points: n.
    rasterized
        Whether they are pixels in a PDF.
    """

    def __init__(self, axis, at: np.ndarray, colors: np.ndarray, sizes: np.ndarray, rasterized: bool):
        marker = MarkerStyle("o")
        path = marker.get_path().transformed(marker.get_transform())
        super().__init__(
            [path], sizes, offsets=at, offset_transform=axis.transData, facecolors=colors, linewidths=0, rasterized=rasterized
        )
        self.set_transform(IdentityTransform())

    @allow_rasterization
    def draw(self, renderer) -> None:
        if not hasattr(renderer, "file"):  # of a PDF, unless they are made pixels
            super().draw(renderer)
            return
        renderer.check_gc(renderer.new_gc())
        (disc,), sizes = self.get_paths(), self.get_sizes()
        names = {
            size: renderer.file.markerObject(
                disc, Affine2D().scale(np.sqrt(size)), fill=True, stroke=False, lw=0, joinstyle="round", capstyle="butt"
            ).name.decode()
            for size in np.unique(sizes)
        }
        moves = np.diff(self.get_offset_transform().transform(self.get_offsets()).round(2), axis=0, prepend=0)
        numbers = np.column_stack([self.get_facecolor()[:, :3], moves]).T.tolist()
        dots = map("{:.3g} {:.3g} {:.3g} rg 1 0 0 1 {:.2f} {:.2f} cm /{} Do\n".format, *numbers, map(names.get, sizes.tolist()))
        renderer.file.write(f"q\n{''.join(dots)}Q\n".encode())

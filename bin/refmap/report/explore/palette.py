"""The colours of the page: those of the pictures, and what becomes of them on a dark background."""

from __future__ import annotations

import numpy as np

from ...transfer.labels import UNKNOWN
from ..plots import FEW_COLORS, GREY, MANY_COLORS, UNKNOWN_COLOR, spread

# Backgrounds and missing cells, as in parts/explore.css.
DARK_BACKGROUND, DARK_GREY = "#16181c", "#4a4d52"
# Of a colour with the dark background. More would make the darkest of MANY_COLORS too much alike.
LEAST_CONTRAST = 2
RAMP_STOPS = 32
# Of cells without a value.
MISSING_COLORS = {"light": GREY, "dark": DARK_GREY}


def color_categories(names: list[str]) -> dict[str, list[str]]:
    """Return a colour of each category, on a light background and on a dark one: `Unknown` is grey whatever the others are."""
    others = iter(colors(len(names) - (UNKNOWN in names)))
    light = [UNKNOWN_COLOR if name == UNKNOWN else next(others) for name in names]
    return {"light": light, "dark": [visible(color) for color in light]}


def color_datasets(names: list[str], background: str | None) -> dict[str, list[str]]:
    """Return a colour of each dataset; that of the background is the grey of what is not looked at."""
    others = color_categories([name for name in names if name != background])
    return {
        theme: [grey if name == background else next(rest) for name in names]
        for theme, grey in MISSING_COLORS.items()
        for rest in [iter(others[theme])]
    }


def colors(n: int) -> list[str]:
    """Return the colours of `plots.draw_cells` for n categories; where it has no more, they come round again."""
    if n <= len(FEW_COLORS):
        return list(FEW_COLORS[:n])
    apart = spread(MANY_COLORS, n)
    return [apart[i % len(apart)] for i in range(n)]


def visible(color: str) -> str:
    """Return the colour to use on the dark background: mixed with white, the more the darker it is.

    The contrast goes from c to the root of c² + LEAST_CONTRAST²: enough for all, and two dark colours stay apart.
    """
    if color == "#000000":
        # Any mixture of it would be the grey of missing cells.
        return "#ffffff"
    rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
    enough = np.hypot(contrast(color, DARK_BACKGROUND), LEAST_CONTRAST)
    mixed = (_hex(np.round(rgb + (255 - rgb) * white).astype(int)) for white in np.linspace(0, 1, 101))
    return next((mix for mix in mixed if contrast(mix, DARK_BACKGROUND) >= enough), "#ffffff")


def _hex(rgb: np.ndarray) -> str:
    return "#" + "".join(f"{part:02x}" for part in rgb)


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours, 1 to 21, by https://www.w3.org/TR/WCAG21/#dfn-contrast-ratio."""
    dark, light = sorted(map(_luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def _luminance(color: str) -> float:
    rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def ramp() -> dict[str, list[str]]:
    """Return the stops of viridis, the pictures' scale of numbers; on a dark background from where it can be seen."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    stops = [to_hex(colormaps["viridis"](share)) for share in np.linspace(0, 1, RAMP_STOPS)]
    return {"light": stops, "dark": [stop for stop in stops if contrast(stop, DARK_BACKGROUND) >= LEAST_CONTRAST]}

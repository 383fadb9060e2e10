"""A page to look around in cells that lie in two dimensions: one HTML file that asks neither server nor network.

`page` writes it, by `columns` (what cells are coloured by), `expression` (genes), `density` (where there are too many cells) and
`palette`. What the browser runs lies in `parts`: the page, its style, and its script in the order of `page.SCRIPTS`.
"""

from .expression import Genes
from .page import write_page

__all__ = ["Genes", "write_page"]

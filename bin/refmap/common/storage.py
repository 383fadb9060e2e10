"""The one form in which AnnData passes between environments."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numcodecs
import zarr

# What passes between steps is read once: quick matters more than small.
COMPRESSOR = numcodecs.Blosc(cname="lz4", clevel=5, shuffle=numcodecs.Blosc.SHUFFLE)


def write_zarr(adata: ad.AnnData, path: Path) -> None:
    """Write zarr format 2 with plain strings, which anndata reads from 0.10 on."""
    if not hasattr(getattr(ad, "settings", None), "zarr_write_format"):  # before 0.12 there was no other form
        adata.write_zarr(path)
        return
    with ad.settings.override(zarr_write_format=2, allow_write_nullable_strings=False):
        adata.write_zarr(path)
    if adata.raw is None:  # which is said in a way that anndata before 0.11 cannot read
        root = zarr.open_group(path, use_consolidated=False)
        del root["raw"]
        zarr.consolidate_metadata(root.store)

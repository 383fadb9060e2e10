"""What passes between the environments."""

import anndata as ad
import numpy as np
import pandas as pd
import zarr
from refmap.common.storage import read_zarr, write_zarr


def test_no_raw_is_written_as_none(tmp_path):
    """anndata before 0.11 cannot read how later versions say so."""
    cells = pd.DataFrame({"label": pd.Categorical(["B", "T"])}, index=["a", "b"])
    adata = ad.AnnData(obs=cells, obsm={"X_emb": np.arange(4, dtype=np.float32).reshape(2, 2)})
    write_zarr(adata, tmp_path / "cells.zarr")
    for consolidated in (True, False):
        root = zarr.open_group(tmp_path / "cells.zarr", mode="r", use_consolidated=consolidated)
        assert "raw" not in root and "obsm" in root and root.metadata.zarr_format == 2
    read = ad.read_zarr(tmp_path / "cells.zarr")
    assert list(read.obs["label"]) == ["B", "T"] and (read.obsm["X_emb"] == adata.obsm["X_emb"]).all()


def test_raw_is_kept_where_there_is_one(tmp_path):
    adata = ad.AnnData(np.ones((2, 3), dtype=np.float32))
    adata.raw = adata.copy()
    write_zarr(adata, tmp_path / "cells.zarr")
    assert ad.read_zarr(tmp_path / "cells.zarr").raw.shape == (2, 3)


def test_names_with_slashes_pass_between_steps(tmp_path):
    names = ["Sample/Donor", "50%", "a%2Fb"]
    cells = pd.DataFrame({name: [1, 2] for name in names}, index=["a", "b"])
    adata = ad.AnnData(obs=cells, obsm={"x/y": np.ones((2, 1))}, uns={"Cell/Type_classes": np.array(["B", "T"], dtype=object)})
    write_zarr(adata, tmp_path / "cells.zarr")
    read = read_zarr(tmp_path / "cells.zarr")
    assert list(read.obs) == names and list(read.obsm) == ["x/y"] and list(read.uns) == ["Cell/Type_classes"]
    assert list(adata.obs) == names and list(adata.uns) == ["Cell/Type_classes"]

"""Where zarr writes to."""

import pytest
import zarr
from refmap.common import stores


@pytest.mark.parametrize("small", [True, False])
def test_a_small_store_is_there_whole_or_not_at_all(tmp_path, small):
    path = tmp_path / "out.zarr"
    with pytest.raises(OSError, match="the query broke off"), stores.new_store(path, small) as store:
        zarr.open_group(store, mode="w", zarr_format=2).create_group("obs")
        raise OSError("the query broke off")
    assert path.exists() != small


def test_small_is_what_files_and_folders_hold_together(tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "HELD", 120)
    (tmp_path / "query.zarr" / "X").mkdir(parents=True)
    for name in ("query.h5ad", "query.zarr/X/0"):
        (tmp_path / name).write_bytes(bytes(100))
    assert stores.is_small(tmp_path / "query.h5ad")
    assert not stores.is_small(tmp_path / "query.h5ad", tmp_path / "query.zarr")


def test_a_folder_with_links_is_small_only_where_it_is_known_what_they_lead_to(tmp_path):
    """Workflows link the parts of a zarr that they did not change; and Nextflow links all of it."""
    for name in ("first.zarr/X", "second.zarr"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "first.zarr/X/0").write_bytes(bytes(stores.HELD + 1))
    (tmp_path / "second.zarr/X").symlink_to("../first.zarr/X")
    (tmp_path / "third.zarr").mkdir()
    (tmp_path / "third.zarr/lost").symlink_to("nowhere")
    for name in ("first", "second", "third"):
        (tmp_path / f"staged_{name}").symlink_to(f"{name}.zarr")
        assert stores.is_small(tmp_path / f"{name}.zarr") == stores.is_small(tmp_path / f"staged_{name}") == (name == "third")

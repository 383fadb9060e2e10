"""Gene programmes from a GMT file."""

import numpy as np
import pytest
from refmap.common.errors import RefmapError
from refmap.families.gmt import programs_of, read_gmt


def write(path, text: str):
    path.write_bytes(text.encode("utf-8-sig"))
    return path


def test_programs_are_read_in_order_and_their_genes_once(tmp_path):
    path = write(tmp_path / "p.gmt", "T_CELL\thttps://a b\tCD3E\tCD3D\tCD3E\t\r\n\nB_CELL\t\tMS4A1\n")
    programs = read_gmt(path)
    assert programs == {"T_CELL": ["CD3E", "CD3D"], "B_CELL": ["MS4A1"]}
    assert list(programs) == ["T_CELL", "B_CELL"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A\tdescription\n", "gmt 'my.gmt' has no programme in line 1: it must hold a name, a description and genes"),
        ("A\td\tCD3E\n\tno name\tCD3D\n", "gmt 'my.gmt' has no programme in line 2"),
        ("A d CD3E CD3D\n", "gmt 'my.gmt' has no programme in line 1"),
        ("A\td\tCD3E\nA\td\tCD3D\n", "gmt 'my.gmt' has two programmes called 'A' (the second in line 2): rename one."),
        ("\n \n", "gmt 'my.gmt' holds no programme."),
    ],
    ids=["no genes", "no name", "no tabs", "twice", "empty"],
)
def test_what_is_no_gmt_file_is_said(text, message, tmp_path):
    with pytest.raises(RefmapError) as error:
        read_gmt(write(tmp_path / "p.gmt", text), "my.gmt")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_compressed_file_is_said(tmp_path):
    path = tmp_path / "p.gmt.gz"
    path.write_bytes(b"\x1f\x8b\x08\x00\xff\xfe")
    with pytest.raises(RefmapError, match="is no text: give a GMT file, uncompressed"):
        read_gmt(path)


def test_genes_are_found_whatever_their_case():
    names, members = programs_of(
        ["Cd3e", "MS4A1", "LYZ"], {"T": ["CD3E", "CD3D"], "all": ["lyz", "ms4a1", "cd3e"], "none": ["X"]}
    )
    assert names == ["T", "all", "none"] and members.dtype == bool
    np.testing.assert_array_equal(members, [[True, False, False], [True, True, True], [False, False, False]])
    assert programs_of(["A"], {})[1].shape == (0, 1)

"""What a file of safetensors holds is told by its header; one that is damaged, or claims more than it has, is a sentence."""

import json

import pytest
from refmap.common.errors import RefmapError
from refmap.models.safetensors import shapes

HEADER = {
    "__metadata__": {"format": "pt"},
    "weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "half": {"dtype": "F16", "shape": [4], "data_offsets": [24, 32]},
}


def write(path, header, n_bytes=32):
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(n_bytes))
    return path


def test_the_shapes_are_those_of_the_header(tmp_path):
    assert shapes(write(tmp_path / "m", HEADER), "m") == {"weight": (2, 3), "half": (4,)}


def test_a_truncated_file_is_a_sentence(tmp_path):
    data = write(tmp_path / "m", HEADER).read_bytes()
    for end in range(len(data)):
        (tmp_path / "m").write_bytes(data[:end])
        with pytest.raises(RefmapError, match="x/m is truncated or no file of safetensors: copy it again"):
            shapes(tmp_path / "m", "x/m")


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [10**6, 3]},
        {"shape": [-2, -3]},
        {"shape": None},
        {"dtype": "F8"},
        {"data_offsets": [8, 40]},
        {"data_offsets": [-24, 0]},
    ],
    ids=str,
)
def test_what_claims_more_than_there_is_is_refused(tmp_path, change):
    header = HEADER | {"weight": HEADER["weight"] | change}
    with pytest.raises(RefmapError, match="no file of safetensors"):
        shapes(write(tmp_path / "m", header), "m")
    with pytest.raises(RefmapError, match="no file of safetensors"):
        shapes(write(tmp_path / "m", ["weight"]), "m")

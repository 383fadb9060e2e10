"""The inert pickle reader: it gives what a pickle holds, names what it would import, and never runs it."""

import collections
import io
import os
import pickle
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
import tensor_pickles
from hypothesis import given, settings
from hypothesis import strategies as st
from refmap.common.errors import RefmapError
from refmap.models.pickles import Inert, Named, Tensor, allowed_pickle, read_pickle, read_torch
from refmap.models.pickles.machine import Machine
from tensor_pickles import TensorOf, storage_bytes

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
MAGIC = 0x1950A86A20F9469CFC6C


def write(path, data):
    path.write_bytes(data)
    return path


def torch_zip(path, data, name="model/data.pkl", compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(name, data)
        archive.writestr("model/version", "3\n")
    return path


def torch_legacy(path, *objects):
    """torch's format before 1.6: magic number, protocol, machine, the object, keys of storages; numbers follow."""
    head = [pickle.dumps(value, 2) for value in (MAGIC, 1001, {"little_endian": True})]
    return write(path, b"".join([*head, *objects, pickle.dumps([], 2)]) + b"\x07" * 40)


def read_bytes(folder, data):
    return read_pickle(write(folder / "a.pkl", data))


# ------------------------------------------------------------------------------------------------------------ plain values

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
hashables = st.recursive(scalars, lambda inner: st.tuples(inner, inner), max_leaves=4)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner, inner, inner)
        | st.dictionaries(hashables, inner)
        | st.sets(hashables)
        | st.frozensets(hashables)
    ),
)


@settings(deadline=None, max_examples=60)
@given(value=values, protocol=st.sampled_from(PROTOCOLS))
def test_plain_values_come_back_from_every_protocol(tmp_path_factory, value, protocol):
    contents = read_pickle(write(tmp_path_factory.getbasetemp() / "any.pkl", pickle.dumps(value, protocol)))
    assert contents.value == value
    assert type(contents.value) is type(value)
    assert contents.refused == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_shared_and_standard_containers(tmp_path, protocol):
    shared = ["x"]
    value = {
        "twice": [shared, shared],
        "ordered": collections.OrderedDict([("b", 1), ("a", 2)]),
        "default": collections.defaultdict(dict, {"k": {"v": 1}}),
        "slice": slice(1, 7, 2),
        "range": range(3),
        "complex": 1 + 2j,
        "bytearray": bytearray(b"\x00\xffab"),
        "long": 2**300,
        "text": "naïve \n 基因 \U0001f9ec",
    }
    contents = read_bytes(tmp_path, pickle.dumps(value, protocol))
    assert contents.value == value
    assert list(contents.value["ordered"]) == ["b", "a"]
    assert contents.value["twice"][0] is contents.value["twice"][1]
    assert contents.refused == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "array",
    [
        np.array(["CD3E", "MS4A1", "naïve"], dtype=object),
        np.array(["CD3E", "MS4A1"]),
        np.array([b"ab", b"c"]),
        np.arange(6, dtype=np.int64).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        np.array([True, False]),
        np.array([1.5, -2], dtype=">f8"),
        np.array(7, dtype=np.uint16),
        np.zeros((0, 4)),
        np.array([["a", None], [1, 2.5]], dtype=object),
    ],
    ids=lambda array: f"{array.dtype.str}{array.shape}",
)
def test_arrays_are_decoded(tmp_path, array, protocol):
    contents = read_bytes(tmp_path, pickle.dumps({"x": array, "again": array}, protocol))
    decoded = contents.value["x"]
    assert isinstance(decoded, np.ndarray) and decoded.dtype == array.dtype and decoded.shape == array.shape
    np.testing.assert_array_equal(decoded, array)
    assert contents.value["again"] is decoded
    assert [name for name in contents.refused if "copyreg" not in name] == []


@pytest.mark.parametrize("number", [np.float32(1.5), np.int64(-3), np.bool_(True), np.str_("x")])
def test_numpy_numbers_are_decoded(tmp_path, number):
    contents = read_bytes(tmp_path, pickle.dumps(number))
    assert contents.value == number
    assert contents.value.dtype == number.dtype
    assert contents.refused == []


def test_tables_stay_inert_and_are_allowed(tmp_path):
    pd = pytest.importorskip("pandas")
    table = pd.DataFrame({"elbo": [1.0, 2.0]}, index=pd.RangeIndex(2, name="epoch"))
    contents = read_bytes(tmp_path, pickle.dumps({"obs_metadata_": table}))
    assert isinstance(contents.value["obs_metadata_"], Inert)
    assert contents.refused == []
    assert any(name.startswith("pandas") for name in contents.names)


def test_a_table_of_pandas_1_3_is_allowed(tmp_path):
    """It wrote each block as `partial(new_block, ndim=2)(values, places)`."""
    partial = b"cfunctools\npartial\n(cpandas.core.internals.blocks\nnew_block\ntR"
    state = b"(cpandas.core.internals.blocks\nnew_block\n)(Vndim\nI2\ndNtb"
    contents = read_bytes(tmp_path, partial + state + b"(VX\ncbuiltins\nslice\n(I0\nI1\nI1\ntRtR.")
    assert contents.refused == [] and contents.value.args == ("X", slice(0, 1, 1))


def test_arrow_texts_are_decoded_and_checked(tmp_path):
    pa = pytest.importorskip("pyarrow")
    texts = pa.array(["CD3E", "", "naïve", "MS4A1"], pa.large_string())
    for array in (texts, texts[1:3], pa.chunked_array([texts, texts[2:]])):
        contents = read_bytes(tmp_path, pickle.dumps(array))
        assert contents.value == array.to_pylist()
        assert contents.refused == []
    offsets = np.array([0, 4, 4, 10, 15]).tobytes()
    honest = pickle.dumps(texts)
    assert offsets in honest
    for forged in ([0, 4, 4, 10, 1000], [-9, 4, 4, 10, 15], [0, 4, 2, 10, 15]):
        hostile = honest.replace(offsets, np.array(forged).tobytes())
        refused = read_bytes(tmp_path, hostile).refused
        assert refused == ["pyarrow.lib._restore_array (with arguments that it is never saved with)"]


# ------------------------------------------------------------------------------------------------------------ torch's files


def tensor_pickle():
    """`{'w': a tensor of 3 x 4 floats}` as torch pickles it."""
    return (
        b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
        b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x0ctQK\x00(K\x03K\x04t(K\x04K\x01t\x89ccollections\nOrderedDict\n)RtRs."
    )


def test_tensors_are_described_by_shape(tmp_path):
    expected = {"w": Tensor("Float", (3, 4))}
    for contents in (
        read_torch(torch_zip(tmp_path / "new.pt", tensor_pickle())),
        read_torch(torch_legacy(tmp_path / "old.pt", tensor_pickle())),
    ):
        assert contents.value == expected
        assert contents.refused == []
        assert contents.names == ["collections.OrderedDict", "torch.FloatStorage", "torch._utils._rebuild_tensor_v2"]


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda data: data[: len(data) // 2], "truncated or no file of torch.save"),
        (lambda data: b"", "damaged or no pickle"),
        (lambda data: b"\x01" * 3000, "damaged or no pickle"),
        (lambda data: b"hello, this is a text file\n", "damaged or no pickle"),
        (lambda data: data + b"trailing", "before or behind its zip"),
    ],
)
def test_damaged_files_give_a_sentence_with_their_name(tmp_path, spoil, message):
    path = torch_zip(tmp_path / "model.pt", tensor_pickle())
    write(path, spoil(path.read_bytes()))
    with pytest.raises(RefmapError, match=message) as error:
        read_torch(path, "models/lung/model.pt")
    assert "models/lung/model.pt" in str(error.value)


def test_every_truncation_of_a_pickle_is_a_sentence(tmp_path):
    data = pickle.dumps({"a": [1, "two", np.array(["x"], dtype=object)]}, 4)
    for end in range(len(data)):
        with pytest.raises(RefmapError, match="damaged or no pickle"):
            read_bytes(tmp_path, data[:end])


@settings(deadline=None)
@given(data=st.binary(max_size=60))
def test_random_bytes_are_a_value_or_a_sentence(tmp_path_factory, data):
    path = write(tmp_path_factory.getbasetemp() / "random.pkl", b"\x80\x04" + data)
    try:
        read_pickle(path)
    except RefmapError as error:
        assert str(path) in str(error)


def test_claims_beyond_the_file_allocate_nothing(tmp_path):
    huge = struct.pack("<Q", 2**62)
    for opcode in (b"\x8e", b"\x8d", b"\x96"):  # BINBYTES8, BINUNICODE8, BYTEARRAY8
        with pytest.raises(RefmapError, match="damaged"):
            read_bytes(tmp_path, b"\x80\x05" + opcode + huge + b"x.")
    many = b"\x80\x02c__builtin__\nlist\nc__builtin__\nrange\n\x8a\x05\x00\x00\x00\x00\x7f\x85R\x85R."
    assert read_bytes(tmp_path, many).refused == [
        f"__builtin__.{name} (with arguments that it is never saved with)" for name in ("list", "range")
    ]
    filled = b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\x00\x00\x00\x00\x7f\x85R."
    assert read_bytes(tmp_path, filled).refused == ["builtins.bytearray (with arguments that it is never saved with)"]


def test_a_zip_bomb_is_refused(tmp_path):
    path = torch_zip(tmp_path / "model.pt", b"\x80\x02]" + b"N" * 10**6, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(RefmapError, match="compressed or claims more"):
        read_torch(path)


def short(word):
    return b"\x8c" + bytes([len(word)]) + word.encode()


def _named(module, name):
    return short(module) + short(name) + b"\x93"


@pytest.mark.parametrize(
    "data, wants",
    [
        # dtype.__new__(dtype, 'V8', copy=True): made by keywords, its state went unseen
        (_named("numpy", "dtype") + short("V8") + b"\x85}" + short("copy") + b"\x88s\x92.", "numpy.dtype (with keywords)"),
        # ndarray.__new__(ndarray, (0,)), then a state
        (_named("numpy", "ndarray") + b"K\x00\x85\x85\x81N\x85b.", "numpy.ndarray (with arguments"),
    ],
    ids=["keywords", "new array"],
)
def test_numpy_is_built_only_as_numpy_pickles_itself(tmp_path, data, wants):
    refused = read_bytes(tmp_path, b"\x80\x04" + data).refused
    assert refused[0].startswith(wants)


def test_an_array_is_built_once(tmp_path):
    """Built a second time, it would change beneath what was checked in between."""
    array = np.array([0, 4])
    once, state = pickle.dumps(array, 2), pickle.dumps(array.__reduce__()[2], 2)[2:-1]
    assert read_bytes(tmp_path, once).refused == []
    (refused,) = read_bytes(tmp_path, once[:-1] + state + b"b.").refused
    assert "with a state that it is never saved with" in refused


def test_the_second_lock_lets_nothing_else_in(marker):
    """A file that got past inspection still cannot import what is not allowed."""
    with pytest.raises(pickle.UnpicklingError, match="it wants"):
        allowed_pickle().loads(marker.attack)
    assert not marker.path.exists()
    np.testing.assert_array_equal(allowed_pickle().loads(pickle.dumps(np.arange(3))), [0, 1, 2])


# --------------------------------------------------------------- a file that two readers would read in two different ways


def test_a_zip_behind_a_pickle_is_read_as_torch_reads_it(tmp_path, marker):
    """torch looks at the first bytes; Python's zipfile would find the harmless zip at the end."""
    path = torch_zip(tmp_path / "model.pt", tensor_pickle())
    write(path, marker.attack + path.read_bytes())
    assert read_torch(path).refused == [marker.wants]


def test_a_zip_with_a_shifted_directory_is_refused(tmp_path):
    harmless = torch_zip(tmp_path / "a.pt", tensor_pickle()).read_bytes()
    path = write(tmp_path / "model.pt", b"PK\x03\x04" + b"\0" * 60 + harmless)
    with pytest.raises(RefmapError, match="before or behind its zip|truncated or no file"):
        read_torch(path)


def test_a_zip_with_a_second_directory_behind_its_locator_is_refused(tmp_path, marker):
    """Python reads the directory that the end names; torch follows the zip64 locator to the one in a member's comment."""

    def record(data, name=b"model/data.pkl"):
        return (
            struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, 33, zlib.crc32(data), len(data), len(data), len(name), 0)
            + name
            + data
        )

    def entry(data, offset, comment=b"", name=b"model/data.pkl"):
        sizes = (zlib.crc32(data), len(data), len(data), len(name), 0, len(comment), 0, 0, 0, offset)
        return struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 0, 0, 33, *sizes) + name + comment

    harmless, files = tensor_pickle(), record(tensor_pickle()) + record(marker.attack)
    hidden = entry(marker.attack, len(record(harmless)))
    where = len(files) + len(entry(harmless, 0))
    end64 = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, len(hidden), where)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, where + len(hidden), 1)
    directory = entry(harmless, 0, comment=hidden + end64 + b"\0" * 8 + locator)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(directory), len(files), 0)
    path = write(tmp_path / "model.pt", files + directory + end)
    with zipfile.ZipFile(path) as archive:
        assert archive.read("model/data.pkl") == harmless
    with pytest.raises(RefmapError, match="other data before or behind its zip"):
        read_torch(path)


@pytest.mark.parametrize("second", ["MODEL/DATA.PKL", "other/data.pkl", "model/constants.pkl"])
def test_a_zip_with_a_second_program_is_refused(tmp_path, second):
    path = torch_zip(tmp_path / "model.pt", tensor_pickle())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(second, b"N.")
    with pytest.raises(RefmapError, match="holds a program|no file of torch.save"):
        read_torch(path)


def test_a_tar_is_refused(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"), io.BytesIO(b""))
    with pytest.raises(RefmapError, match="tar file"):
        read_torch(write(tmp_path / "model.pt", buffer.getvalue()))


# ------------------------------------------------------------------------------------------------------------- hostile files


class Marker:
    """A pickle that touches a file when it is run."""

    wants = f"{os.system.__module__}.system"

    def __init__(self, path):
        self.path = path
        self.attack = pickle.dumps(self, 2)

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


@pytest.fixture
def marker(tmp_path):
    marker = Marker(tmp_path / "executed")
    yield marker
    assert not marker.path.exists()


def test_the_attack_would_work(tmp_path):
    """What the tests below rest on: a real unpickler runs it."""
    marker = Marker(tmp_path / "executed")
    pickle.loads(marker.attack)
    assert marker.path.exists()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_attack_is_named_and_not_run(tmp_path, marker, protocol):
    attack = pickle.dumps({"registry_": [1, (marker,)]}, protocol)
    assert read_pickle(write(tmp_path / "attr.pkl", attack)).refused == [marker.wants]
    assert read_torch(torch_zip(tmp_path / "new.pt", attack)).refused == [marker.wants]
    assert read_torch(torch_legacy(tmp_path / "old.pt", attack)).refused == [marker.wants]
    assert read_torch(write(tmp_path / "plain.pt", attack)).refused == [marker.wants]


RELU = "torch.nn.modules.activation.ReLU"
ACTIVATION = b"\x80\x04ctorch.nn.modules.activation\nReLU\n)\x81"

HOSTILE = {
    "GLOBAL": (b"cos\nsystem\n(S'true'\ntR.", ["os.system"]),
    "INST": (b"(S'true'\nios\nsystem\n.", ["os.system"]),
    "OBJ": (b"(cos\nsystem\nS'true'\no.", ["os.system"]),
    "NEWOBJ": (b"\x80\x02csubprocess\nPopen\nX\x04\x00\x00\x00true\x85\x81.", ["subprocess.Popen"]),
    "NEWOBJ_EX": (b"\x80\x04" + short("subprocess") + short("Popen") + b"\x93)}\x92.", ["subprocess.Popen"]),
    # the names of STACK_GLOBAL taken from the memo, where they lie among others
    "memo": (
        b"\x80\x04" + short("system") + b"\x94" + short("os") + b"\x94" + short("x") + b"\x94000h\x01h\x00\x93"
        + short("true") + b"\x85R.",
        ["os.system"],
    ),
    "never called": (b"\x80\x02cbuiltins\neval\n0N.", ["builtins.eval"]),
    "python 2": (b"c__builtin__\neval\n(S'1'\ntR.", ["__builtin__.eval"]),
    "getattr": (b"cbuiltins\ngetattr\n(cnumpy\nndarray\nS'tofile'\ntR.", ["builtins.getattr"]),
    "attribute of an allowed class": (
        b"\x80\x04" + short("numpy") + short("ndarray.tofile") + b"\x93.",
        ["numpy.ndarray.tofile"],
    ),
    "allowed name, divided otherwise": (
        b"\x80\x04" + short("torch") + short("_utils._rebuild_tensor_v2") + b"\x93.",
        ["torch._utils._rebuild_tensor_v2"],
    ),
    "lookalike": (b"cnumpy.core.multiarray.os\nsystem\n(tR.", ["numpy.core.multiarray.os.system"]),
    "lookalike name": (
        b"cnumpy.core.multiarray\n_reconstruct.__globals__\n(tR.",
        ["numpy.core.multiarray._reconstruct.__globals__"],
    ),
    "bytes that are unpickled": (
        b"ctorch.storage\n_load_from_bytes\n(S'x'\ntR.",
        ["torch.storage._load_from_bytes (with arguments that it is never saved with)"],
    ),
    "pickle in a pickle": (b"c_pickle\nloads\n(S'x'\ntR.", ["_pickle.loads"]),
    "partial": (
        b"cfunctools\npartial\n(cbuiltins\neval\ntR.",
        ["builtins.eval", "functools.partial (with arguments that it is never saved with)"],
    ),
    "partial, built": (
        b"cfunctools\npartial\n(cpandas.core.internals.blocks\nnew_block\ntR(cpandas\nDataFrame\n)NNtb.",
        ["functools.partial (with a state that it is never saved with)"],
    ),
    "attrgetter": (b"coperator\nattrgetter\n(S'x'\ntR.", ["operator.attrgetter"]),
    "result that is called": (b"coperator\nmethodcaller\n(S'x'\ntR(tR.", ["operator.methodcaller"]),
    "extension": (b"\x80\x02\x82\x01.", ["copyreg extension.1"]),
    "a codec but latin-1": (
        b"c_codecs\nencode\n(Vx\nVzip\ntR.",
        ["_codecs.encode (with arguments that it is never saved with)"],
    ),
    # numpy would take the bytes for pointers if the state of an object dtype said that it holds none
    "forged dtype": (
        b"cnumpy\ndtype\n(VO8\nI00\nI01\ntR(I3\nV|\nNNNI-1\nI-1\nI0\ntb.",
        ["numpy.dtype (with a state that it is never saved with)"],
    ),
    # Each of these would make a dtype or an array that nothing has checked, by names that are all allowed.
    "an instance that is called": (
        ACTIVATION + b"}X\x07\x00\x00\x00forwardcnumpy\ndtype\nsb(X\x02\x00\x00\x00O8\x89\x88tR.",
        [f"{RELU} (with a state that it is never saved with)", f"{RELU} (with arguments that it is never saved with)"],
    ),
    "a hook that comes later": (
        ACTIVATION + b"}q\x00(X\x0e\x00\x00\x00_forward_hooks}q\x01ubh\x01K\x00cnumpy\ndtype\ns0.",
        [f"{RELU} (with a state that it is never saved with)"],
    ),
    "an attribute that is called": (
        ACTIVATION + b"}X\x06\x00\x00\x00appendcnumpy\ndtype\nsbX\x02\x00\x00\x00O8a.",
        [f"{RELU} (with a state that it is never saved with)", f"{RELU} (with items that it is never saved with)"],
    ),
    "an attribute of a dictionary that is called": (
        b"\x80\x04ccollections\nOrderedDict\n)R}X\x03\x00\x00\x00addcnumpy\ndtype\nsb.",
        ["a dictionary (with a state that it is never saved with)"],
    ),
    "a dtype that is made as an index": (
        b"cpandas.core.indexes.base\n_new_Index\n(cnumpy\ndtype\n(dVdtype\nVO8\nsVcopy\nI01\nstR.",
        ["pandas.core.indexes.base._new_Index (with arguments that it is never saved with)"],
    ),
    "an array that is called": (
        b"cnumpy\nndarray\n((I1\ntVf8\nS'12345678'\ntR.",
        ["numpy.ndarray (with arguments that it is never saved with)"],
    ),
    "a number that is called": (
        b"cnumpy\nint8\n((I1\nI2\nttR.",
        ["numpy.int8 (with arguments that it is never saved with)"],
    ),
    "a table that is made of another": (
        b"cpandas\nDataFrame\n(cpandas\nDataFrame\n)RtR.",
        ["pandas.DataFrame (with arguments that it is never saved with)"],
    ),
    "a state twice": (
        b"cpandas\nDataFrame\n)R(dVa\nI1\nsb(dVa\nI2\nsb.",
        ["pandas.DataFrame (with a state that it is never saved with)"],
    ),
    "patched class": (
        b"\x80\x02cpandas\nDataFrame\nN}X\x08\x00\x00\x00__init__cpandas\nSeries\ns\x86b.",
        ["pandas.DataFrame (with a state that it is never saved with)"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("data, refused", HOSTILE.values(), ids=HOSTILE)
def test_every_way_to_name_a_function_is_seen(tmp_path, data, refused):
    assert read_bytes(tmp_path, data).refused == refused


# ------------------------------------------------------------------------------------------- a tensor's bytes within a pickle

ODD_BYTES = "torch.storage._load_from_bytes (with arguments that it is never saved with)"


def test_a_tensor_in_a_plain_pickle_is_described(tmp_path):
    contents = read_bytes(tmp_path, tensor_pickles.dumps({"mean": TensorOf(storage_bytes()), "cov": None}))
    assert contents.value == {"mean": Tensor("Float", (3, 4)), "cov": None}
    assert contents.refused == []
    assert contents.names == [
        "collections.OrderedDict",
        "torch.FloatStorage",
        "torch._utils._rebuild_tensor_v2",
        "torch.storage._load_from_bytes",
    ]


@pytest.mark.parametrize("place", tensor_pickles.PLACES)
def test_an_attack_in_the_bytes_of_a_tensor_is_refused(tmp_path, marker, place):
    pickled = tensor_pickles.dumps({"prototypes_labeled_": {"mean": TensorOf(tensor_pickles.hide(marker.attack, place))}})
    refused = read_bytes(tmp_path, pickled).refused
    assert ODD_BYTES in refused
    # Bytes that begin otherwise than torch's are not looked into.
    assert (marker.wants in refused) == (place != "the head")


@pytest.mark.parametrize("form", tensor_pickles.OTHER_FORMS)
def test_bytes_of_another_form_are_no_tensor(tmp_path, form):
    """Of the forms that `torch.load` takes, a pickled storage has one; a zip of TorchScript would be a program."""
    pickled = tensor_pickles.dumps(TensorOf(tensor_pickles.OTHER_FORMS[form]))
    assert read_bytes(tmp_path, pickled).refused == [ODD_BYTES]


def test_bytes_that_are_given_often_are_looked_into_once(tmp_path, monkeypatch):
    loaded = []
    load = Machine.load
    monkeypatch.setattr(Machine, "load", lambda self, stream: loaded.append(self) or load(self, stream))
    data = storage_bytes()
    assert read_bytes(tmp_path, tensor_pickles.dumps([TensorOf(data) for _ in range(40)])).refused == []
    assert len(loaded) == 1 + 5


def test_an_activation_is_allowed(tmp_path):
    hooks = collections.OrderedDict()
    state = {"training": True, "_parameters": {}, "_forward_hooks": hooks, "_non_persistent_buffers_set": set(), "inplace": False}
    plain = pickle.dumps(state, 4)[:-1].removeprefix(b"\x80\x04")
    contents = read_bytes(tmp_path, ACTIVATION + plain + b"b.")
    assert contents.refused == [] and contents.value.state == state


def test_names_are_kept_as_values(tmp_path):
    contents = read_bytes(tmp_path, b"\x80\x02ctorch.nn.modules.activation\nReLU\n.")
    assert isinstance(contents.value, Named) and str(contents.value) == "torch.nn.modules.activation.ReLU"
    assert contents.refused == []

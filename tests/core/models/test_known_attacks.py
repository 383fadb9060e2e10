"""What is known to be done to those who load models: every kind of it is refused by its name, and nothing of it is run."""

import os
import pickle
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from refmap.common.errors import RefmapError
from refmap.models.pickles import allowed_pickle, read_pickle, read_torch
from refmap.reference.inspection import inspect_model

# Functions and classes by which pickles were seen to run code, write files or call out, and those by which they hid it.
NAMES = """
__builtin__ eval exec compile apply getattr globals open breakpoint execfile
builtins eval exec compile getattr setattr open breakpoint __import__ type object map filter vars input delattr
os system popen execv spawnlp remove putenv
posix system popen
nt system
subprocess run Popen call check_output getoutput
_posixsubprocess fork_exec
commands getoutput
pty spawn
sys exit settrace modules.get
socket create_connection socket
ssl get_server_certificate
httplib HTTPSConnection
http.client HTTPSConnection
urllib.request urlopen
urllib2 urlopen
requests.api get
aiohttp.client ClientSession
smtplib SMTP
ftplib FTP
imaplib IMAP4_stream
webbrowser open
asyncio create_subprocess_shell
multiprocessing.util spawnv_passfds
runpy _run_code run_path
code InteractiveInterpreter.runcode interact
codeop compile_command
timeit timeit
trace Trace.run Trace.runctx
profile run runctx Profile.run Profile.runctx
cProfile run runctx
pdb run
bdb Bdb.run
doctest debug_script
unittest.mock _importer
test.support.script_helper assert_python_ok
pydoc locate pipepager
pkgutil resolve_name
importlib import_module reload
importlib.machinery SourceFileLoader
_frozen_importlib _gcd_import
zipimport zipimporter
ensurepip _run_pip
pip main
pip._internal main
venv create
operator attrgetter methodcaller itemgetter
_operator attrgetter methodcaller itemgetter
functools reduce partialmethod
types CodeType FunctionType
marshal loads
pickle loads load Unpickler
_pickle loads load Unpickler
dill loads
dill._dill _create_function
cloudpickle.cloudpickle _make_function _make_cell _builtin_type _function_setstate subimport
joblib load
shelve open
copyreg _reconstructor add_extension
copy_reg _reconstructor
ctypes CDLL
_ctypes dlopen
_io FileIO open
io open
pathlib Path.unlink PosixPath
shutil rmtree move
tempfile mktemp
distutils.file_util write_file
logging FileHandler
logging.config listen
sqlite3 connect
mmap mmap
signal alarm
threading Thread
_thread start_new_thread
atexit register
uuid _get_command_stdout
_osx_support _read_output
_aix_support _read_cmd_output
_pyrepl.pager pipe_pager
lib2to3.pgen2.grammar Grammar.loads
lib2to3.pgen2.pgen ParserGenerator.make_label
idlelib.pyshell ModifiedInterpreter.runcode ModifiedInterpreter.runcommand
idlelib.run Executive.runcode
idlelib.calltip Calltip.fetch_tip get_entity
idlelib.autocomplete AutoComplete.get_entity AutoComplete.fetch_completions
idlelib.debugobj ObjectTreeItem.SetText
numpy load save fromfile memmap
numpy.core.multiarray fromfile frombuffer
numpy.testing._private.utils runstring
numpy.f2py.crackfortran getlincoef _eval_length
numpy.f2py.diagnose run_command
pandas read_pickle eval read_csv
pandas.io.pickle read_pickle
pandas.core.computation.eval eval
torch load save compile
torch.serialization load
torch.hub load
torch.jit load
torch._C import_ir_module
torch._dynamo.guards GuardBuilder.get
torch._inductor.codecache compile_file
torch.fx.experimental.symbolic_shapes ShapeEnv.evaluate_guards_expression
torch.jit.unsupported_tensor_ops execWrapper
torch.utils._config_module ConfigModule.load_config
torch.utils.bottleneck.__main__ run_cprofile run_autograd_prof
torch.utils.collect_env run run_and_read_all
torch.utils.data.datapipes.utils.decoder basichandlers
torch.nn.modules.module Module.__setattr__
anndata read_h5ad
scvi.model SCVI.load
sklearn.externals.joblib load
keras.models load_model
tensorflow.io read_file write_file
nltk.data load
site main
linecache getlines
fileinput input
glob glob
inspect getsource
gc get_objects
"""
PAIRS = [(module, name) for module, *names in map(str.split, NAMES.strip().splitlines()) for name in names]


def short(text):
    data = text.encode()
    return b"\x8c" + bytes([len(data)]) + data


def ways(module, name):
    """The name in the opcodes that can ask for it, called as far as they do."""
    text = f"{module}\n{name}\n".encode()
    argument = b"(X\x04\x00\x00\x00true"
    yield b"c" + text + argument + b"tR."
    yield b"(X\x04\x00\x00\x00truei" + text + b"."
    yield b"(c" + text + b"X\x04\x00\x00\x00trueo."
    yield b"\x80\x04" + short(module) + short(name) + b"\x93" + short("true") + b"\x85R."
    yield b"\x80\x04" + short(module) + b"\x94" + short(name) + b"\x9400h\x00h\x01\x93" + short("true") + b"\x85\x81."
    yield b"\x80\x02]c" + text + b"}b0N."  # changed, thrown away, and none of what is loaded


@pytest.mark.parametrize("module, name", PAIRS, ids=[".".join(pair) for pair in PAIRS])
def test_a_dangerous_name_is_refused_however_it_is_asked_for(tmp_path, module, name):
    path = tmp_path / "attr.pkl"
    for data in ways(module, name):
        path.write_bytes(data)
        refused = read_pickle(path).refused
        assert [use for use in refused if use.split(" (")[0] == f"{module}.{name}"] == refused[:1]
        with pytest.raises((pickle.UnpicklingError, TypeError, AttributeError), match="it wants|BUILD|state|bytes|no attribute"):
            allowed_pickle().loads(data)


CALL = b"cos\nsystem\n(X\x04\x00\x00\x00truetR"
OTHER_WAYS = {
    # names taken from places of the memo that were never filled, or hold no text
    "an empty memo": (b"\x80\x04h\x07" + short("system") + b"\x93" + short("true") + b"\x85R.", None),
    "a name that is a number": (b"\x80\x04K\x2a" + short("os") + b"\x93.", None),
    # what is broken behind the attack would have run by then
    "cut short behind a call": (CALL, None),
    "an unknown opcode behind a call": (CALL + b"\xff.", None),
    "an empty stack behind a call": (CALL + b"00000.", None),
    "two protocols": (b"\x80\x02\x80\x04" + CALL + b"\x80\x02.", "os.system"),
    "a frame that lies": (b"\x80\x04\x95\x03\x00\x00\x00\x00\x00\x00\x00" + CALL + b".", "os.system"),
    "behind the end": (b"\x80\x02}." + CALL + b".", ()),
    "an extension": (b"\x80\x02\x84\x01\x00\x00\x00.", "copyreg extension.1"),
    "a persistent id": (b"\x80\x02" + CALL + b"Q.", "os.system"),
    "a factory": (b"ccollections\ndefaultdict\n(cos\nsystem\ntR.", "os.system"),
    "a class's attribute": (b"\x80\x04" + short("builtins") + short("str.__class__.__base__") + b"\x93.", "builtins.str"),
    "partial": (b"cfunctools\npartial\n(cos\nsystem\nX\x04\x00\x00\x00truetR(tR.", "functools.partial (with arguments"),
    "a line's end within a name": (b"\x80\x04" + short("os\nsystem") + short("x") + b"\x93.", "os\nsystem.x"),
    "letters that look alike": (b"\x80\x04" + short("nump\u0443") + short("dtype") + b"\x93.", "nump\u0443.dtype"),
}


@pytest.mark.parametrize("data, wants", OTHER_WAYS.values(), ids=OTHER_WAYS)
def test_other_ways_are_refused_or_damaged(tmp_path, data, wants):
    path = tmp_path / "attr.pkl"
    path.write_bytes(data)
    if wants is None:
        with pytest.raises(RefmapError, match="damaged"):
            read_pickle(path)
    elif wants:
        assert read_pickle(path).refused[0].startswith(wants)
    else:  # no pickle's reader goes on behind its end
        assert read_pickle(path).refused == [] and allowed_pickle().loads(data) == {}


def test_torch_s_magic_number_as_a_call(tmp_path):
    """A scanner that looks for the number takes the file for one pickle; a loader goes on."""
    magic = b"\x80\x02c__builtin__\neval\n(X\x16\x00\x00\x000x1950A86A20F9469CFC6CtR."
    rest = [pickle.dumps(1001, 2), pickle.dumps({"little_endian": True}, 2), b"\x80\x02" + CALL + b".", pickle.dumps([], 2)]
    path = tmp_path / "model.pt"
    path.write_bytes(b"".join([magic, *rest]))
    assert read_torch(path).refused == ["__builtin__.eval"]


def zipped(data, **entry):
    """A zip of torch.save whose directory says something else than the member itself."""
    name = b"model/data.pkl"
    crc, flags, method = entry.get("crc", zlib.crc32(data)), entry.get("flags", 0), entry.get("method", 0)
    size = entry.get("size", len(data))
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, entry.get("local_flags", 0), 0, 0, 33, crc, size, size, len(name), 0)
    local += entry.get("local_name", name) + data
    central = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, flags, method, 0, 33, crc, size, size, len(name), *bytes(6))
    central += name
    return local + central + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(central), len(local), 0)


@pytest.mark.parametrize(
    "entry",
    [
        {"crc": 1}, {"flags": 1}, {"flags": 0x20}, {"flags": 0x40}, {"method": 99}, {"local_name": b"model/harm.pkl"},
        {"size": 10**9}, {"size": 2**32 - 1}, {"size": 3},
    ],
    ids=str,
)  # fmt: skip
def test_a_zip_that_contradicts_itself_is_refused(tmp_path, entry):
    path = tmp_path / "model.pt"
    path.write_bytes(zipped(b"\x80\x02" + CALL + b".", **entry))
    fault = inspect_model(path).fault
    assert str(path) in fault and ("not safe to load" in fault or "truncated" in fault or "torch.save" in fault)
    path.write_bytes(zipped(b"\x80\x02" + CALL + b"."))
    assert read_torch(path).refused == ["os.system"]


@pytest.mark.parametrize(
    "start", [b"7z\xbc\xaf\x27\x1c", b"\x89PNG\r\n\x1a\n", b"\x1f\x8b\x08", b"Rar!\x1a\x07", b"\x93NUMPY\x01\x00"]
)
def test_other_formats_under_a_model_s_name(tmp_path, start):
    path = tmp_path / "model.pt"
    path.write_bytes(start + CALL + b"." + bytes(100))
    assert "damaged or no pickle" in inspect_model(path).fault


@pytest.mark.parametrize("key", ["registry_", "init_params_"])
def test_a_pickle_in_an_array_of_objects_is_seen(tmp_path, key):
    class Attack:
        def __reduce__(self):
            return eval, ("1",)

    path = tmp_path / "attr.pkl"
    path.write_bytes(pickle.dumps({"registry_": {}, key: np.array([["g1", Attack()]], dtype=object)}))
    assert read_pickle(path).refused == ["builtins.eval"]


# ------------------------------------------------------------------------------------------------------- much of very little


def doubled(times, ends=b"\x86"):
    """A tuple of twice a tuple of twice ...: a few bytes a level."""
    return b"\x80\x02)" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + ends for i in range(times))


HOLDS_MUCH = {
    "tuples of tuples": doubled(60) + b".",
    "as a key": b"\x80\x02}" + doubled(60)[2:] + b"Ns.",
    "in a set": b"\x80\x02cbuiltins\nset\n]" + doubled(60)[2:] + b"a\x85R.",
    "in a frozenset": b"\x80\x04(" + doubled(60)[2:] + b"\x91.",
    "in an ordered dictionary": b"\x80\x02ccollections\nOrderedDict\n]" + doubled(60)[2:] + b"N\x86a\x85R.",
    "in a state": b"\x80\x02cpandas\nDataFrame\n)R}X\x01\x00\x00\x00x" + doubled(60)[2:] + b"sb.",
}
CLAIMS_MUCH = {
    "a range": b"\x80\x02cbuiltins\nrange\n\x8a\x06\x00\x00\x00\x00\x00\x7f\x85R.",
    "empty texts": pickle.dumps(np.empty(3, "S1"), 2).replace(b"S1", b"S0").replace(b"K\x03\x85", b"\x8a\x05\0\0\0\0\x7f\x85"),
    "rows of nothing": pickle.dumps(np.empty((3, 0)), 2).replace(b"K\x03K\x00\x86", b"\x8a\x05\0\0\0\0\x7fK\x00\x86"),
}


@pytest.mark.parametrize("data", HOLDS_MUCH.values(), ids=HOLDS_MUCH)
def test_values_within_values_end(tmp_path, data):
    path = tmp_path / "attr.pkl"
    path.write_bytes(data)
    with pytest.raises(RefmapError, match="without end"):
        read_pickle(path)


@pytest.mark.parametrize("data", CLAIMS_MUCH.values(), ids=CLAIMS_MUCH)
def test_what_claims_to_be_long_is_refused(tmp_path, data):
    path = tmp_path / "attr.pkl"
    path.write_bytes(data)
    assert "that it is never saved with" in read_pickle(path).refused[0]


def test_what_is_honest_is_not_taken_for_it(tmp_path):
    shared = ["a name"] * 1000
    value = {("a", ("b", 1)): [shared] * 100, "indices": range(10**6), "cells": np.empty((0, 3000))}
    path = tmp_path / "attr.pkl"
    path.write_bytes(pickle.dumps(value))
    contents = read_pickle(path)
    assert contents.refused == [] and contents.value["indices"] == range(10**6) and contents.value["cells"].shape == (0, 3000)


def test_a_bomb_is_refused_in_little_memory(tmp_path):
    """In a process that can have no more than a gigabyte beside what Python and its libraries take."""
    (tmp_path / "model.pt").write_bytes(zipped(zlib.compress(bytes(10**6)), method=8, size=2**32 - 2))
    (tmp_path / "attr.pkl").write_bytes(HOLDS_MUCH["as a key"])
    program = """
import resource, sys
from pathlib import Path
from refmap.reference.inspection import inspect_model
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 10**9,) * 2)
for path in sys.argv[1:]:
    print(inspect_model(Path(path)).fault)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "model.pt"), str(tmp_path / "attr.pkl")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    large, deep = done.stdout.splitlines()
    assert "claims more than it holds" in large and "without end" in deep

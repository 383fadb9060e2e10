"""The names that unpickling may import, and how torch and numpy call what they save."""

from __future__ import annotations

Global = tuple[str, str]  # module, qualified name
CONSTRUCTORS = f"{__package__}.constructors"  # a module of ours


def pairs(modules: str, names: str) -> set[Global]:
    return {(module, name) for module in modules.split() for name in names.split()}


# What torch's own files name for the numbers of a tensor.
STORAGES = pairs(
    "torch",
    "FloatStorage DoubleStorage HalfStorage BFloat16Storage LongStorage IntStorage ShortStorage CharStorage ByteStorage "
    "BoolStorage",
)
# A tensor in a plain pickle: its storage is a file of `torch.save`, as bytes, that this function would unpickle.
LOAD_STORAGE = ("torch.storage", "_load_from_bytes")

# Types that files name and never call: an array comes of `_reconstruct`, a number of `scalar`, a storage of its id.
NUMPY_TYPES = pairs("numpy", "ndarray bool bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 str_")
ACTIVATIONS = pairs(
    "torch.nn.modules.activation",
    "ReLU ReLU6 LeakyReLU ELU CELU SELU GELU SiLU Mish Tanh Hardtanh Sigmoid LogSigmoid Softplus Softsign Softmax",
) | pairs("torch.nn.modules.linear", "Identity")
# The same as functions, which a model may have been given as a setting; no file calls them.
FUNCTIONS = pairs("torch.nn.functional", "relu relu6 leaky_relu elu celu selu gelu silu mish tanh sigmoid softplus") | pairs(
    "torch._C._nn", "gelu softplus"
)
# A missing value, which is no class.
MISSING = pairs("pandas pandas._libs.missing", "NA")

# The names that unpickling may really import and call, with arguments, state and items that an attacker chooses. A pair is
# compared whole: ("numpy", "core.multiarray._reconstruct") is another name than ("numpy.core.multiarray", "_reconstruct").
# The list is closed: nothing in it looks up an attribute by name, imports, opens a file or calls a function that it is given
# other than one that is itself in the list. So whatever is composed of it can fill memory, but not run code of its own.
# That holds as long as numpy and Arrow are not made to take bytes for pointers: every call that could is checked in `decoding`,
# and so an allowed name may be called by itself alone, and never through an attribute of an instance or by another allowed name.
ALLOWED: frozenset[Global] = frozenset(
    # Plain values: they copy what they are given. Left out: getattr, eval, exec, type, map, object, ...
    pairs(
        "builtins __builtin__",
        "set frozenset list tuple dict str bytes bytearray int float bool complex slice range",
    )
    | {("__builtin__", "xrange")}
    # Containers; `defaultdict` calls its factory without arguments, and the factory is one of these names.
    | pairs("collections", "OrderedDict defaultdict")
    # How protocols 0-2 write bytes. It can only pick one of Python's codecs, and `_bytes` wants latin-1.
    | pairs("_codecs", "encode")
    # Arrays. A forged dtype state could make numpy take bytes for pointers, so `_built_dtype` lets only plain ones pass.
    | pairs("numpy.core.multiarray numpy._core.multiarray", "_reconstruct scalar")
    | pairs("numpy.core.numeric numpy._core.numeric", "_frombuffer")
    | {("numpy", "dtype")}
    | NUMPY_TYPES
    # Tables (the training history): constructors that hold arrays, and the helpers that call `cls.__new__` of one of them.
    | pairs("pandas", "DataFrame Series Index RangeIndex CategoricalIndex Categorical CategoricalDtype StringDtype")
    | pairs("pandas.core.frame", "DataFrame")
    | pairs("pandas.core.series", "Series")
    | pairs("pandas.core.indexes.base", "Index _new_Index")
    | pairs("pandas.core.indexes.range", "RangeIndex")
    | pairs("pandas.core.indexes.numeric", "Int64Index UInt64Index Float64Index")
    | pairs("pandas.core.indexes.category", "CategoricalIndex")
    | pairs("pandas.core.indexes.multi", "MultiIndex")
    | pairs("pandas.core.arrays.categorical", "Categorical")
    | pairs("pandas.core.dtypes.dtypes", "CategoricalDtype")
    | pairs("pandas.core.arrays.string_", "StringDtype StringArray StringArrayNumpySemantics")
    # Pandas 3 names by where users find them what older ones name by where they stand.
    | pairs("pandas", "MultiIndex DatetimeIndex TimedeltaIndex BooleanDtype Float32Dtype Float64Dtype")
    | pairs("pandas", "Int8Dtype Int16Dtype Int32Dtype Int64Dtype UInt8Dtype UInt16Dtype UInt32Dtype UInt64Dtype")
    | pairs("pandas.arrays", "BooleanArray IntegerArray FloatingArray DatetimeArray TimedeltaArray")
    # Dates and times, and what stands for one that is missing.
    | MISSING
    | pairs("datetime", "datetime date time timedelta timezone")
    | pairs("pandas._libs.tslibs.nattype", "_nat_unpickle __nat_unpickle")
    | pairs("pandas._libs.tslibs.timestamps", "_unpickle_timestamp")
    | pairs("pandas._libs.tslibs.timedeltas", "_timedelta_unpickle")
    | pairs("pandas.core.indexes.datetimes", "DatetimeIndex _new_DatetimeIndex")
    | pairs("pandas.core.indexes.timedeltas", "TimedeltaIndex")
    | pairs("pandas.core.arrays.datetimes", "DatetimeArray")
    | pairs("pandas.core.arrays.timedeltas", "TimedeltaArray")
    # Numbers with missing values: two arrays, and a type without arguments.
    | pairs("pandas.core.arrays.boolean", "BooleanArray BooleanDtype")
    | pairs("pandas.core.arrays.integer", "IntegerArray Int8Dtype Int16Dtype Int32Dtype Int64Dtype")
    | pairs("pandas.core.arrays.integer", "UInt8Dtype UInt16Dtype UInt32Dtype UInt64Dtype")
    | pairs("pandas.core.arrays.floating", "FloatingArray Float32Dtype Float64Dtype")
    | pairs("pandas.arrays", "StringArray")
    | pairs("pandas.core.internals.managers", "BlockManager SingleBlockManager")
    | pairs("pandas.core.internals.blocks", "new_block")
    | pairs("pandas._libs.internals", "_unpickle_block")
    | pairs("pandas._libs.arrays", "__pyx_unpickle_NDArrayBacked")
    # How pandas 1.3 wrote a column: `partial(new_block, ndim=...)`. `_partial` and `_built_partial` let pass that form alone.
    | pairs("functools", "partial")
    # Columns of text where pyarrow is installed. Arrow trusts the buffers that it is given, so `_arrow_texts` checks them.
    | pairs("pandas.arrays pandas.core.arrays.string_arrow", "ArrowStringArray")
    | pairs("pyarrow.lib", "type_for_alias py_buffer _restore_array chunked_array")
    # Weights.
    | pairs("torch._utils", "_rebuild_tensor _rebuild_tensor_v2 _rebuild_parameter")
    | pairs("torch", "float16 bfloat16 float32 float64 int8 int16 int32 int64 uint8 bool Size device")
    | STORAGES
    # The one name here that unpickles what it is given. So it is never really called: inspection looks into the bytes
    # (`Machine.storage`), the second lock loads them by itself (`_load_storage`), and both let them name a storage alone.
    | {LOAD_STORAGE}
    # Activation functions that a model was given as a setting: modules without parameters or code of the file's.
    | ACTIVATIONS
    | FUNCTIONS
)

_NO_TIME = (("pandas._libs.tslibs.nattype", "_nat_unpickle"), ("pandas._libs.tslibs.nattype", "__nat_unpickle"))
_FROM_BUFFER = (("numpy._core.numeric", "_frombuffer"), ("numpy.core.numeric", "_frombuffer"))

# Where an allowed name is found today, for those that moved, went away, or no longer take what their age gave them: the first of
# these places that the environment has. A place is itself allowed, or a class of `constructors`, which makes what the name would
# have made of the same arguments. So a replacement can do no more than what is allowed, and no file names one by itself.
REPLACED: dict[Global, tuple[Global, ...]] = {
    # pandas 2 has one class for every type of index; `_new_Index` gives it the type of the numbers.
    **dict.fromkeys(
        pairs("pandas.core.indexes.numeric", "Int64Index UInt64Index Float64Index"), (("pandas.core.indexes.base", "Index"),)
    ),
    # pandas 1.3 gave it the places of a block's columns as a slice or an array.
    ("pandas.core.internals.blocks", "new_block"): (("pandas._libs.internals", "_unpickle_block"),),
    # pandas up to 1.2 made it without arguments or a state.
    ("pandas.core.arrays.string_", "StringDtype"): ((CONSTRUCTORS, "StringDtype"),),
    # pandas 2.3 had a class for texts whose missing value is nan; before and after, the type alone says so.
    ("pandas.core.arrays.string_", "StringArrayNumpySemantics"): (("pandas.core.arrays.string_", "StringArray"),),
    # numpy 2 calls its own truth values so; numpy 1 had Python's by that name, and then none.
    ("numpy", "bool"): (("numpy", "bool_"),),
    # numpy 2 moved it and warns of the old place; numpy 1 has no other.
    **dict.fromkeys(_FROM_BUFFER, _FROM_BUFFER),
    # pandas 3 renamed it.
    **dict.fromkeys(_NO_TIME, _NO_TIME),
}

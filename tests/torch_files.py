"""Write state dicts as torch.save does, in its older and its newer format, without torch: opcode by opcode."""

import struct
import zipfile

import numpy as np

HEADER = b"\x80\x02"
MAGIC = HEADER + b"\x8a\n\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
PROTOCOL = HEADER + b"M\xe9\x03."
KINDS = {"<f4": "FloatStorage", "<f8": "DoubleStorage", "<f2": "HalfStorage", "<i8": "LongStorage"}


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value):
    return b"J" + struct.pack("<i", value)


def group(*parts):
    return b"(" + b"".join(parts) + b"t"


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def tensor(key, array, legacy, offset=0, shape=None, strides=None):
    """Place a tensor at its own order in a storage that it fills; `offset`, `shape` and `strides` may lie."""
    shape = array.shape if shape is None else shape
    strides = [stride // array.itemsize for stride in array.strides] if strides is None else strides
    kind = name("torch", KINDS[array.dtype.str])
    storage = group(text("storage"), kind, text(key), text("cpu"), number(array.size), *[b"N"] * legacy) + b"Q"
    places = [number(offset), group(*map(number, shape)), group(*map(number, strides))]
    hooks = name("collections", "OrderedDict") + b")R"
    return name("torch._utils", "_rebuild_tensor_v2") + group(storage, *places, b"\x89", hooks) + b"R"


def mapping(items):
    """Pickle {name: value as opcodes}."""
    pairs = b"".join(text(key) + value for key, value in items.items())
    return HEADER + name("collections", "OrderedDict") + b")R(" + pairs + b"u."


def legacy(path, arrays, pickled=None, little_endian=True):
    """Write the older format; `pickled` in the place of the dict's own pickle."""
    keys = {key: str(100 + index) for index, key in enumerate(arrays)}
    pickled = pickled or mapping({key: tensor(keys[key], array, True) for key, array in arrays.items()})
    machine = HEADER + b"}" + text("little_endian") + (b"\x88" if little_endian else b"\x89") + b"s."
    listed = HEADER + b"](" + b"".join(map(text, keys.values())) + b"e."
    stored = b"".join(struct.pack("<q", x.size) + x.ravel(order="K").tobytes() for x in arrays.values())
    path.write_bytes(MAGIC + PROTOCOL + machine + pickled + listed + stored)
    return path


def zipped(path, arrays, pickled=None, compression=zipfile.ZIP_STORED, extra=()):
    """Write the newer format; `extra` are (name, content) of other files in the archive."""
    keys = {key: str(index) for index, key in enumerate(arrays)}
    pickled = pickled or mapping({key: tensor(keys[key], array, False) for key, array in arrays.items()})
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for key, array in arrays.items():
            archive.writestr(f"archive/data/{keys[key]}", np.asarray(array).ravel(order="K").tobytes())
        for inside, content in extra:
            archive.writestr(f"archive/{inside}", content)
    return path


def scripted(path, arrays, root="__torch__.some.Net", program=b"def forward(self): pass"):
    """Write a TorchScript archive: a tree of modules by the dots in the names, each with things that are no tensors."""
    tree, keys = {}, {key: str(index) for index, key in enumerate(arrays)}
    for key, array in arrays.items():
        *parents, last = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = tensor(keys[key], array, False)

    def module(node, kind):
        inner = {
            key: module(value, "__torch__.torch.nn.Part") if isinstance(value, dict) else value
            for key, value in node.items()
        }
        inner |= {
            "training": b"\x89",
            "_hook": b"N",
            "sizes": name("torch.jit._pickle", "build_intlist") + b"(](K\x01K\x02etR",
        }
        pairs = b"".join(text(key) + value for key, value in inner.items())
        return name(*kind.rpartition(".")[::2]) + b")\x81}(" + pairs + b"ub"

    extra = [("constants.pkl", HEADER + b")."), ("code/__torch__.py", program)]
    return zipped(path, arrays, HEADER + module(tree, root) + b".", extra=extra)

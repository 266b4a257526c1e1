"""Parts of LPIPS as their published files name them: random ones, and a real network out of an ONNX file."""

import math

import numpy as np

from motionv2v import parameters
from motionv2v.convert import perceptual
from motionv2v.models.features import lpips


def random_part(net, part, seed=0):
    """Draw {torch's name: array}, scaled so that features neither vanish nor explode; heads are positive."""
    rng, shapes = np.random.default_rng(seed), lpips.parameter_shapes(net)
    found = {}
    for rule in perceptual.rules(net, part):
        shape = shapes[rule.target]
        drawn = rng.normal(size=shape) * (0.1 if len(shape) == 1 else math.sqrt(2 / math.prod(shape[:-1])))
        drawn = rng.uniform(0, 1, shape) if part == "heads" else drawn
        found[rule.source] = np.ascontiguousarray(rule.op.save(drawn.astype(np.float32)))
    return found


def random_parameters(net, seed=0):
    """Random parameters of `lpips.Lpips`, nested."""
    flat = {}
    for part in perceptual.PARTS:
        arrays = random_part(net, part, seed)
        flat |= {rule.target: rule.op.load(arrays[rule.source]) for rule in perceptual.rules(net, part)}
    return parameters.unflatten(flat)


def random_trunk(net, seed=0):
    """A trunk as torchvision saves it, with its classifier."""
    return random_part(net, "trunk", seed) | {"classifier.1.weight": np.ones((2, 3), np.float32)}


def onnx_arrays(path):
    """Read the float initialisers of an ONNX file: ModelProto.graph is field 7, GraphProto.initializer field 5."""
    found = {}
    for number, graph in _fields(path.read_bytes()):
        for inner, content in _fields(graph) if number == 7 else ():
            if inner != 5:
                continue
            shape, name, values, kind = [], "", b"", 0
            for field, value in _fields(content):  # TensorProto
                if field == 1:
                    shape += [value] if isinstance(value, int) else [x for x in _varints(value)]
                kind = value if field == 2 else kind
                name = value.decode() if field == 8 else name
                values = value if field == 9 else values
            if kind == 1:  # float
                found[name] = np.frombuffer(values, "<f4").reshape(shape)
    return found


def saved_module(arrays):
    """Name the arrays of the ONNX file as a saved lpips.LPIPS does."""
    found = {name.removeprefix("core."): array for name, array in arrays.items() if name.startswith("core.")}
    return found | {name.replace("lins.", "lin"): array for name, array in found.items() if name.startswith("lins.")}


def _varints(content):
    value = shift = 0
    for byte in content:
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            yield value
            value = shift = 0


def _fields(content):
    """Split a protobuf message into (number, integer or bytes)."""
    place = 0

    def varint():
        nonlocal place
        start = place
        while content[place] > 127:
            place += 1
        place += 1
        return next(_varints(content[start:place]))

    while place < len(content):
        number, kind = divmod(varint(), 8)
        if kind == 0:
            yield number, varint()
            continue
        size = {1: 8, 5: 4}.get(kind) or varint()
        yield number, content[place : place + size]
        place += size

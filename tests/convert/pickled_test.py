"""State dicts of torch without torch: both formats, every refusal, and that nothing in a file runs."""

import io
import pickle
import zipfile

import numpy as np
import pytest
import torch_files
from safetensors.numpy import save_file

from motionv2v.convert import ConvertError, pickled
from motionv2v.convert.pickled import open_state_dict

FORMATS = {"legacy": torch_files.legacy, "zipped": torch_files.zipped}


@pytest.fixture(params=FORMATS.values(), ids=FORMATS)
def write(request):
    return request.param


def arrays():
    rng = np.random.default_rng(0)
    return {
        "features.0.weight": rng.normal(size=(4, 3, 2, 2)).astype(np.float32),
        "half": rng.normal(size=(5,)).astype(np.float16),
        "double": rng.normal(size=(2, 3)),
        "count": np.array(7, np.int64),
        "none": np.zeros((0, 3), np.float32),
        "turned": rng.normal(size=(3, 5, 2)).astype(np.float32).transpose(2, 0, 1),
    }


def test_both_formats_give_names_shapes_types_and_numbers(tmp_path, write):
    expected = arrays()
    found = open_state_dict(write(tmp_path / "x.pth", expected))
    assert list(found) == list(expected)
    assert found.shapes() == {name: array.shape for name, array in expected.items()}
    for name, array in expected.items():
        value = found.read(name)
        assert value.dtype == array.dtype and value.flags.c_contiguous
        np.testing.assert_array_equal(value, array)
    np.testing.assert_array_equal(found.read("turned", 1), expected["turned"][1])


def test_safetensors_are_read_by_the_same_function(tmp_path):
    expected = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "count": np.array(7, np.int64)}
    save_file(expected, tmp_path / "x.safetensors")
    found = open_state_dict(tmp_path / "x.safetensors")
    for name, array in expected.items():
        np.testing.assert_array_equal(found.read(name), array)


def test_numbers_that_are_not_finite_are_refused(tmp_path, write):
    found = open_state_dict(write(tmp_path / "x.pth", {"a": np.float32([1, np.nan])}))
    with pytest.raises(ConvertError, match=r"tensor a of .* is not finite in 1 places"):
        found.read("a")


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_nothing_in_a_file_is_run(tmp_path, write):
    mark = tmp_path / "mark"
    evil = pickle.dumps({"a": Evil(mark)}, protocol=2)
    pickle.loads(evil)["a"].close()  # it does bite
    assert mark.exists()
    mark.unlink()
    with pytest.raises(ConvertError, match=r"x.pth names \S+open, which no state dict needs: .* safetensors") as error:
        open_state_dict(write(tmp_path / "x.pth", arrays(), evil))
    assert not mark.exists() and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "module, attribute",
    [
        ("os", "system"),
        ("builtins", "eval"),
        ("__builtin__", "eval"),
        ("torch", "load"),
        ("torch.storage", "_load_from_bytes"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("collections", "OrderedDict.fromkeys"),
        ("numpy", "load"),
        ("lpips.lpips", "LPIPS"),
    ],
)
def test_names_that_are_not_known_are_refused(tmp_path, write, module, attribute):
    call = torch_files.HEADER + torch_files.name(module, attribute) + torch_files.group(torch_files.text("1")) + b"R."
    with pytest.raises(ConvertError, match="which no state dict needs"):
        open_state_dict(write(tmp_path / "x.pth", arrays(), call))


def test_a_file_changes_nothing_for_the_next(tmp_path, write):
    """The opcode "b" sets attributes of whatever is on the stack, functions that are handed out among it."""
    rebuild, text = torch_files.name("torch._utils", "_rebuild_tensor_v2"), torch_files.text
    marked = torch_files.HEADER + rebuild + b"N}" + text("marked") + text("yes") + b"s\x86b."
    with pytest.raises(ConvertError, match="holds a function, expected a state dict"):
        open_state_dict(write(tmp_path / "x.pth", arrays(), marked))
    reader = pickled._Reader(io.BytesIO(), tmp_path)
    assert not hasattr(reader.find_class("torch._utils", "_rebuild_tensor_v2"), "marked")


def test_what_is_no_state_dict_is_refused(tmp_path, write):
    header, text = torch_files.HEADER, torch_files.text
    nested = torch_files.mapping({"state_dict": b"}", "a": torch_files.number(1)})
    for content, words in (
        (nested, "no tensor at a, state_dict, expected a state dict alone"),
        (header + b"}.", "no tensor at none"),
        (header + b"].", "holds a list, expected a state dict"),
        (header + text("a") + b"Q.", "damaged, or no state dict"),
    ):
        with pytest.raises(ConvertError, match=words) as error:
            open_state_dict(write(tmp_path / "x.pth", arrays(), content))
        assert "safetensors" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "place, words",
    [
        (dict(offset=1), "beyond its storage"),
        (dict(shape=(7,)), "beyond its storage"),
        (dict(shape=(3,), strides=(3,)), "beyond its storage"),
        (dict(shape=(1000, 1000), strides=(0, 0)), "beyond its storage"),
        (dict(offset=-1), "-1 where a size belongs"),
        (dict(strides=(-1,)), "-1 where a size belongs"),
        (dict(strides=()), "damaged"),
    ],
)
def test_tensors_stay_within_their_storages(tmp_path, write, place, words):
    array, is_legacy = np.arange(6, dtype=np.float32), write is torch_files.legacy
    key = "100" if is_legacy else "0"
    content = torch_files.mapping({"a": torch_files.tensor(key, array, is_legacy, **place)})
    with pytest.raises(ConvertError, match=words):
        open_state_dict(write(tmp_path / "x.pth", {"a": array}, content))
    content = torch_files.mapping({"a": torch_files.tensor(key, array, is_legacy, 1, (2, 2), (1, 2))})
    found = open_state_dict(write(tmp_path / "x.pth", {"a": array}, content))
    np.testing.assert_array_equal(found.read("a"), [[1, 3], [2, 4]])


def test_files_that_were_cut_off_are_refused_wherever(tmp_path, write):
    path = write(tmp_path / "x.pth", {"a": np.arange(6, dtype=np.float32)})
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(ConvertError) as error:
            open_state_dict(path)
        assert "\n" not in str(error.value)


def test_archives_that_are_something_else_are_refused(tmp_path):
    some, path = {"a": np.ones(3, np.float32)}, tmp_path / "x.pt"
    for extra in (("constants.pkl", b""), ("code/__torch__.py", b"")):
        with pytest.raises(ConvertError, match=r"TorchScript archive, .* torch.jit.load"):
            open_state_dict(torch_files.zipped(path, some, extra=[extra]))
    with pytest.raises(ConvertError, match="big-endian"):
        open_state_dict(torch_files.zipped(path, some, extra=[("byteorder", b"big")]))
    assert len(open_state_dict(torch_files.zipped(path, some, extra=[("byteorder", b"little")]))) == 1
    with pytest.raises(ConvertError, match="was compressed"):
        open_state_dict(torch_files.zipped(path, some, compression=zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/readme", b"")
    with pytest.raises(ConvertError, match=r"without data\.pkl"):
        open_state_dict(path)
    with pytest.raises(ConvertError, match="machine"):
        open_state_dict(torch_files.legacy(path, some, little_endian=False))


def test_files_that_are_not_torchs_are_refused(tmp_path):
    with pytest.raises(ConvertError, match="cannot be read: No such file"):
        open_state_dict(tmp_path / "x.pth")
    (tmp_path / "x.pth").write_bytes(pickle.dumps({}))
    with pytest.raises(ConvertError, match=r"is no file of torch.save: .* safetensors"):
        open_state_dict(tmp_path / "x.pth")
    (tmp_path / "x.safetensors").write_bytes(b"1")
    with pytest.raises(ConvertError, match="damaged or cut off"):
        open_state_dict(tmp_path / "x.safetensors")


def test_a_scripts_tensors_are_read_by_the_names_of_its_modules(tmp_path):
    """Numbers, lists and hooks among them are left out, and the program, which is none here, is not looked at."""
    rng = np.random.default_rng(0)
    expected = {
        name: rng.normal(size=shape) for name, shape in (("a.0.weight", (2, 3)), ("a.1.b.bias", (4,)), ("c", ()))
    }
    path = torch_files.scripted(tmp_path / "x.pt", expected, program=b"raise SystemExit")
    assert pickled.is_scripted(path)
    found = pickled.open_scripted(path)
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found.read(name), array)
    with pytest.raises(ConvertError, match=r"TorchScript archive, .* torch.jit.load"):
        open_state_dict(path)
    for size in range(0, path.stat().st_size, 7):
        (tmp_path / "cut.pt").write_bytes(path.read_bytes()[:size])
        with pytest.raises(ConvertError):
            pickled.open_scripted(tmp_path / "cut.pt")


def test_nothing_in_a_script_is_run_and_nothing_but_modules_is_named(tmp_path):
    mark, extra = tmp_path / "mark", [("constants.pkl", b"")]
    evil = pickle.dumps({"a": Evil(mark)}, protocol=2)
    with pytest.raises(ConvertError, match=r"names \S+open, which no state dict needs"):
        pickled.open_scripted(torch_files.zipped(tmp_path / "x.pt", arrays(), evil, extra=extra))
    assert not mark.exists()
    module = torch_files.name("__torch__.os", "system") + b")\x81"
    header, text = torch_files.HEADER, torch_files.text
    itself = header + module + b"q\x00}" + text("a") + b"h\x00sb."
    never_filled = header + module + b"."
    marked = header + torch_files.name("__torch__", "Net") + b"}" + text("mark") + text("yes") + b"sb."
    for content, words in ((itself, "no tensor at none"), (never_filled, "damaged"), (marked, "damaged")):
        with pytest.raises(ConvertError, match=words):
            pickled.open_scripted(torch_files.zipped(tmp_path / "x.pt", arrays(), content, extra=extra))
    with pytest.raises(ConvertError, match="is no TorchScript archive"):
        pickled.open_scripted(torch_files.zipped(tmp_path / "x.pt", arrays()))
    assert not pickled.is_scripted(tmp_path / "nothing.pt")

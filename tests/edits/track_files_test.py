"""Tracks in the files of other programs: there and back, every bad file in one line, nothing run, nothing too large."""

import io
import json
import os
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest

from motionv2v import pickles
from motionv2v.edits import track_files
from motionv2v.tracks import Tracks

SIZE, FPS = (480, 854), 12.5


def tracks(seed=0):
    rng = np.random.default_rng(seed)
    xy = rng.uniform(-40, 900, (3, 5, 2)).astype(np.float32)
    return Tracks(xy, rng.uniform(0, 1, (3, 5)) < 0.6)


@pytest.mark.parametrize("ending", track_files.FORMATS)
def test_every_format_goes_there_and_back(tmp_path, ending):
    given = tracks()
    assert not given.visible.all()
    path = track_files.write(tmp_path / f"a{ending}", given, SIZE, FPS)
    found, info = track_files.read(path)
    np.testing.assert_allclose(found.xy, given.xy, atol=1e-3)
    # Splines have no place for visibility.
    np.testing.assert_array_equal(found.visible, np.ones((3, 5), bool) if ending == ".json" else given.visible)
    assert found.xy.dtype == np.float32 and found.visible.dtype == bool
    known = ending in (".npz", ".pkl", ".pickle")
    assert info[:2] == ((SIZE, FPS) if known else (None, None))
    assert info.names == (("0", "1", "2") if ending == ".csv" else ())


def test_conventions_end_at_the_border(tmp_path):
    """Fractions are of corners: half the width is the middle of the frame, as a spline's or a table's pixels are."""
    item = {"points": np.full((1, 2, 2), 0.5), "occluded": np.array([[0, 1]])}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"dog": item}))
    found, info = track_files.read(tmp_path / "a.pkl", size=(100, 200))
    assert found.xy[0].tolist() == [[100, 50]] * 2 and found.visible.tolist() == [[True, False]]
    assert info.size == (100, 200)
    item["video"] = np.zeros((2, 40, 80, 3), np.uint8)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps([item]))
    assert track_files.read(tmp_path / "a.pkl")[0].xy[0, 0].tolist() == [40, 20]
    (tmp_path / "a.json").write_text('[{"x": 3.5, "y": 2}, {"x": 4, "y": 2}]')
    assert track_files.read(tmp_path / "a.json")[0].xy.tolist() == [[[3.5, 2], [4, 2]]]
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfFrame, x, y, track\r\n1,7,8,nose\r\n0,5,6,nose\r\n")
    found, info = track_files.read(tmp_path / "a.csv")
    assert found.xy.tolist() == [[[5, 6], [7, 8]]] and found.visible.all() and info.names == ("nose",)
    np.save(tmp_path / "a.npy", np.asfortranarray(np.arange(8, dtype=np.int32).reshape(2, 2, 2)))
    assert track_files.read(tmp_path / "a.npy")[0].xy.tolist() == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]


def test_a_hidden_point_that_is_nowhere_gets_the_nearest_place(tmp_path):
    given = np.array([[[np.nan, 1, 0], [4, 5, 1], [np.nan, np.nan, 0], [np.inf, 0, 0], [8, 9, 1]]])
    np.save(tmp_path / "a.npy", given)
    found, _ = track_files.read(tmp_path / "a.npy")
    assert found.xy[0].tolist() == [[4, 5], [4, 5], [4, 5], [8, 9], [8, 9]]
    given[0, 2, 2] = 1
    np.save(tmp_path / "a.npy", given)
    with pytest.raises(ValueError, match=r"track 0 at \(nan, nan\) in frame 2; expected pixels of the clip"):
        track_files.read(tmp_path / "a.npy")


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def claimed(shape):
    """Return an array's file whose head claims another shape than its content has."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return file.getvalue() + bytes(16)


XY, SEEN = np.zeros((2, 3, 2), np.float32), np.ones((2, 3), bool)
ITEM = {"points": XY, "occluded": ~SEEN}
HEAD = b"track,frame,x,y,visible\n"
BAD = [
    ("a.txt", b"", "expected .npz, .npy, .csv, .pkl"),
    ("a.npz", b"", "is no .npz of numpy's"),
    ("a.npz", npz(a=XY), "holds the arrays a; expected xy and visible"),
    ("a.npz", npz(xy=XY, visible=SEEN.T), r"expected xy \[N T 2\] and visible \[N T\]"),
    ("a.npz", npz(xy=XY[:0], visible=SEEN[:0]), r"expected xy \[N T 2\]"),
    ("a.npz", npz(xy=XY, visible=SEEN, size=[0, 5]), "expected height and width"),
    ("a.npz", npz(xy=XY, visible=SEEN, fps=-1), "expected frames per second"),
    ("a.npz", npz(xy=XY * np.nan, visible=SEEN), "expected pixels of the clip"),
    ("a.npz", npz(xy=XY + 1e9, visible=SEEN), "expected pixels of the clip"),
    ("a.npz", npz(xy=XY * np.nan, visible=~SEEN), "no finite position of track 0"),
    ("a.npz", npz(xy=np.array([None]), visible=SEEN), "holds object; expected numbers"),
    ("a.npz", npz(xy=XY, visible=SEEN)[:-40], "is no .npz of numpy's"),
    ("a.npy", b"no array", "is no array of numpy's"),
    ("a.npy", npy(np.zeros((3, 2))), r"expected \[N T 2\]"),
    ("a.npy", npy(XY.astype(complex)), "expected numbers"),
    ("a.npy", claimed((2**40, 2)), "should have the shape"),
    ("a.csv", b"", "has the columns none; expected track,frame,x,y,visible"),
    ("a.csv", b"\xff\xfe", "is not UTF-8 text"),
    ("a.csv", b"track;frame;x;y\n0;0;1;1\n", "expected track,frame,x,y,visible"),
    ("a.csv", HEAD, "holds no tracks"),
    ("a.csv", HEAD + b"0,0,1\n", "line 2: has 3 values; expected 5"),
    ("a.csv", HEAD + b"0,0,one,1,1\n", "line 2: x is 'one'; expected a number"),
    ("a.csv", HEAD + b"0,0.5,1,1,1\n", "expected a whole number"),
    ("a.csv", HEAD + b"0,nan,1,1,1\n", "expected a whole number"),
    ("a.csv", HEAD + b"0,0,1,1,1\n0,0,1,1,1\n", "has frame 0 twice"),
    ("a.csv", HEAD + b"0,0,1,1,1\n0,2,1,1,1\n", "track 0 has no frame 1; expected frames 0..2"),
    ("a.csv", HEAD + b"0,8000000,1,1,1\n", "track 0 has no frame 0"),
    ("a.json", b"{", "line 1, column 2: not valid JSON"),
    ("a.json", b"[" * 100_000, "nested too deep"),
    ("a.json", b"{}", 'holds dict; expected .*"x"'),
    ("a.json", b"[[]]", "track 0 is no list"),
    ("a.json", b'[[{"x": 1, "y": "2"}]]', "track 0, frame 0 is no place"),
    ("a.json", b'[[{"x": NaN, "y": 2}]]', "track 0, frame 0 is no place"),
    ("a.json", b'[[{"x": 1, "y": 2}], [{"x": 1, "y": 2}, {"x": 1, "y": 2}]]', "sample all splines at the frames"),
    ("a.pkl", b"\x80", "no pickle that can be read safely"),
    ("a.pkl", pickle.dumps(5), "holds int; expected a dict of TAP-Vid"),
    ("a.pkl", pickle.dumps({"a": ITEM, "b": ITEM}), "holds 2 videos; expected the tracks of one"),
    ("a.pkl", pickle.dumps({"a": {"points": XY}}), "without points and occluded"),
    ("a.pkl", pickle.dumps({"a": ITEM}), "does not say the size of its video; give the clip's"),
    ("a.pkl", pickle.dumps({**ITEM, "size": [4, 4], "points": XY + 40}), "expected fractions of width and height"),
    ("a.pkl", pickle.dumps({**ITEM, "size": [4, 4], "points": XY[0]}), r"expected \[N T 2\]"),
    ("a.pkl", pickle.dumps({**ITEM, "points": "x"}), "no arrays of numbers"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD)
def test_a_bad_file_is_refused_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        track_files.read(tmp_path / name)
    assert "\n" not in str(caught.value) and name in str(caught.value)


def test_what_is_missing_or_too_large_is_refused_before_it_is_read(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"none\.csv: cannot be read"):
        track_files.read(tmp_path / "none.csv")
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xy.npy", bytes(2**22))
    monkeypatch.setattr(track_files, "MOST_BYTES", 2**20)
    monkeypatch.setattr(track_files, "_array", lambda *given: pytest.fail("was unpacked"))
    with pytest.raises(ValueError, match="is larger than"):
        track_files.read(tmp_path / "bomb.npz")
    (tmp_path / "long.json").write_bytes(b" " * (2**20 + 1))
    with pytest.raises(ValueError, match="a file of tracks has at most"):
        track_files.read(tmp_path / "long.json")
    with pytest.raises(ValueError, match="expected pixels"):
        track_files.write(tmp_path / "a.csv", Tracks(XY * np.nan, SEEN), SIZE, FPS)
    assert not (tmp_path / "a.csv").exists()


class Evil:
    def __init__(self, call, *given):
        self.made = (call, given)

    def __reduce__(self):
        return self.made


def _state(value, state):
    """Write a pickle that gives what a name stands for another state."""
    return b"\x80\x02c" + value + pickle.dumps(state, 2)[2:-1] + b"b."


EVIL = {
    "a call": lambda mark: pickle.dumps({"a": Evil(os.mkdir, mark)}),
    "an attribute": lambda mark: b"\x80\x04\x8c\x05numpy\x8c\x0eload.__class__\x93.",
    "evaluated": lambda mark: pickle.dumps(Evil(eval, f"__import__('os').mkdir({mark!r})")),
    "another of numpy's": lambda mark: b"cnumpy\nload\n(S'x'\ntR.",
    "an array of objects": lambda mark: pickle.dumps({**ITEM, "points": np.array([None, os.getcwd()])}),
    "a type with names": lambda mark: pickle.dumps({**ITEM, "points": np.zeros(3, [("a", "f4")])}),
    "a stand-in changed": lambda mark: _state(b"numpy\ndtype\n", (None, {"_make": "x"})),
    "a name called": lambda mark: b"cnumpy\nndarray\n(tR.",
    "a number of an object": lambda mark: b"\x80\x02]r\xff\xff\xff\x7f.",
    "a long content": lambda mark: b"\x80\x05\x96\x00\x00\x00\x00\x00\x01\x00\x00.",
    "lists in lists": lambda mark: b"(" + b"l(" * 3000 + b"l" + b".",
}


@pytest.mark.parametrize("name", EVIL)
def test_a_pickle_that_asks_for_more_than_arrays_is_refused_and_not_run(tmp_path, name):
    mark = str(tmp_path / "it_ran")
    (tmp_path / "evil.pkl").write_bytes(EVIL[name](mark))
    with pytest.raises(ValueError, match=r"evil\.pkl") as caught:
        track_files.read(tmp_path / "evil.pkl", size=SIZE)
    assert "\n" not in str(caught.value) and not os.path.exists(mark)
    # What was refused has changed nothing of how the next one is read.
    (tmp_path / "good.pkl").write_bytes(pickle.dumps({"a": ITEM}))
    assert track_files.read(tmp_path / "good.pkl", size=SIZE)[0].xy.shape == (2, 3, 2)


def test_the_mark_of_an_evil_pickle_appears_where_it_is_run(tmp_path):
    """The check above would see it."""
    pickle.loads(EVIL["a call"](str(tmp_path / "it_ran")))
    assert (tmp_path / "it_ran").is_dir()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_every_protocol_are_what_they_were(tmp_path, protocol):
    shared = np.asfortranarray(np.linspace(0, 1, 12, dtype=">f4").reshape(2, 3, 2))
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": {"points": shared, "occluded": SEEN}}, protocol))
    found, _ = track_files.read(tmp_path / "a.pkl", size=(1, 1))
    np.testing.assert_array_equal(found.xy, shared.astype(np.float32))
    assert not found.visible.any()


class Transposed:
    """An array as numpy 2.4 and later write one at protocol 5, whatever numpy is installed."""

    def __init__(self, array, axes):
        self.array, self.axes = array, axes

    def __reduce__(self):
        core = getattr(np, "_core", None) or np.core
        return core.numeric._frombuffer, (self.array.tobytes(), self.array.dtype, self.array.shape, "K", self.axes)


def test_transposed_arrays_are_what_they_were(tmp_path):
    base = np.linspace(0, 1, 12, dtype=np.float32).reshape(2, 2, 3)
    for axes in ((2, 1, 0), (2, 0, 1), (0, 2, 1), (1, 2, 0)):  # the second and the last are not their own inverse
        for given in (base.transpose(axes), Transposed(base, axes)):
            points = base.transpose(axes)
            content = pickle.dumps({"a": given}, 5)
            found = pickles.load(io.BytesIO(content))["a"]
            np.testing.assert_array_equal(found, points, err_msg=str(axes))
    for axes in ((0, 0, 1), (0, 1), (0, 1, 3), (-1, 0, 1), "210", (0, 1, None)):
        with pytest.raises(ValueError, match="no pickle that can be read safely"):
            pickles.load(io.BytesIO(pickle.dumps({"a": Transposed(base, axes)}, 5)))


def test_a_long_track_with_hidden_frames_takes_little_memory(tmp_path):
    length = 200_000
    given = np.zeros((1, length, 3), np.float32)
    given[0, :, 0], given[0, :, 2] = np.arange(length), 1
    given[0, 1::2] = (np.nan, np.nan, 0)
    np.save(tmp_path / "a.npy", given)
    tracemalloc.start()
    found, _ = track_files.read(tmp_path / "a.npy")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 100 * length, "a table of distances would take gigabytes"
    np.testing.assert_array_equal(found.xy[0, :, 0], np.arange(length) // 2 * 2)


def test_splines_are_as_comfyui_has_them(tmp_path):
    track_files.write(tmp_path / "a.json", tracks(), SIZE, FPS)
    found = json.loads((tmp_path / "a.json").read_text())
    assert len(found) == 3 and len(found[0]) == 5 and set(found[0][0]) == {"x", "y"}

"""Edit files with something wrong in them: each gives a result near the frame, or one line; nothing is half-written."""

import copy
import functools
import json
import time
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from motionv2v import tracks, video
from motionv2v.editing import files, opening
from motionv2v.edits.document import ALIASES, FIELDS, OPERATIONS, EditError, load

SIZE, T = (48, 80), 11
QUICK, ALL = 60, 300

NUMBERS = (
    [0, -1, 1, 3, 7, 10, 11, 2**31, 2**63, 2**64, 10**30, -(10**30)]
    + [0.5, -0.0, 1e-300, 5e-324, 1e-9, 1e9, 1e38, 1e39, 1e300, 1e308, -1e308, 3.0, 2.9999999999]
    + [float("nan"), float("inf"), float("-inf")]
)
WORDS = [
    "",
    " ",
    "all",
    "drag",
    "DRAG",
    "nose",
    "0",
    "null",
    "a\nb",
    "\x00",
    "\ud83d",
    "\u202e",
    "e\u0301",
    "\U0001f600",
] + ["x" * 10_000, "linear", "vertical", "-1", "1.0", "nose\u200b"]
SPELLINGS = ["NaN", "-Infinity", "1e999", "9" * 5000, "03", "+3", "3.", "0x3"]
OTHERS = [
    None,
    True,
    False,
    [],
    {},
    [[]],
    [None],
    {"": None},
    [0] * 10_000,
    [[0, 1, 2]] * 5000,
    {"t": 0, "x": 1, "y": 2},
]


def valid():
    """An edit that uses every operation and most fields, on a clip of 80x48 and 11 frames."""
    window = {"start_frame": 2, "end_frame": 9}
    operations = [
        {"op": "uncamera", "reference": [2, 3, 4, 5], "frame": 0, "model": "affine"},
        {
            "op": "drag",
            "points": [0, "nose"],
            "start": [10, 10],
            "end": [30, 20],
            "falloff": 12,
            "ease": "linear",
            "boxes": {"0": [4, 3, 60, 40], "7": [1.5, 2, 79, 47]},
            "strokes": {"3": [{"path": [[10, 10], [20, 30.5]], "radius": 3}, {"path": [[50, 9]], "radius": 1.5}]},
            **window,
        },
        {"op": "drag", "points": 6, "by": [5, -5], "masks": "masks.npz", "boxes": [[4, 40, 20, 60, 40]]},
        {"op": "recamera"},
        {"op": "drift", "points": "nose", "velocity": [1, -0.5], "t_origin": 3.5, **window},
        {"op": "keyframes", "points": 0, "keyframes": {"0": [10, 10], "8": [70, 40]}, "interpolation": "smooth"},
        {
            "op": "tween",
            "points": [2, 3],
            "keyframes": [[1, 5, 5], [9, 60, 30]],
            "keep_motion": True,
            "ease": {"1": "in"},
        },
        {"op": "retime", "points": [4, 5], "speed": 0.5, "about": 2},
        {"op": "retime", "points": [4], "times": [t / 2 for t in range(T)], **window},
        {"op": "reverse", "points": [2, 3], **window},
        {
            "op": "freeze",
            "points": 3,
            "frame": 4,
            "start_frame": 4,
            "masks": {"4": "mask.png"},
            "strokes": {"5": [{"path": [[70, 6], [71, 7], [90, 8]], "radius": 2, "sign": "remove"}]},
        },
        {"op": "scale", "points": [2, 3, 4], "factor": 1.2, **window},
        {"op": "rotate", "points": "all", "degrees": 15, "center": [40, 24]},
        {"op": "spin", "points": [2, 3], "by": [4, 2], "radius": 30, "center": [40, 24]},
        {"op": "move_camera", "points": [2, 3, 4], "move": "pan", "degrees": 4, "view": 50, **window},
        {"op": "move_camera", "move": "dolly", "distance": 0.1},
        {"op": "magnify", "points": [2, 3], "factor": 1.5, "time": 1, **window},
        {"op": "mirror", "points": [2, 3], "axis": "horizontal"},
        {"op": "mirror", "points": [5], "at": 40},
        {"op": "swap", "first": [0], "second": ["nose"], "by": "point"},
        {"op": "swap", "first": [0, 1], "second": [2], "by": "center", "end_frame": 5},
        {"op": "hide", "points": [0], "start_frame": 8},
        {"op": "show", "points": [0], "start_frame": 9},
        {"op": "blend_back", "points": [6], **window, "ease": "smooth"},
        {"op": "tween", "points": [2, 3], "by": {"0": [0, 0], "7": [5, -30.5]}, "ease": {"0": "out"}},
        {"op": "jitter", "amount": 0.5},
    ]
    places = [[0, 10, 10], {"t": 3, "x": 40, "y": 20, "name": "nose"}, [0, 5, 5], [0, 75, 6], [0, 6, 40], [2, 70, 42]]
    queries = [*places, [0, 50, 30.5]]
    document = {"queries": queries, "operations": operations, "prompt": "a mouse", "seed": 3, "frames": T}
    return document | {"order": ["nose", 2, 10]}


def slots(value, found=None):
    """List every (container, key) in nested lists and dicts."""
    found = [] if found is None else found
    for key in value if isinstance(value, dict) else range(len(value)):
        found.append((value, key))
        if isinstance(value[key], dict | list):
            slots(value[key], found)
    return found


def pick(rng, items):
    return items[int(rng.integers(len(items)))]


def change_value(rng, document):
    """Put another number for a number, another word for a word, and so on."""
    container, key = pick(rng, [slot for slot in slots(document) if not isinstance(slot[0][slot[1]], dict | list)])
    container[key] = pick(rng, WORDS if isinstance(container[key], str) else NUMBERS)


def change_type(rng, document):
    container, key = pick(rng, slots(document))
    container[key] = copy.deepcopy(pick(rng, OTHERS + NUMBERS + WORDS))


def scale_number(rng, document):
    number = [(c, k) for c, k in slots(document) if isinstance(c[k], int | float) and not isinstance(c[k], bool)]
    container, key = pick(rng, number)
    container[key] *= pick(rng, [-1, 0, 1.0, 1.5, 10, 100, 1e4, 1e30, -1e30])


def nudge(rng, document):
    """Change a number a little, as somebody does who tries things."""
    number = [(c, k) for c, k in slots(document) if isinstance(c[k], float) or (isinstance(c[k], int) and c[k] > 1)]
    container, key = pick(rng, number)
    container[key] += pick(rng, [-1, 1, 0.0])


def change_key(rng, document):
    """Lose a field, misspell it, or give another field's value to it."""
    container = pick(rng, [c for c, _ in slots(document) if isinstance(c, dict)])
    key = pick(rng, list(container))
    value = container.pop(key)
    if rng.random() < 0.7:
        others = [*FIELDS, "op", "points", "by", "end", "times", "speed", "at", "frame", "keyframes", *WORDS]
        container[pick(rng, [key.upper(), key + "s", key[::-1], *others])] = value


def change_order(rng, document):
    """Swap, drop, or repeat the items of a list, or nest one item deeper."""
    items = pick(rng, [c for c, _ in slots(document) if isinstance(c, list) and c])
    one, two = rng.integers(len(items), size=2)
    kind = rng.integers(4)
    if kind == 0:
        items[one], items[two] = items[two], items[one]
    elif kind == 1:
        del items[one]
    elif kind == 2:
        items.extend(copy.deepcopy(items[one : one + 1]) * int(pick(rng, [1, 3, 5000])))
    else:
        for _ in range(int(pick(rng, [1, 2, 10, 100]))):
            items[one] = [items[one]]


STRUCTURES = (change_value, change_type, scale_number, nudge, nudge, change_key, change_order)


def change_bytes(rng, data):
    """Cut, repeat, exchange and damage the file itself."""
    text = data.decode()
    place = int(rng.integers(1, len(data)))
    return pick(
        rng,
        [
            lambda: data[:place],
            lambda: data[:place] + bytes([rng.integers(256)]) + data[place + 1 :],
            lambda: data[:place] + data[place - 1 :],
            lambda: data[:place] + bytes(rng.integers(0, 256, 8, dtype=np.uint8)) + data[place:],
            lambda: b"\xef\xbb\xbf" + data,
            lambda: b"\xef\xbb\xbf\xef\xbb\xbf" + data,
            lambda: text.encode("utf-16"),
            lambda: text.encode("utf-32-le"),
            lambda: text.replace("mouse", "m\u00e4use").encode("latin-1"),
            lambda: text.replace("mouse", "m\\ud83duse").encode(),
            lambda: text.replace('"seed": 3', '"seed": 3, "seed": 4').encode(),
            lambda: text.replace('"op": "recamera"', '"op": "recamera", "op": "hide"').encode(),
            lambda: text.replace('"seed": 3', '"seed": ' + pick(rng, SPELLINGS)).encode(),
            lambda: text.replace("30.5", pick(rng, ["1e308", "1e400", "NaN", "-1e308", "30.5e-320"])).encode(),
            lambda: text.replace("[0, 10, 10]", "[" * 900 + "]" * 900, 1).encode(),
            lambda: text.replace("[0, 10, 10]", "[" * 100_000 + "]" * 100_000, 1).encode(),
            lambda: text.replace("[0, 10, 10]", "[" + "[0, 10, 10]," * 20_000 + "0]", 1).encode(),
            lambda: text.replace("'", '"').replace('"', "'", 2).encode(),
            lambda: text.replace("}", ",}", 1).encode(),
            lambda: b"// an edit\n" + data,
            lambda: data + data,
            lambda: b"\x00" * 100,
            lambda: b"",
        ],
    )()  # fmt: skip


def mutation(number):
    """Write the file of a number: one to three changes of the structure, or one of the bytes."""
    rng, document = np.random.default_rng(number), valid()
    if number % 5 == 4:
        return change_bytes(rng, json.dumps(document).encode())
    for _ in range(int(pick(rng, [1, 1, 1, 2, 3]))):
        pick(rng, STRUCTURES)(rng, document)
    return json.dumps(document, ensure_ascii=bool(rng.random() < 0.5)).encode(errors="surrogatepass")


def moving(queries, num_frames):
    """Tracks that sway, with a lost stretch in every other one."""
    sway = np.stack([np.linspace(0, 6, num_frames), np.sin(np.arange(num_frames))], axis=-1)
    visible = np.ones((len(queries), num_frames), bool)
    visible[::2, 6:9] = False
    return tracks.from_arrays(queries[:, None, 1:] + sway, visible)


def result(path):
    """Make of a file what an edit makes of it before anything is sampled; None if it is refused, in one short line."""
    try:
        spec = load(path)
        spec = spec.validate_against(SIZE, T)
        source = moving(spec.queries, spec.frames or T)
        return spec.apply(source, notify=lambda line: one_line(line, 1500))
    except EditError as error:
        one_line(str(error).replace(str(path), ""), 400)
        return None


def one_line(text, most):
    assert text.strip() and len(text.splitlines()) == 1 and len(text) < most, text[:1000]
    text.encode()  # printable on a terminal: no half of a surrogate pair


def check(numbers, path):
    outcomes = []
    for number in numbers:
        path.write_bytes(mutation(number))
        start = time.process_time()
        tracks = result(path)
        assert time.process_time() - start < 20, number
        outcomes.append(tracks is not None)
        if tracks is not None:
            height, width = SIZE
            assert np.isfinite(tracks.xy).all(), number
            assert (np.abs(tracks.xy - np.array([width, height]) / 2) <= 10.5 * np.array([width, height])).all(), number
    return outcomes


def test_the_edit_that_is_mutated_is_right(tmp_path):
    (tmp_path / "edit.json").write_text(json.dumps(valid()))
    assert {ALIASES.get(o["op"], o["op"]) for o in valid()["operations"]} == set(OPERATIONS)
    assert result(tmp_path / "edit.json").xy.shape == (7, T, 2)


@pytest.mark.filterwarnings("error")
def test_mutated_edits_give_a_result_or_one_line(tmp_path):
    outcomes = check(range(QUICK), tmp_path / "edit.json")
    assert 10 < sum(outcomes) < QUICK - 20  # some harmless, most refused


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_all_mutated_edits_give_a_result_or_one_line(tmp_path):
    outcomes = check(range(QUICK, ALL), tmp_path / "edit.json")
    assert 40 < sum(outcomes) < ALL - QUICK - 100


def test_a_refused_edit_leaves_nothing_behind(tmp_path, monkeypatch):
    """The whole way from files to files, with an editor that gives back its clip."""
    editor = mock.MagicMock(num_frames=T, size=SIZE, mesh=None)
    editor.model.method.remakes.return_value = False
    editor.model.vae.memory_notice.return_value = editor.reused_steps.return_value = None
    editor.edit.side_effect = lambda clip, *args, **options: clip
    monkeypatch.setattr(opening, "load", lambda *args, **options: editor)
    run = functools.partial(files.run, tmp_path / "clip.mp4", tmp_path / "edit.json", out=tmp_path / "out", say=str)
    picture = np.random.default_rng(0).integers(0, 256, (1, 6, 10, 3), dtype=np.uint8)
    video.write(tmp_path / "clip.mp4", np.repeat(video.resize(picture, SIZE), T, axis=0), fps=10)
    refused = 0
    for number in range(30):
        (tmp_path / "edit.json").write_bytes(mutation(number))
        if result(tmp_path / "edit.json") is None:
            with pytest.raises(ValueError) as caught:
                run(checkpoint="tiny" if number % 2 else None)
            one_line(str(caught.value).replace(str(tmp_path), ""), 400)
            assert sorted(p.name for p in tmp_path.iterdir()) == ["clip.mp4", "edit.json"], number
            refused += 1
    assert refused > 15
    (tmp_path / "edit.json").write_text(json.dumps(valid()))
    run(checkpoint="tiny")
    assert (tmp_path / "out" / "edited.mp4").exists()
    # And the draft, of every operation at once.
    np.savez(tmp_path / "masks.npz", np.arange(T * SIZE[0] * SIZE[1]).reshape(T, *SIZE) % 7 < 5)
    Image.fromarray(np.eye(*SIZE, dtype=bool)).save(tmp_path / "mask.png")
    said = []
    drawn = run(out=tmp_path / "drawn", say=said.append)
    assert drawn.edited.frames.shape == (T, *SIZE, 3)
    for line in said:
        one_line(line.replace(str(tmp_path), ""), 600)

"""edit.json: the documented example works, the table covers the vocabulary, and every mistake gets one clear line."""

import inspect
import json
import re

import numpy as np
import pytest

from motionv2v import edits, tracks
from motionv2v.edits import in_depth, operations, selection
from motionv2v.edits.document import FIELDS, MAX_POINTS, OPERATIONS, EditError, __doc__, describe, load, parse
from motionv2v.edits.fields import KINDS

SIZE, T = (480, 720), 49


def example():
    block = re.search(r"\n    \{\n.*?\n    \}\n", __doc__, re.DOTALL).group()
    return json.loads(block)


def moving_tracks(queries):
    sway = np.stack([np.linspace(0, 30, T), 5 * np.sin(np.arange(T))], axis=-1)
    return tracks.from_arrays(queries[:, None, 1:] + sway)


def edit(**operation):
    back = [{"op": "recamera"}] if operation["op"] == "uncamera" else []
    return {"queries": [[0, 10, 20], [0, 30, 40], [2, 50, 60]], "operations": [operation, *back]}


def test_documented_example_is_the_chain_of_edits_it_says():
    spec = parse(example()).validate_against(SIZE, T)
    source = moving_tracks(spec.queries)
    expected, homographies = edits.uncamera(source, [2, 3, 4, 5], frame=0)
    expected = edits.drag(expected, [0, 1], start=(310, 220), end=(360, 180), start_frame=4, end_frame=30)
    expected = edits.tween(
        expected, [1], keyframes={0: (420, 190), 24: (470, 120), 48: (420, 60)}, interpolation="smooth"
    )
    expected = edits.hide(edits.recamera(expected, homographies), [0], start_frame=40)
    expected = edits.jitter(np.random.default_rng(7), expected)
    got = spec.apply(source)
    np.testing.assert_array_equal(got.xy, expected.xy)
    np.testing.assert_array_equal(got.visible, expected.visible)
    assert (spec.prompt, spec.seed, spec.frames) == ("a dog jumps over a puddle", 7, 49)
    assert spec.queries[1].tolist() == [12, 420, 190] and spec.names == {"nose": 1}


def test_load_reads_what_parse_takes(tmp_path):
    path = tmp_path / "edit.json"
    path.write_text(json.dumps(example()), encoding="utf-8-sig")
    loaded, parsed = load(path), parse(example())
    np.testing.assert_array_equal(loaded.queries, parsed.queries)
    assert loaded.steps == parsed.steps


def test_the_table_is_the_vocabulary():
    own = (operations.__name__, in_depth.__name__)
    functions = {name for name, value in vars(edits).items() if getattr(value, "__module__", "") in own}
    assert {name for name in functions if not name.startswith("_")} == set(OPERATIONS)
    for name, operation in OPERATIONS.items():
        parameters = set(inspect.signature(operation.function).parameters)
        assert parameters - {"tracks", "rng", "original", "homographies", "notify", "size"} == set(operation.fields), (
            name
        )
        assert set(operation.fields.values()) <= set(KINDS), name
        assert f"\n{name}" in __doc__, name
    used = {kind for operation in OPERATIONS.values() for kind in operation.fields.values()}
    assert used == set(KINDS)


def test_describe_tells_every_field_and_every_bound():
    text = describe()
    assert __doc__.count("\n\n") > 3 and __doc__.partition("\n\n")[2] == text + "\n"
    for name in FIELDS:
        assert re.search(rf"^\[?{name}\]?: ", text, re.MULTILINE), name
    for operation in OPERATIONS.values():
        for word, kind in operation.fields.items():
            assert re.search(
                rf"^([\w, ]+, )?{word}(, [\w, ]+)?: {re.escape(KINDS[kind].meaning)}$", text, re.MULTILINE
            ), word
    for allowed in (selection.FACTOR, selection.FALLOFF, selection.AMOUNT, selection.SPEED, selection.DEGREES):
        assert str(allowed) in text
    assert "[amount = 2.0]" in text and "[speed]" in text and f"1 to {MAX_POINTS} of them" in text


EVERY_OPERATION = [
    {"op": "drag", "by": [5, 6], "falloff": 30, "ease": "linear", "end_frame": 9},
    {"op": "drift", "points": 1, "velocity": [1, -1], "t_origin": 3.5},
    {"op": "tween", "points": [0, 2], "keyframes": [[0, 1, 2], [8, 3, 4]], "keep_motion": True},
    {"op": "tween", "points": [1], "keyframes": {"0": [1, 2], "8": [3, 4]}, "ease": "in-out"},
    {"op": "tween", "points": [0, 1], "by": {"0": [0, 0], "8": [-900, 4]}, "ease": {"0": "in"}},
    {"op": "tween", "by": [[3, 5, 6]], "keep_motion": True},
    {"op": "tween", "points": [1], "keyframes": {"0": [1, 2], "8": [3, 4]}, "ease": {"0": "hold"}},
    {"op": "retime", "points": "all", "speed": -1, "about": 24},
    {"op": "retime", "times": [0.5] * T},
    {"op": "reverse", "start_frame": 3, "end_frame": 9},
    {"op": "freeze", "frame": 4, "start_frame": 0},
    {"op": "scale", "factor": 1.5, "center": [100, 100]},
    {"op": "rotate", "degrees": -30},
    {"op": "spin", "points": [0, 1], "by": [9, 4], "radius": 400, "center": [300, 200]},
    {"op": "move_camera", "move": "pan", "degrees": -5},
    {"op": "move_camera", "move": "orbit", "points": [0, 2], "end_frame": 9, "view": 40},
    {"op": "move_camera", "move": "dolly", "distance": -0.3},
    {"op": "magnify", "factor": 4, "space": 30, "time": 1.5, "end_frame": 9},
    {"op": "mirror", "axis": "horizontal", "at": 200},
    {"op": "swap", "first": 0, "second": [1]},
    {"op": "show", "points": [0]},
    {"op": "hide", "points": [0]},
    {"op": "blend_back", "start_frame": 10, "end_frame": 20},
    {"op": "uncamera", "reference": [0, 1, 2], "model": "similarity", "frame": 1},
    {"op": "jitter", "amount": 0.5},
]


@pytest.mark.parametrize("operation", EVERY_OPERATION, ids=lambda operation: operation["op"])
def test_every_operation_applies(operation):
    spec = parse(edit(**operation)).validate_against(SIZE, T)
    source = moving_tracks(spec.queries)
    got = spec.apply(source)
    assert got.xy.shape == source.xy.shape and got.xy.dtype == np.float32
    if operation["op"] not in (
        "show",
        "blend_back",
        "uncamera",
    ):  # these points are visible, and where they were or are put back
        assert not (np.array_equal(got.xy, source.xy) and np.array_equal(got.visible, source.visible))


def test_every_operation_is_tried_above():
    assert {operation["op"] for operation in EVERY_OPERATION} | {"recamera"} == set(OPERATIONS)


def test_blend_back_inside_uncamera_returns_to_the_original():
    document = edit(op="uncamera", reference=[0, 1])
    document["operations"][1:] = [
        {"op": "drag", "points": 2, "by": [50, 0]},
        {"op": "blend_back", "start_frame": 10, "end_frame": 20},
        {"op": "recamera"},
    ]
    spec = parse(document)
    source = moving_tracks(spec.queries)
    got = spec.apply(source)
    np.testing.assert_allclose(got.xy[2, 20:], source.xy[2, 20:], atol=1e-2)  # float32 through the camera and back
    assert np.abs(got.xy[2, :10] - source.xy[2, :10]).max() > 40


def test_whole_floats_are_whole_numbers():
    """A program that knows one kind of number writes 3.0."""
    written = {"queries": [[0, 10, 20], {"t": 2, "x": 30, "y": 40}], "seed": 4, "frames": 30}
    written["operations"] = [
        {"op": "drag", "points": [0, 1], "by": [3, 4], "start_frame": 1, "end_frame": 7},
        {"op": "tween", "points": 1, "keyframes": {"3": [9, 9]}},
        {"op": "keyframes", "points": 0, "keyframes": [[3, 9, 9]]},
    ]
    floats = json.loads(json.dumps(written), parse_int=float)
    floats["operations"][1]["keyframes"] = {"3.0": [9, 9]}
    spec, expected = (parse(document).validate_against(SIZE, T) for document in (floats, written))
    np.testing.assert_array_equal(spec.queries, expected.queries)
    assert (spec.steps, spec.seed, spec.frames) == (expected.steps, 4, 30)


def test_python_hands_over_what_it_has():
    """Tuples, arrays and numpy's numbers, keyframes by number."""
    document = {"queries": np.array([[0, 10, 20]]), "operations": ({"op": "tween", "keyframes": {3: (4.0, 5)}},)}
    spec = parse(document | {"seed": np.int64(3)})
    assert spec.queries.tolist() == [[0, 10, 20]] and spec.steps[0].arguments == {"keyframes": {3: (4.0, 5.0)}}


def test_a_name_is_found_however_its_accents_are_typed():
    document = {"queries": [{"t": 0, "x": 1, "y": 2, "name": "caf\u00e9"}], "operations": []}
    document["operations"] = [{"op": "hide", "points": "cafe\u0301"}]
    assert parse(document).steps[0].arguments == {"points": [0]}


def test_lost_points_are_told_once_and_by_name():
    document = edit(op="drag", points=[0, "nose"], by=[1, 1])
    document["queries"][1] = {"t": 0, "x": 30, "y": 40, "name": "nose"}
    document["operations"].append({"op": "scale", "points": ["nose", 0], "factor": 2})
    spec = parse(document).validate_against(SIZE, T)
    source = edits.hide(edits.hide(moving_tracks(spec.queries), 2), 1, start_frame=40)
    said = []
    spec.apply(source, notify=said.append)
    assert said == [
        "the tracker lost point 1 (nose) in frames 40-48: there a point is free, unless a show says otherwise, and its "
        "group goes as the others do"
    ]
    spec.apply(edits.show(source, 1), notify=said.append)
    assert len(said) == 1  # point 2 is lost, and nothing is done with it


def test_an_edit_of_nothing_changes_nothing():
    spec = parse(TOP).validate_against(SIZE, T)
    source = edits.hide(moving_tracks(spec.queries), end_frame=3)
    np.testing.assert_array_equal(spec.apply(source).xy, source.xy)


def test_a_group_with_a_lost_point_stays_whole():
    spec = parse(edit(op="keyframes", keyframes={"0": [30, 40], "48": [300, 40]}))
    whole = moving_tracks(spec.queries)
    lossy = edits.hide(edits.freeze(whole, 0, frame=4), 0, start_frame=5)
    np.testing.assert_allclose(spec.apply(lossy, notify=str).xy, spec.apply(whole).xy, atol=1e-3)


def test_what_apply_sends_too_far_is_named():
    document = edit(op="scale", factor=30)
    document["operations"].append({"op": "scale", "factor": 30})
    spec = parse(document).validate_against(SIZE, T)
    with pytest.raises(
        EditError, match=r"^operations\[1\] \(scale\): sends point 0 to .* at most 10 frame sizes outside"
    ):
        spec.apply(moving_tracks(spec.queries))


def test_same_seed_same_jitter():
    document = edit(op="jitter")
    spec, other = parse(document), parse({**document, "seed": 1})
    source = moving_tracks(spec.queries)
    np.testing.assert_array_equal(spec.apply(source).xy, spec.apply(source).xy)
    assert not np.array_equal(spec.apply(source).xy, other.apply(source).xy)


TOP = {"queries": [[0, 1, 2]], "operations": []}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "the file: must be an object with queries, operations"),
        ({"operations": []}, "the file: needs the field 'queries'"),
        ({**TOP, "promt": "x"}, "unknown field 'promt'; did you mean 'prompt'?"),
        ({**TOP, "prompt": 3}, "prompt: must be a string, got 3"),
        ({**TOP, "seed": -1}, "seed: must be a whole number, at least 0, got -1"),
        ({**TOP, "seed": True}, "seed: must be a whole number, at least 0, got true"),
        ({**TOP, "frames": 2.5}, "frames: must be a whole number, at least 1, got 2.5"),
        ({**TOP, "queries": []}, "queries: must be a list with at least one point"),
        ({**TOP, "queries": [[1, 2]]}, r"queries[0]: must be [t, x, y] or an object with t, x and y, got [1, 2]"),
        ({**TOP, "queries": [[0.5, 1, 2]]}, "queries[0].t: must be a whole number"),
        ({**TOP, "queries": [[0, "1", 2]]}, 'queries[0].x: must be a number, got "1"'),
        ({**TOP, "queries": [[0, 1, float("nan")]]}, "queries[0].y: must be a finite number, got NaN"),
        ({**TOP, "queries": [[0, 1, 10**400]]}, "queries[0].y: must be a finite number"),
        ({**TOP, "queries": [{"frame": 0, "x": 1, "y": 2}]}, "queries[0]: unknown field 'frame'"),
        ({**TOP, "queries": [{"t": 0, "x": 1}]}, "queries[0]: needs the field 'y'"),
        ({**TOP, "queries": [{"t": 0, "x": 1, "y": 2, "name": "a"}] * 2}, "[1].name: 'a' already names queries[0]"),
        ({**TOP, "operations": {}}, "operations: must be a list"),
        ({**TOP, "operations": ["drag"]}, 'operations[0]: must be an object with "op", one of drag, drift'),
        (edit(op="darg", by=[1, 1]), "operations[0]: unknown operation 'darg'; did you mean 'drag'? operations: drag,"),
        (edit(op="drag", point=[0], by=[1, 1]), "operations[0] (drag): unknown field 'point'; did you mean 'points'?"),
        (edit(op="drag", points=[3], by=[1, 1]), "(drag).points: there is no point 3; the queries are 0..2"),
        (edit(op="drag", points=[-1], by=[1, 1]), "there is no point -1"),
        (edit(op="drag", points=["noze"], by=[1, 1]), "no query is named 'noze'; names: none"),
        (edit(op="drag", points=[0, 0], by=[1, 1]), "point 0 is listed twice"),
        (edit(op="drag", points=[], by=[1, 1]), "names no points"),
        (edit(op="drag", points=[True], by=[1, 1]), "must be indices of queries, names"),
        (edit(op="drag"), "operations[0] (drag): needs either start and end or by, got neither"),
        (edit(op="drag", start=[1, 1]), "needs either start and end or by, got start"),
        (edit(op="drag", start=[1, 1], end=[2, 2], by=[1, 1]), "got start and end and by"),
        (edit(op="drag", by=[1]), "operations[0] (drag).by: must be [x, y], got [1]"),
        (edit(op="drag", by=[1, 1], ease="smoth"), "(drag).ease: must be one of linear, smooth, got"),
        (edit(op="drag", by=[1, 1], falloff=-3), "(drag).falloff: must be 0, or from 0.1 to 100000 pixels, got -3"),
        (edit(op="drag", by=[1, 1], start_frame=9, end_frame=3), "(drag): start_frame 9 comes after end_frame 3"),
        (edit(op="drag", by=[1, 1], start_frame=-1), "(drag).start_frame: must be a whole number, at least 0, got -1"),
        (edit(op="drift"), "operations[0] (drift): needs the field 'velocity'"),
        (edit(op="retime", speed=1, times=[1, 2]), "needs either speed or times, got speed and times"),
        (edit(op="retime", times=[1, "2"]), "(retime).times[1]: must be a number"),
        (edit(op="keyframes", keyframes={}), "operations[0] (keyframes).keyframes: needs at least one keyframe"),
        (edit(op="keyframes", by=[1, 2]), '(keyframes).by: must be {"frame": [x, y], ...}'),
        (edit(op="keyframes"), "operations[0] (keyframes): needs either keyframes or by, got neither"),
        (edit(op="keyframes", by={"3": [1, 1]}, keyframes={"3": [1, 1]}), "keyframes or by, got keyframes and by"),
        (edit(op="keyframes", keyframes={"a": [1, 1]}), 'keys must be frame numbers like "12", got "a"'),
        (edit(op="keyframes", keyframes={"9" * 5000: [1, 1]}), "keys must be frame numbers"),
        (edit(op="keyframes", keyframes={"3": [1, 1], "03": [2, 2]}), "frame 3 is given twice"),
        (edit(op="keyframes", keyframes=[[3, 1, 1], [3, 2, 2]]), "frame 3 is given twice"),
        (edit(op="keyframes", keyframes={"3": 1}), "(keyframes).keyframes, frame 3: must be [x, y], got 1"),
        (edit(op="keyframes", keyframes={"3": [1, 1]}, keep_motion=1), "keep_motion: must be true or false, got 1"),
        (edit(op="scale", factor=0), "(scale).factor: must be from 0.001 to 1000, got 0"),
        (edit(op="scale", factor=1e9), "(scale).factor: must be from 0.001 to 1000, got 1000000000.0"),
        (
            edit(op="drag", by=[1, 1], falloff=1e-300),
            "(drag).falloff: must be 0, or from 0.1 to 100000 pixels, got 1e-300",
        ),
        (edit(op="drag", by=[1e30, 1]), "(drag).by[0]: must be from -100000 to 100000 pixels, got 1e+30"),
        (edit(op="drift", velocity=[1, -1e30]), "(drift).velocity[1]: must be from -10000 to 10000 pixels per frame"),
        (edit(op="jitter", amount=1e6), "(jitter).amount: must be from 0 to 1000 pixels"),
        (edit(op="retime", speed=1e6), "(retime).speed: must be from -1000 to 1000 times the clip's own"),
        (edit(op="retime", times=[0, 1e30]), "(retime).times[1]: must be from -100000 to 100000 frames"),
        ({**TOP, "queries": [[0, 1e30, 2]]}, "queries[0].x: must be from -100000 to 100000 pixels, got 1e+30"),
        ({**TOP, "queries": [[3.5, 1, 2]]}, "queries[0].t: must be a whole number, at least 0, got 3.5"),
        ({**TOP, "queries": [[0, 1, 2]] * 4097}, "queries: 4097 points; an edit has at most 4096"),
        ({**TOP, "operations": [{"op": "jitter"}] * 1001}, "operations: 1001 of them; an edit has at most 1000"),
        ({**TOP, "queries": [{"t": 0, "x": 1, "y": 2, "name": "a\nb"}]}, "queries[0].name: must be a word or a few"),
        ({**TOP, "prompt": "half \ud83d"}, "is not text: it has half of a surrogate pair"),
        ({**TOP, "queries": [[[[[[[[[[1]]]]]]]]]]}, "the file: is nested more than 8 deep"),
        (edit(op="x" * 5000), "operations[0]: unknown operation 'xxxxx"),
        (edit(op="hide", points=[["x" * 5000]]), "(hide).points: must be indices of queries, names"),
        (edit(op="hide", points="x" * 5000), "(hide).points: no query is named 'xxxxx"),
        (edit(op="hide", **{"x" * 5000: 1}), "(hide): unknown field 'xxxxx"),
        (edit(op="recamera"), "operations[0] (recamera): there is no camera motion to put back"),
        (
            {**TOP, "operations": [{"op": "uncamera", "reference": 0}, {"op": "jitter"}]},
            "operations[0] (uncamera): the camera motion is never put back, so paths would not fit the clip; "
            'put {"op": "recamera"} after',
        ),
    ],
)
def test_parse_says_what_where_and_what_would_be_right(document, message):
    with pytest.raises(EditError) as caught:
        parse(document)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({**TOP, "frames": 50}, "frames: asks for 50 frames, but the clip has 49"),
        ({**TOP, "queries": [[49, 1, 2]]}, "queries[0]: there is no frame 49; the clip has frames 0..48"),
        ({**TOP, "queries": [[20, 1, 2]], "frames": 17}, "queries[0]: there is no frame 20; the clip has frames 0..16"),
        ({**TOP, "queries": [[0, 721, 2]]}, "(721, 2) is outside the allowed x 0..720, y 0..480; the video"),
        ({**TOP, "queries": [[0, 1, -2]]}, "queries[0]: (1, -2) is outside"),
        (edit(op="drag", start=[10, 500], end=[20, 30]), "operations[0] (drag).start: (10, 500) is outside"),
        (edit(op="drag", start=[10, 50], end=[20, 1000]), "(drag).end: (20, 1000) is outside the allowed x -720"),
        (edit(op="tween", keyframes={"3": [9999, 1]}), "operations[0] (tween).keyframes: (9999, 1) is outside"),
        (edit(op="tween", keyframes={"60": [9, 1]}), "operations[0] (tween).keyframes: there is no frame 60"),
        (edit(op="tween", by={"60": [9, 1]}), "operations[0] (tween).by: there is no frame 60"),
        (edit(op="tween", by={"6": [1441, 1]}), "operations[0] (tween).by: (1441, 1) is outside the allowed"),
        (edit(op="tween", by={"6": [9, 1]}, keep_motion=False), "operations[0] (tween): by shifts points on their own"),
        (edit(op="tween", keyframes={"6": [9, 1]}, ease={"60": "in"}), "operations[0] (tween).ease: there is no frame"),
        (edit(op="tween", keyframes={"6": [9, 1]}, ease={"5": "in"}), "ease: frame 5 is no keyframe"),
        (edit(op="hide", end_frame=49), "operations[0] (hide).end_frame: there is no frame 49"),
        (edit(op="retime", times=[1, 2]), "operations[0] (retime).times: has 2 numbers, but the clip has 49 frames"),
        (edit(op="swap", first=[0, 1], second=[1]), "(swap): swap needs two separate groups, but point 1"),
        (edit(op="freeze", frame=30, end_frame=20), "operations[0] (freeze): start_frame 30 comes after end_frame 20"),
        (edit(op="uncamera", reference=[0, 1], model="affine"), "(uncamera): the camera model 'affine' needs"),
        (edit(op="drag", by=[0, 961]), "(drag).by: (0, 961) is outside the allowed x -1440..1440, y -960..960"),
        (edit(op="drift", velocity=[-721, 0]), "(drift).velocity: (-721, 0) is outside the allowed x -720..720, y"),
        (
            edit(op="drift", velocity=[200, 0]),
            "(drift): sends point 0 to (8010, 20) in frame 40; places are at most 10",
        ),
        (edit(op="scale", factor=1000), "operations[0] (scale): sends point 0 to "),
        (edit(op="mirror", at=1e5), "operations[0] (mirror): sends point 0 to "),
    ],
)
def test_validate_against_finds_what_does_not_fit_the_clip(document, message):
    spec = parse(document)
    with pytest.raises(EditError) as caught:
        spec.validate_against(SIZE, T)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_places_may_leave_the_frame_but_not_by_much():
    parse(edit(op="drag", start=[10, 50], end=[-300, 900])).validate_against(SIZE, T)
    parse(edit(op="tween", keyframes={"0": [-719, 1], "48": [1439, 1]})).validate_against(SIZE, T)


def test_apply_names_the_operation_that_fails():
    spec = parse({**edit(op="uncamera", reference=[0, 1])}).validate_against(SIZE, T)
    same = tracks.from_arrays(np.full((3, T, 2), 5.0))
    with pytest.raises(EditError, match=r"operations\[0\] \(uncamera\): the reference points coincide in frame 0"):
        spec.apply(same)
    with pytest.raises(EditError, match="the edit has 3 queries, but the tracks have shape"):
        spec.apply(tracks.select(same, [0]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{\n "queries": [[0, 1, 2],]\n}', "line 2, column"),
        (b"", "line 1, column 1: not valid JSON"),
        (b'{"queries": [[0, NaN, 2]], "operations": []}', "NaN is not a number that JSON knows"),
        (b'{"seed": 1, "seed": 2}', "the field 'seed' is written twice"),
        (b'{"queries": [[0, 1e999, 2]], "operations": []}', "queries[0].x: must be a finite number"),
        (b"[" * 100_000, "recursion"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "limit"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
    ],
)
def test_load_explains_broken_files(tmp_path, text, message):
    path = tmp_path / "edit.json"
    path.write_bytes(text)
    with pytest.raises(EditError) as caught:
        load(path)
    assert str(caught.value).startswith(str(path)) and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_load_of_a_missing_file(tmp_path):
    with pytest.raises(EditError, match=r"none\.json: cannot be read \(No such file"):
        load(tmp_path / "none.json")

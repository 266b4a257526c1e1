"""A project as one file: the same state in another workspace; and files made to do harm, which are refused whole."""

import hashlib
import io
import json
import stat
import struct
import zipfile

import moving_square
import numpy as np
import pytest

from motionv2v import video
from motionv2v.editing import mask_files, projects
from motionv2v.editing.session import Session
from motionv2v.edits import track_files
from motionv2v.tracks import Tracks

X, Y = (float(side) + 10 for side in moving_square.corners()[0])


@pytest.fixture
def session(tmp_path):
    """A project with everything in it: a bend, a mark, imported paths, something undone."""
    video.write(tmp_path / "square.mp4", moving_square.draw(), fps=8, crf=4)
    made = Session(tmp_path / "first")
    made.open(tmp_path / "square.mp4")
    made.add_point(0, X, Y)
    made.bend(["p1"], 4, 0, 20)
    made.fix("p1", 6, X + 26, Y + 2)
    xy = np.stack([moving_square.corners(shift) + 10 for shift in ((3, 3), (5, 5))]).astype(np.float32)
    made.import_tracks(track_files.write(tmp_path / "a.npz", Tracks(xy, xy[..., 0] > 20), moving_square.SIZE, 8))
    made.change_point("p1", label="nose", locked=True)
    made.set(prompt="a red square")
    made.undo()
    yield made
    made.runs.close()


@pytest.fixture
def saved(session, tmp_path):
    return session.save_project(tmp_path / "mine.mv2v")


def without_places(state):
    """Leave out what names the workspace."""
    state = json.loads(json.dumps(state))
    state["project"]["clip"] = state["command"] = state["revision"] = state["session"] = None
    return state


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_project_travels(session, saved, tmp_path):
    (tmp_path / "square.mp4").unlink()  # the file alone has to do
    opened = Session(tmp_path / "second")
    assert opened.open_project(saved) == []
    first, second = without_places(session.state()), without_places(opened.state())
    assert first == second and len(second["undo"]) == 6 and second["redo"] == ["Set prompt"]
    np.testing.assert_array_equal(opened.target().xy, session.target().xy)
    np.testing.assert_array_equal(opened.draft_frames()[4], session.draft_frames()[4])
    assert opened.project["clip"] == str((tmp_path / "second" / "clips" / "square.mp4").resolve())
    levels = [json.dumps(opened.project)]
    while opened.project["points"]:
        opened.undo()
        opened.state()
        levels.append(json.dumps(opened.project))
    again = Session(tmp_path / "second")
    for expected in levels[-2::-1]:
        again.redo()
        assert json.dumps(again.project) == expected
    again.redo()
    assert again.project["prompt"] == "a red square"
    assert not [name for name in files_in(tmp_path / "second") if name.startswith(".")], "nothing is left over"


def test_rows_of_steps_that_were_left_travel_too(session, tmp_path):
    bends = [session.bend(["p3"], frame, 0, 9) for frame in (2, 6)]
    left = json.dumps(session.project)
    for _ in bends:
        session.undo()
    session.set(prompt="another one")
    before = session.branches()
    assert [row["steps"] for row in before] == [1, 2], "what the fixture undid, and the bends"
    session.save_project(tmp_path / "mine.mv2v")
    opened = Session(tmp_path / "second")
    opened.open_project(tmp_path / "mine.mv2v")
    assert opened.branches() == before
    for whose in (opened, Session(tmp_path / "second")):  # read anew, too
        whose.take_branch(1)
        assert json.dumps({**whose.project, "clip": session.project["clip"]}) == left
        whose.undo()
        whose.undo()
        assert whose.project["prompt"] == "another one"
    other = video.write(tmp_path / "other.mp4", moving_square.draw((0, 9)), fps=8, crf=4)
    session.open(other)
    session.set(prompt="of another clip")
    session.save_project(tmp_path / "other.mv2v")
    third = Session(tmp_path / "third")
    third.open_project(tmp_path / "other.mv2v")
    assert session.branches() == before and third.branches() == [], "those of the other clip stay behind"


def test_masks_are_read_once_however_many_steps_name_them(session, tmp_path, monkeypatch):
    np.savez(tmp_path / "masks.npz", masks=moving_square.masks())
    session.set_masks(["p3"], tmp_path / "masks.npz")
    for number in range(5):
        session.set(prompt=f"{number}")
    session.save_project(tmp_path / "mine.mv2v")
    found, read = [], mask_files.read
    monkeypatch.setattr(mask_files, "read", lambda path, *given: found.append(path.name) or read(path, *given))
    opened = Session(tmp_path / "second")
    opened.open_project(tmp_path / "mine.mv2v")
    assert len(found) == 1 and len(opened.state()["undo"]) > 5
    np.savez(tmp_path / "masks.npz", masks=moving_square.masks()[:, ::2])
    kept = mask_files.keep(tmp_path, {t: mask for t, mask in enumerate(moving_square.masks()[:, ::2])})
    was = session.project["operations"][-1]["op"]["masks"]
    bad = rewritten(tmp_path / "mine.mv2v", add=[(kept, (tmp_path / kept).read_bytes())])

    def of_another_size(record):
        step = next(step for step in record["undo"] if was in json.dumps(step))
        step["project"] = json.loads(json.dumps(step["project"]).replace(was, kept))

    (tmp_path / "bad.mv2v").write_bytes(bad)
    (tmp_path / "bad.mv2v").write_bytes(rewritten(tmp_path / "bad.mv2v", of_another_size))
    with pytest.raises(ValueError, match="masks"):
        Session(tmp_path / "third").open_project(tmp_path / "bad.mv2v")


def test_opening_is_undone_back_to_what_was_there(session, saved, tmp_path):
    other = np.random.default_rng(0).integers(0, 255, (5, 32, 48, 3)).astype(np.uint8)
    video.write(tmp_path / "other.mp4", other, fps=8)
    opened = Session(tmp_path / "second", "dis")
    opened.open(tmp_path / "other.mp4")
    opened.add_point(0, 20, 20)
    before = opened.state()
    assert opened.open_project(saved) == ["the project was tracked by multistep, and this editor tracks by dis"]
    assert opened.state()["clip"]["frames"] == 9 and len(opened.source().xy) == 3
    while len(opened.state()["undo"]) > 2:
        opened.undo()
    assert opened.state()["source"] == before["source"] and opened.project == before["project"]
    steps = len(session.state()["undo"])
    session.save_project(tmp_path / "again.mv2v")
    session.open_project(tmp_path / "again.mv2v")
    session.open_project(tmp_path / "again.mv2v")
    assert len(session.state()["undo"]) == 2 * steps + 1, "the second time it is open already"
    assert files_in(session.workspace / "clips") == ["square.mp4"]


def test_steps_of_another_clip_stay_behind_and_a_clip_that_is_gone_is_told(session, tmp_path):
    other = np.random.default_rng(0).integers(0, 255, (5, 32, 48, 3)).astype(np.uint8)
    video.write(tmp_path / "o:ther.mp4", other, fps=8)
    session.open(tmp_path / "o:ther.mp4")
    session.set(prompt="noise")
    session.save_project(tmp_path / "other.mv2v")
    with zipfile.ZipFile(tmp_path / "other.mv2v") as archive:
        assert archive.namelist() == ["project.json", "clip/clip.mp4"], "no name that is none on another system"
        assert len(json.loads(archive.read("project.json"))["undo"]) == 1
    opened = Session(tmp_path / "second")
    opened.open_project(tmp_path / "other.mv2v")
    assert opened.project["prompt"] == "noise"
    (tmp_path / "o:ther.mp4").unlink()
    with pytest.raises(ValueError, match="is gone, or larger"):
        session.save_project(tmp_path / "late.mv2v")
    assert not (tmp_path / "late.mv2v").exists()
    with pytest.raises(ValueError, match="no clip is open"):
        Session(tmp_path / "empty").save_project(tmp_path / "late.mv2v")


def rewritten(saved, record=None, drop=(), add=()):
    """Write a project's file anew with another record, without some members, and with others (name, content)."""
    made = io.BytesIO()
    with zipfile.ZipFile(saved) as archive, zipfile.ZipFile(made, "w") as new:
        for name in archive.namelist():
            content = archive.read(name)
            if name == "project.json" and record is not None:
                found = json.loads(content)
                record(found)
                content = json.dumps(found).encode()
            if not name.startswith(tuple(drop)) or not drop:
                new.writestr(name, content)
        for name, content in add:
            new.writestr(name, content)
    return made.getvalue()


def link(name="clip/link.mp4", target="/etc/passwd"):
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info, target


def resized(content, name, size):
    """Let the archive's table say that a member has another size when it is unpacked."""
    at = content.rindex(name)  # in the table, which comes last: the size stands 22 bytes before the name
    return content[: at - 22] + struct.pack("<I", size) + content[at - 18 :]


def set_in(*path, to):
    def change(record):
        for step in path[:-1]:
            record = record[step]
        record[path[-1]] = to

    return change


def other_tracks(saved, hidden=0, kind=np.float32):
    """Write a project's file anew with its imported paths as another program may have them."""
    made = io.BytesIO()
    with zipfile.ZipFile(saved) as archive:
        (member,) = (name for name in archive.namelist() if name.startswith("tracks/"))
        arrays = np.load(io.BytesIO(archive.read(member)))
        xy, visible = arrays["xy"], arrays["visible"].copy()
        visible[0, 3] = False
        xy[0, 3] += hidden
        np.savez(made, xy=xy.astype(kind), visible=visible)
    name = f"{hashlib.sha256(made.getvalue()).hexdigest()[:16]}.npz"

    def renamed(record):
        for project in (record["project"], *(step["project"] for step in record["undo"] + record["redo"])):
            for point in project["points"]:
                if "tracks" in point:
                    point["tracks"] = name

    return rewritten(saved, renamed, drop=["tracks"], add=[(f"tracks/{name}", made.getvalue())])


OFF = {"id": "o2", "on": False, "label": "x"}
POINT = ("project", "points", 0)
BAD = {
    "nothing": (lambda saved: b"", "is no project, or damaged"),
    "a half": (lambda saved: saved.read_bytes()[:200], "is no project, or damaged"),
    "a wrong byte": (lambda saved: saved.read_bytes().replace(b"ftyp", b"ftyq", 1), "damaged .Bad CRC"),
    "an absolute path": (lambda saved: rewritten(saved, add=[("/evil.txt", "x")]), "a member '/evil.txt'"),
    "a folder above": (lambda saved: rewritten(saved, add=[("clip/../../evil.txt", "x")]), "it has a member"),
    "two points": (lambda saved: rewritten(saved, drop=["clip"], add=[("clip/..", "x")]), "it has a member"),
    "a backslash": (lambda saved: rewritten(saved, add=[("clip\\..\\evil.txt", "x")]), "it has a member"),
    "a zero byte": (lambda saved: rewritten(saved, add=[("tracks/a\0.npz", "x")]), "it has a member"),
    "a drive": (lambda saved: rewritten(saved, drop=["clip"], add=[("clip/C:evil", "x")]), "it has a member"),
    "a hidden file": (lambda saved: rewritten(saved, drop=["clip"], add=[("clip/.evil", "x")]), "it has a member"),
    "a folder": (lambda saved: rewritten(saved, add=[("clip/", "")]), "it has a member"),
    "a link": (lambda saved: rewritten(saved, drop=["clip"], add=[link()]), "is a link"),
    "a link for paths": (lambda saved: rewritten(saved, add=[link("tracks/0123456789abcdef.npz")]), "is a link"),
    "two clips": (lambda saved: rewritten(saved, add=[("clip/b.mp4", "x")]), "without project.json and one clip"),
    "no clip": (lambda saved: rewritten(saved, drop=["clip"]), "without project.json and one clip"),
    "no record": (lambda saved: rewritten(saved, drop=["project"]), "without project.json and one clip"),
    "a clip that is none": (
        lambda saved: rewritten(saved, drop=["clip"], add=[("clip/a.mp4", "no video")]),
        "a.mp4",
    ),
    "many members": (
        lambda saved: rewritten(saved, add=[(f"tracks/{number:016x}.npz", "") for number in range(1001)]),
        "members; a project has at most 1000",
    ),
    "a long record": (
        lambda saved: resized(rewritten(saved), b"project.json", projects.MOST_RECORD + 1),
        "bytes; at most",
    ),
    "other paths": (lambda saved: rewritten(saved, add=[(f"tracks/{0:016x}.npz", "x")]), "is not named by its content"),
    "paths that are gone": (lambda saved: rewritten(saved, drop=["tracks"]), "imported path of p3 is not in the file"),
    "no json": (lambda saved: rewritten(saved, drop=["project"], add=[("project.json", "{")]), "is not valid JSON"),
    "deep json": (
        lambda saved: rewritten(saved, drop=["project"], add=[("project.json", "[" * 100_000)]),
        "is not valid JSON",
    ),
    "a newer version": (lambda saved: rewritten(saved, set_in("version", to=2)), "is of version 2"),
    "no points": (lambda saved: rewritten(saved, set_in("project", "points", to=5)), "points: must be a list"),
    "a field more": (lambda saved: rewritten(saved, set_in("project", "evil", to=5)), "unknown field 'evil'"),
    "a place of text": (lambda saved: rewritten(saved, set_in(*POINT, "x", to="1")), r"points\[0\].x: must be a num"),
    "a colour": (lambda saved: rewritten(saved, set_in(*POINT, "color", to="red;}")), "must be like #e69f00"),
    "a path": (lambda saved: rewritten(saved, set_in(*POINT, "tracks", to="../a.npz")), "neither"),
    "a path in full": (
        lambda saved: rewritten(saved, set_in("project", "points", 1, "tracks", to="../../a.npz")),
        "must be a file of tracks",
    ),
    "a row": (lambda saved: rewritten(saved, set_in("project", "points", 1, "row", to=7)), "is not in the file"),
    "a mark outside": (lambda saved: rewritten(saved, set_in(*POINT, "marks", 0, "t", to=70)), "lies outside the clip"),
    "a mark twice": (lambda saved: rewritten(saved, set_in(*POINT, "marks", 0, "t", to=0)), "twice"),
    "an id twice": (lambda saved: rewritten(saved, set_in(*POINT, "id", to="p3")), "twice"),
    "an id to come": (lambda saved: rewritten(saved, set_in("project", "next", to=2)), "a number below 2"),
    "a point outside": (lambda saved: rewritten(saved, set_in(*POINT, "x", to=900)), "queries"),
    "an operation": (
        lambda saved: rewritten(saved, set_in("project", "operations", 0, "op", "op", to="fly")),
        "unknown operation",
    ),
    "a step before": (
        lambda saved: rewritten(saved, set_in("undo", 3, "project", "points", 0, "y", to=900)),
        "queries",
    ),
    "an operation that is off and none": (
        lambda saved: rewritten(
            saved, set_in("project", "operations", 0, to={"id": "o2", "on": False, "label": "x", "op": {}})
        ),
        r"operations\[0\]: unknown operation null",
    ),
    "an operation that is off in a step": (
        lambda saved: rewritten(
            saved, set_in("redo", 0, "project", "operations", 0, to=OFF | {"op": {"op": ["drag"]}})
        ),
        "unknown operation",
    ),
    "fields of an operation that is off": (
        lambda saved: rewritten(
            saved, set_in("project", "operations", 0, to=OFF | {"op": {"op": "hide", "points": {"a": 1}}})
        ),
        "an operation that is off is none: hide.points",
    ),
    "a playlist": (
        lambda saved: rewritten(saved, drop=["clip"], add=[("clip/a.m3u8", "#EXTM3U")]),
        "its clip 'clip/a.m3u8' is none by its ending",
    ),
    "a list of files": (
        lambda saved: rewritten(saved, drop=["clip"], add=[("clip/a.ffconcat", "ffconcat version 1.0")]),
        "is none by its ending",
    ),
    "a name too long for a disk": (
        lambda saved: rewritten(saved, drop=["clip"], add=[("clip/" + "\u00e9" * 150 + ".mp4", "x")]),
        "longer than 200 bytes",
    ),
    "paths that need repair": (lambda saved: other_tracks(saved, hidden=np.nan), "not finite"),
    "paths of whole numbers": (lambda saved: other_tracks(saved, kind=np.int32), "must hold floating-point pixels"),
    "paths of other numbers": (lambda saved: other_tracks(saved, kind=np.float64), "does not hold xy float32"),
    "a step that is none": (lambda saved: rewritten(saved, set_in("redo", to=[5])), "redo"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_no_project_is_refused_and_nothing_is_written(saved, tmp_path, name, monkeypatch):
    make, message = BAD[name]
    (tmp_path / "inside" / "below").mkdir(parents=True)
    bad = tmp_path / "inside" / "bad.mv2v"
    bad.write_bytes(make(saved))
    opened = Session(tmp_path / "inside" / "below" / "third")
    before = files_in(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        opened.open_project(bad)
    assert "\n" not in str(caught.value) and str(tmp_path) not in str(caught.value).replace(str(bad), "")
    assert files_in(tmp_path) == before and opened.project == projects.empty() and opened.state()["undo"] == []


def test_what_is_rewritten_alone_is_still_opened(saved, tmp_path):
    """The files above are refused for what was changed in them, not for being written anew."""
    (tmp_path / "good.mv2v").write_bytes(rewritten(saved, set_in("project", "prompt", to="x")))
    opened = Session(tmp_path / "fourth")
    opened.open_project(tmp_path / "good.mv2v")
    assert opened.project["prompt"] == "x"
    opened.state()
    (tmp_path / "tracks.mv2v").write_bytes(other_tracks(saved))
    opened.open_project(tmp_path / "tracks.mv2v")
    assert len(opened.state()["source"]["xy"]) == 3


def test_operations_that_are_off_travel_whatever_became_of_their_points(session, tmp_path):
    """What is checked of them is what an editor never makes; all that it makes can be opened again."""
    session.add_operation("hide", {"points": ["p1", "p3"], "start_frame": 6})
    session.add_operation("uncamera", {"reference": ["p1", "p3", "p4"]})
    recamera = session.project["operations"][-1]["id"]
    for name in [each["id"] for each in session.project["operations"]][1:-1]:
        session.change_operation(name, on=False)
    session.move_operation(recamera, 0)
    session.remove_point("p4")
    opened = Session(tmp_path / "second")
    opened.open_project(session.save_project(tmp_path / "off.mv2v"))
    assert [each["on"] for each in opened.project["operations"]].count(False) == 3
    assert opened.project["operations"] == session.project["operations"]
    opened.state()


def test_a_clip_that_no_project_may_hold_is_told_when_it_is_saved(session, tmp_path):
    (tmp_path / "square.mp4").rename(tmp_path / "square.m4v")
    session.open(tmp_path / "square.m4v")
    with pytest.raises(ValueError, match=r"square\.m4v cannot be in a project; expected a clip that ends in \.mp4"):
        session.save_project(tmp_path / "late.mv2v")

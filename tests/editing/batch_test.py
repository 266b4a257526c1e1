"""Tables of edits: what is made, kept, made again and told; a bad row stops no other."""

import csv
import json

import numpy as np
import pytest
import tiny_model
from launching import launch
from moving_square import textured

from motionv2v import video
from motionv2v.editing import batch, files, opening

EDIT = {"queries": [[0, 40, 30]], "operations": [{"op": "drag", "points": "all", "by": [4, 0]}]}


@pytest.fixture
def folder(tmp_path):
    for name, step in (("a", 1), ("b", -1)):
        picture = textured(np.random.default_rng(0), (64, 96))
        frames = np.stack([np.roll(picture, t * step, axis=1) for t in range(5)])
        video.write(tmp_path / "clips" / f"{name}.mp4", frames, fps=8, lossless=True)
    (tmp_path / "right.json").write_text(json.dumps(EDIT))
    return tmp_path


def table(folder, *rows, head="video,edit,name,prompt,seed,checkpoint"):
    (folder / "edits.csv").write_text("\n".join([head, *rows]) + "\n")
    return folder / "edits.csv"


def run(path, out, **options):
    said = []
    return batch.run(path, out=out, tracker="lk", say=said.append, **options), said


def test_each_row_is_an_edit_and_a_bad_one_stops_no_other(folder):
    out = folder / "out"
    rows = ["clips/a.mp4,right.json,,,,", "clips/none.mp4,right.json,,,,", "clips/b.mp4,right.json,left,,,"]
    rows += ["clips/a.mp4,right.json,,,three,", "clips/a.mp4,right.json,,,,"]
    items, said = run(table(folder, *rows), out)
    assert [item.status for item in items] == ["done", "failed", "done", "failed", "done"]
    assert [item.name for item in items] == ["a", "none", "left", "a-2", "a-3"]
    assert "none.mp4" in items[1].why and items[3].why == "seed is 'three', expected a number"
    assert "2/5 none  failed: " + items[1].why in said
    for name in ("a", "left", "a-3"):
        made = out / "edits" / "draft" / name / files.EDITED
        assert (out / "outputs" / "draft" / f"{name}.mp4").read_bytes() == made.read_bytes()
    told = list(csv.DictReader((out / batch.REPORT).open()))
    assert [row["status"] for row in told] == [item.status for item in items] and told[1]["why"] == items[1].why
    text = batch.summary(items, out)
    assert text.startswith("5 edits: 3 done, 2 failed; wrote ") and "row 4 a-2: seed is 'three'" in text


def test_a_second_run_makes_what_changed_and_what_failed(folder, monkeypatch):
    rows = ["clips/a.mp4,right.json,,,,", "clips/b.mp4,later.json,,,,"]
    items, _ = run(table(folder, *rows), folder / "out")
    assert [item.status for item in items] == ["done", "failed"]
    (folder / "later.json").write_text(json.dumps(EDIT))
    made, real = [], files.run
    monkeypatch.setattr(batch.files, "run", lambda clip, *args, **kw: made.append(clip.name) or real(clip, *args, **kw))
    assert [item.status for item in run(folder / "edits.csv", folder / "out")[0]] == ["kept", "done"]
    assert made == ["b.mp4"]
    (folder / "right.json").write_text(json.dumps(EDIT | {"seed": 5}))
    assert [item.status for item in run(folder / "edits.csv", folder / "out")[0]] == ["done", "kept"]
    (folder / "out" / "outputs" / "draft" / "b.mp4").unlink()
    assert [item.status for item in run(folder / "edits.csv", folder / "out")[0]] == ["kept", "done"]


def test_rows_of_one_model_load_it_once_and_say_what_they_want(folder, monkeypatch):
    model, loaded, load = tiny_model.save(folder / "small", "control"), [], opening.editing.load
    monkeypatch.setattr(opening.editing, "load", lambda *args: loaded.append(args[0]) or load(*args))
    rows = [f"clips/{name}.mp4,right.json,,{prompt},3,{model}" for name, prompt in (("a", "a red disk"), ("b", ""))]
    items, _ = run(table(folder, *rows, "clips/a.mp4,right.json,,,,draft"), folder / "out", num_steps=1)
    assert [(item.method, item.status) for item in items] == [("small", "done")] * 2 + [("draft", "done")]
    assert loaded == [str(model)]
    record = json.loads((folder / "out" / "edits" / "small" / "a" / files.RECORD).read_text())
    assert record["edit"]["prompt"] == "a red disk" and record["seed"] == 3
    assert record["settings"]["num_steps"] == 1
    assert "prompt" not in json.loads((folder / "out" / "edits" / "small" / "b" / files.RECORD).read_text())["edit"]
    assert json.loads((folder / "out" / "outputs" / "small" / "method.json").read_text()) == {"name": str(model)}
    opening.load(str(model), say=lambda line: None)
    opening.load(str(model), say=lambda line: None)
    assert len(loaded) == 3  # nothing is kept outside of a table


def test_yaml_and_json_are_tables_too(folder):
    record = {"video": "clips/a.mp4", "edit": "right.json", "seed": 4}
    for name, text in (
        ("t.yaml", "- {video: clips/a.mp4, edit: right.json, seed: 4}"),
        ("t.json", json.dumps([record])),
    ):
        (folder / name).write_text(text)
        (item,) = batch.load(folder / name)
        assert item.values == {"video": "clips/a.mp4", "edit": "right.json", "seed": "4"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "video,edit,speed\na.mp4,e.json,3\n", "row 1: there is no column 'speed'; expected video, edit"),
        ("t.csv", "video,edit\na.mp4,\n", "row 1: edit is missing"),
        ("t.csv", "video,edit\n", "holds no rows"),
        ("t.txt", "", r"cannot be read as a table of edits \(expected .csv, .yaml or .json\)"),
        ("t.yaml", "video: a", "expected a list of records"),
        ("t.yaml", "- a", "row 1: expected a record such as"),
        ("t.yaml", "[", "cannot be read as a table of edits"),
        (
            "t.csv",
            "video,edit,name\na.mp4,e.json,x\nb.mp4,e.json,x\n",
            "row 2: x is the name of an earlier row of draft",
        ),
    ],
)
def test_what_is_no_table_is_refused_in_a_line(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        batch.run(tmp_path / name, out=tmp_path / "out")
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_the_command_ends_with_one_where_an_edit_failed(folder):
    path = table(folder, "clips/a.mp4,right.json,,,,", "clips/none.mp4,right.json,,,,")
    done = launch("edit", f"--batch={path}", f"--out={folder / 'out'}", "--tracker=lk")
    assert done.returncode == 1 and "2 edits: 1 done, 1 failed; wrote " in done.stdout, done.stderr
    done = launch("edit", f"--batch={path}", "--video=a.mp4")
    assert done.returncode == 2 and done.stderr.startswith("edit: --batch names clips and edits itself"), done.stderr

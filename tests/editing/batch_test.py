"""Tables of edits: what is made, kept, made again and told; a bad row stops no other."""

import csv
import json

import numpy as np
import pytest
import tiny_model
from launching import launch
from moving_square import textured
from PIL import Image

from motionv2v import video
from motionv2v.editing import batch, files, opening
from motionv2v.evaluation import scoring, suite

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
        made = out / "edits" / "drafts" / name / files.EDITED
        assert (out / "outputs" / "drafts" / f"{name}.mp4").read_bytes() == made.read_bytes()
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
    (folder / "out" / "outputs" / "drafts" / "b.mp4").unlink()
    assert [item.status for item in run(folder / "edits.csv", folder / "out")[0]] == ["kept", "done"]


def test_rows_of_one_model_load_it_once_and_say_what_they_want(folder, monkeypatch):
    model, loaded, load = tiny_model.save(folder / "small", "control"), [], opening.editing.load
    monkeypatch.setattr(opening.editing, "load", lambda *args: loaded.append(args[0]) or load(*args))
    rows = [f"clips/{name}.mp4,right.json,,{prompt},3,{model}" for name, prompt in (("a", "a red disk"), ("b", ""))]
    items, _ = run(table(folder, *rows, "clips/a.mp4,right.json,,,,draft"), folder / "out", num_steps=1)
    assert [(item.method, item.status) for item in items] == [("small", "done")] * 2 + [("drafts", "done")]
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


def test_what_a_row_names_is_looked_for_beside_the_table_and_told_from_what_it_was(folder):
    """The example of the module: a draft with a seed. Another mask is another edit, and so are other tracks."""
    masks = folder / "masks"
    masks.mkdir()
    for t in range(5):
        Image.fromarray(np.pad(np.full((8, 8), 255, np.uint8), ((24, 32), (36, 52)))).save(masks / f"{t:05d}.png")
    head = "video,edit,name,prompt,seed,checkpoint,masks"
    path = table(folder, "clips/a.mp4,right.json,dog-left,a dog runs,3,,masks", head=head)
    assert [item.status for item in run(path, folder / "out")[0]] == ["done"]
    assert [item.status for item in run(path, folder / "out")[0]] == ["kept"]
    Image.fromarray(np.pad(np.full((9, 9), 255, np.uint8), ((24, 31), (36, 51)))).save(masks / "00003.png")
    assert [item.status for item in run(path, folder / "out")[0]] == ["done"]


def test_no_two_results_have_one_place(folder):
    rows = ["clips/a.mp4,right.json,,,,", "clips/a.mp4,right.json,,,,", "clips/b.mp4,right.json,a-2,,,"]
    items = batch.load(table(folder, *rows))
    batch._name(items, None)
    assert [item.name for item in items] == ["a", "a-3", "a-2"]
    items = batch.load(table(folder, "a.mp4,e.json,,,,x/model", "b.mp4,e.json,,,,y/model"))
    with pytest.raises(ValueError, match="row 2: y/model and x/model would have one folder model"):
        batch._name(items, None)


def test_its_outputs_are_what_a_suite_scores(folder):
    videos = folder / "videos"
    picture = textured(np.random.default_rng(1), (64, 96))
    video.write(videos / "a.mp4", np.stack([np.roll(picture, t, axis=1) for t in range(9)]), 8)
    built = suite.build("motionv2v", videos, folder / "suite", num_frames=5, size=(64, 96), min_hidden=0, tracker="lk")
    source = built.items[0].folder / "source.mp4"
    (folder / "still.json").write_text(json.dumps({"queries": [[0, 40, 30]], "operations": []}))
    items, _ = run(table(folder, f"{source},still.json,{built.items[0].id},,,"), folder / "out")
    assert items[0].status == "done", items[0].why
    scores = scoring.score(built.folder, folder / "out" / "outputs", ["psnr"], draws=False)
    assert [row.name for row in scores.rows if not row.is_reference] == ["drafts"]

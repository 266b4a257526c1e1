"""Which files of a folder are videos, and what they are called."""

import json
import os
from pathlib import Path

import pytest

from motionv2v.data.videos import files


def fill(folder, names, size=100):
    for index, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes([index]) * size)


def three_columns(folder):
    (folder / "captions.csv").write_text("a,b,c")
    return folder


def test_videos_are_found_in_order_and_the_rest_is_counted(tmp_path):
    fill(tmp_path, ["b/z.MP4", "b/a.webm", "a.mov", "readme.md", ".hidden.mp4", ".git/x.mp4", "out/y.mp4", "x"])
    videos, others, _ = files.find(tmp_path, skip=tmp_path / "out")
    assert [video.name for video in videos] == ["a.mov", "b/a.webm", "b/z.MP4"]
    assert others == {".md": 1, "(no ending)": 1}


def test_ids_stand_for_name_and_content(tmp_path):
    fill(tmp_path, ["a.mp4", "b.mp4"])
    before = {video.name: video.id for video in files.find(tmp_path)[0]}
    (tmp_path / "b.mp4").write_bytes(b"other")
    fill(tmp_path / "more", ["c.mp4"], 77)
    after = {video.name: video.id for video in files.find(tmp_path)[0]}
    assert after["a.mp4"] == before["a.mp4"] and after["b.mp4"] != before["b.mp4"]
    assert len(set(after.values())) == 3


def test_a_change_anywhere_in_a_large_file_that_shifts_it_is_seen(tmp_path):
    content = bytes(range(251)) * 20_000
    (tmp_path / "a.mp4").write_bytes(content)
    first = files.find(tmp_path)[0][0].id
    (tmp_path / "a.mp4").write_bytes(content[:2_500_000] + b"x" + content[2_500_001:-1] + b"y")
    assert files.find(tmp_path)[0][0].id != first


def test_a_file_that_is_there_twice_is_used_once(tmp_path):
    fill(tmp_path, ["a.mp4"])
    (tmp_path / "b.mp4").write_bytes((tmp_path / "a.mp4").read_bytes())
    assert [v.problem for v in files.find(tmp_path)[0]] == ["", "the same file as a.mp4"]


def test_splits_do_not_change_when_videos_are_added(tmp_path):
    fill(tmp_path, [f"{i}.mp4" for i in range(60)])
    before = {v.name: v.split for v in files.find(tmp_path, test_share=0.3)[0]}
    assert 5 <= sum(split == "test" for split in before.values()) <= 31  # 18 expected, 3.5 is one standard deviation
    fill(tmp_path / "more", [f"{i}.mp4" for i in range(60)], 50)
    after = {v.name: v.split for v in files.find(tmp_path, test_share=0.3)[0]}
    assert before.items() <= after.items()
    assert {v.split for v in files.find(tmp_path)[0]} == {"train"}


@pytest.mark.parametrize("file, text", [
    ("captions.json", json.dumps({"park/dog_1.mp4": "by path", "cat": "by stem", "bird.mov": "by name"})),
    ("captions.csv", 'park/dog_1.mp4,by path\ncat,by stem\nbird.mov,"by name"\n'),
])  # fmt: skip
def test_captions_come_from_files_or_names(tmp_path, file, text):
    fill(tmp_path, ["park/dog_1.mp4", "cat.mp4", "park/bird.mov", "GreyOwl-at_night2.mp4", "fox.mp4"])
    (tmp_path / file).write_text(text)
    (tmp_path / "fox.txt").write_text("a fox\n runs ")
    captions = {video.name: video.caption for video in files.find(tmp_path)[0]}
    assert captions == {
        "GreyOwl-at_night2.mp4": "grey owl at night",
        "cat.mp4": "by stem",
        "fox.mp4": "a fox runs",
        "park/bird.mov": "by name",
        "park/dog_1.mp4": "by path",
    }


@pytest.mark.parametrize("name, words", [("IMG_2041.mov", ""), ("a/red-dog_run02.mp4", "red dog run")])
def test_numbers_and_camera_names_are_no_words(name, words):
    assert files.words(name) == words


@pytest.mark.parametrize("make, message", [
    (lambda folder: folder / "missing", "is not there; expected a folder of videos"),
    (lambda folder: fill(folder, ["a.txt"]) or folder, r"holds no videos \(it holds 1 .txt\); endings looked for"),
    (lambda folder: fill(folder, ["a.mp4"]) or folder / "a.mp4", "is a file; expected a folder of videos"),
    (lambda folder: fill(folder, ["a.mp4", "captions.json"]) or folder, "captions.json: not readable as captions"),
    (lambda folder: fill(folder, ["a.mp4"]) or three_columns(folder),
     "captions.csv: not readable as captions .expected path,text in every line, given 'a,b,c'"),
])  # fmt: skip
def test_bad_folders_end_in_one_line(tmp_path, make, message):
    with pytest.raises(ValueError, match=message):
        files.find(make(tmp_path))


def test_an_impossible_share_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"test_share must be at least 0 and below 1, given 1.5"):
        files.find(tmp_path, test_share=1.5)


def test_names_that_are_not_utf8_are_read(tmp_path):
    """As an archive made on an old Windows leaves them; the file itself is found under its bytes."""
    (tmp_path / os.fsdecode(b"caf\xe9_noir.mp4")).write_bytes(b"x")
    (tmp_path / os.fsdecode(b"caf\xe9_noir.txt")).write_text("coffee")
    (video,) = files.find(tmp_path).videos
    assert (video.name, video.caption) == ("caf\u00e9_noir.mp4", "coffee")
    assert Path(video.path).read_bytes() == b"x" and video.id.isalnum()
    json.dumps(video.name).encode()


def test_words_of_decomposed_names_are_whole():
    assert files.words("cafe\u0301_noir.mp4") == "caf\u00e9 noir"

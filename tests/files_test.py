"""Files and folders appear whole or not at all."""

import hashlib
import os
import threading

import pytest

from motionv2v import files


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_with_folders_on_the_way_and_nothing_beside_it(tmp_path):
    path = files.write(tmp_path / "a/b/text.json", "é\n")
    assert path.read_bytes() == b"\xc3\xa9\n" and names(path.parent) == ["text.json"]
    files.write(path, b"\x00new")
    assert path.read_bytes() == b"\x00new" and names(path.parent) == ["text.json"]


def test_a_file_that_fails_leaves_the_old_one_alone(tmp_path):
    path = files.write(tmp_path / "clip.mp4", b"old")
    with pytest.raises(OSError, match="no space"), files.partial(path) as unfinished:
        assert unfinished.suffix == ".mp4"
        unfinished.write_bytes(b"half of the n")
        raise OSError("no space left")
    assert path.read_bytes() == b"old" and names(tmp_path) == ["clip.mp4"]


def test_unfinished_work_is_not_found_by_who_lists_files_of_its_kind(tmp_path):
    """`Path.glob` takes hidden names too: a temporary `.00003.npy` would be read as a shard."""
    with files.partial(tmp_path / "00003.npy") as unfinished:
        unfinished.write_bytes(b"half")
        assert list(tmp_path.glob("*.npy")) == []
    assert names(tmp_path) == ["00003.npy"]


def test_a_folder_replaces_the_old_one_or_leaves_it_alone(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/old.txt").write_text("old")
    with pytest.raises(KeyError), files.partial_folder(tmp_path / "model") as unfinished:
        (unfinished / "half.txt").write_text("half")
        raise KeyError("weights")
    assert names(tmp_path) == ["model"] and names(tmp_path / "model") == ["old.txt"]
    with files.partial_folder(tmp_path / "model") as unfinished:
        (unfinished / "new.txt").write_text("new")
    assert names(tmp_path) == ["model"] and names(tmp_path / "model") == ["new.txt"]
    assert (tmp_path / "model").stat().st_mode & 0o777 == (tmp_path / "model/..").stat().st_mode & 0o777 | 0o755


def test_a_folder_comes_back_where_the_new_one_cannot_be_put(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/old.txt").write_text("old")
    with pytest.raises(OSError):
        files.move(tmp_path / "missing", tmp_path / "model")
    assert names(tmp_path) == ["model"] and names(tmp_path / "model") == ["old.txt"]


def test_what_killed_writers_left_goes_once_it_is_old(tmp_path):
    for name, age in (
        (".a.npy.old.part", files.STALE + 60),
        (".a.npy.new.part", 60),
        (".b.npy.x.part", files.STALE * 2),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("half")
        then = (tmp_path / name).stat().st_mtime - age
        os.utime(tmp_path / name, (then, then))
    files.write(tmp_path / "a.npy", b"whole")
    assert names(tmp_path) == [".a.npy.new.part", ".b.npy.x.part", "a.npy"]


def test_writers_of_one_path_do_not_disturb_one_another(tmp_path):
    contents = [bytes([n]) * 200_000 for n in range(8)]
    threads = [threading.Thread(target=files.write, args=(tmp_path / "one", content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names(tmp_path) == ["one"] and (tmp_path / "one").read_bytes() in contents


def test_places_that_cannot_be_written_to_are_told_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path, is_folder in (("folder", True), ("new/deeper", True), ("file", False), ("new/file.json", False)):
        files.check_place(tmp_path / path, is_folder)
    for path, is_folder, message in (
        ("file", True, "file: is a file, expected a folder"),
        ("file/below/x", True, "x: .*/file is a file, expected a folder"),
        ("file/x.json", False, r"x\.json: .*/file is a file, expected a folder"),
        ("folder", False, "folder is a folder, where a file of the results would go"),
    ):
        with pytest.raises(ValueError, match=message):
            files.check_place(tmp_path / path, is_folder)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ValueError, match=r"x\.json: .* is a folder that may not be written to"):
        files.check_place(tmp_path / "x.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_sha256_is_that_of_the_content(tmp_path):
    path = files.write(tmp_path / "x", b"abc")
    assert files.sha256(path) == hashlib.sha256(b"abc").hexdigest()

"""Folders of methods' outputs: which are methods, which hold some, and where results go."""

import pytest

from motionv2v.evaluation import method_folders

IDS = ["down", "left"]


def fill(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.fixture
def outputs(tmp_path):
    """A method of films, one of pictures, one that is named as an item is, and results."""
    films, pictures = ("films/left.mp4", "films/method.json", "films/up.mp4"), ("pictures/down/00000.png",)
    folder = fill(tmp_path / "outputs", *films, *pictures, "left/left.mp4", "scores/scores.json", ".hidden/left.mp4")
    (folder / "films" / "method.json").write_text('{"steps": 4}')
    return folder


def names(places, out, **options):
    return [method.name for method in method_folders.find(places, IDS, out, **options)]


def test_a_folder_holds_methods_or_is_one(outputs):
    scores = outputs / "scores"
    assert method_folders.place([outputs], outputs.parent) == scores
    assert names([outputs], scores) == ["films", "left", "pictures"]
    films = method_folders.find([outputs], IDS, scores)[0]
    assert films == ("films", outputs / "films", {"steps": 4}, ["up"])
    for name in ("films", "pictures", "left"):
        assert names([outputs / name], scores) == [name]
        assert method_folders.place([outputs / name], _suite(outputs.parent)) == scores, "beside it, not in it"
    assert names([outputs / "films", outputs / "left"], scores) == ["films", "left"]
    assert names([outputs], outputs / "films") == ["left", "pictures"], "where results go is no method"


def _suite(folder):
    for name in IDS:
        (folder / "suite" / "items" / name).mkdir(parents=True, exist_ok=True)
    return folder / "suite"


def test_no_methods_have_their_results_in_the_suite(tmp_path):
    assert method_folders.place([], tmp_path / "suite") == tmp_path / "suite" / "scores"
    assert method_folders.find([], IDS, tmp_path) == []


def test_a_film_of_no_item_makes_no_method_of_a_folder(outputs):
    fill(outputs, "overview.mp4")
    assert names([outputs], outputs / "scores") == ["films", "left", "pictures"]


def test_what_cannot_be_told_apart_is_refused(outputs, tmp_path):
    with pytest.raises(ValueError, match=r"outputs/left and .*other/left have one name; expected one for each method"):
        names([outputs, fill(tmp_path / "other" / "left", "down.mp4")], tmp_path / "scores")
    with pytest.raises(ValueError, match=r"films: a row of the table is named so; expected another name"):
        names([outputs], tmp_path / "scores", taken=["films"])
    with pytest.raises(ValueError, match=r"nowhere is not there; expected a folder of methods"):
        names([tmp_path / "nowhere"], tmp_path / "scores")


def test_a_frame_stands_for_the_nearest_halves_up():
    assert method_folders._resampled(14, 49)[:5] == [0, 0, 1, 1, 1] and method_folders._resampled(81, 49)[-1] == 80
    assert method_folders._resampled(1, 3) == [0, 0, 0]

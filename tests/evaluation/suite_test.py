"""Suites of clips in which a square moves as it is told: what is built, what is left out, and that building goes on."""

import json

import numpy as np
import pytest
from moving_square import textured
from PIL import Image

from motionv2v import tracks, video
from motionv2v.editing import inputs
from motionv2v.evaluation import footage, suite
from motionv2v.tracks import Tracks

SIZE, FRAMES, SIDE = (64, 96), 5, 44
SMALL = {"num_frames": FRAMES, "size": SIZE, "tracker": "lk", "min_hidden": 0}
STEPS = {"down": (0, 1), "left": (-2, 0), "right": (3, 0)}


def draw(step, num_frames=2 * FRAMES - 1, size=SIZE):
    """Draw a square that moves `step` a frame over a still ground; half-way it is in the middle of the frame."""
    rng = np.random.default_rng(7)
    ground, square = textured(rng, size), 255 - textured(rng, (SIDE, SIDE))
    frames = np.repeat(ground[None], num_frames, axis=0)
    for t, frame in enumerate(frames):
        x = (size[1] - SIDE) // 2 + step[0] * (t - num_frames // 2)
        y = (size[0] - SIDE) // 2 + step[1] * (t - num_frames // 2)
        frame[y : y + SIDE, x : x + SIDE] = square
    return frames


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    for name, step in STEPS.items():
        video.write(folder / f"{name}.mp4", draw(step), fps=8, lossless=True)
    return folder


def test_halves_meet_in_the_middle_and_points_go_both_ways(videos, tmp_path):
    (videos / "right.txt").write_text("a square goes to the right")
    made = suite.build("motionv2v", videos, tmp_path / "suite", **SMALL)
    assert [item.id for item in made.items] == ["down", "left", "right"] and made.left_out == {}
    frames, right = draw(STEPS["right"]), made.items[2]
    np.testing.assert_array_equal(right.source(), frames[FRAMES - 1 :: -1])
    np.testing.assert_array_equal(right.target(), frames[FRAMES - 1 :])
    source, target = right.source_tracks(), right.target_tracks()
    assert source.xy.shape == target.xy.shape == (25, FRAMES, 2)
    np.testing.assert_allclose(source.xy[:, 0], target.xy[:, 0])
    np.testing.assert_allclose(target.xy[[0, 12, 24], 0], [[9.6, 6.4], [48, 32], [86.4, 57.6]], atol=1e-4)
    # The point in the middle lies on the square: three pixels a frame to the right, and in the source to the left.
    np.testing.assert_allclose(target.xy[12, :, 0], 48 + 3 * np.arange(FRAMES), atol=0.3)
    np.testing.assert_allclose(source.xy[12, :, 0], 48 - 3 * np.arange(FRAMES), atol=0.3)
    assert right.prompt == "a square goes to the right" and right.fps == 8
    manifest = json.loads((tmp_path / "suite" / "manifest.json").read_text())
    told = {name: manifest[name] for name in ("protocol", "seed", "frames", "size", "fps", "num_points", "tracker")}
    assert told == {
        "protocol": "motionv2v",
        "seed": 0,
        "frames": FRAMES,
        "size": list(SIZE),
        "fps": None,
        "num_points": 25,
        "tracker": "lk",
    }
    names = {"source.mp4", "target.mp4", "source_tracks.npz", "target_tracks.npz"}
    assert set(manifest["items"]["left"]["files"]) == names
    assert str(tmp_path) not in (tmp_path / "suite" / "manifest.json").read_text()


def test_an_even_number_of_frames_has_its_middle_behind_the_first_half(tmp_path):
    frames = draw((1, 0), 2 * FRAMES + 1)[:-1]  # ten frames, of which nine are needed
    video.write(tmp_path / "videos" / "a.mp4", frames, fps=8, lossless=True)
    (item,) = suite.build("motionv2v", tmp_path / "videos", tmp_path / "suite", **SMALL).items
    np.testing.assert_array_equal(item.source(), frames[5:0:-1])
    np.testing.assert_array_equal(item.target(), frames[5:])


def davis(folder, names):
    """Lay out clips as DAVIS is: pictures, and masks of the same names that are no clips."""
    for name in names:
        for part, ending in (("JPEGImages/480p", "jpg"), ("Annotations/480p", "png")):
            place = folder / part / name
            place.mkdir(parents=True)
            for t, frame in enumerate(draw((2, 0), FRAMES + 2, (60, 120))):
                Image.fromarray(frame if ending == "jpg" else np.zeros_like(frame)).save(place / f"{t:05d}.{ending}")
    return folder


def test_davis_gives_first_frames_and_tracks_of_points_drawn_in_them(tmp_path):
    folder = davis(tmp_path / "DAVIS", ["bear", "dog-agility"])
    options = SMALL | {"num_points": 12, "seed": 3}
    made = suite.build("motion_prompting", folder, tmp_path / "suite", **options)
    assert [(item.id, item.prompt, item.fps) for item in made.items] == [
        ("bear", "bear", 24),
        ("dog-agility", "dog agility", 24),
    ]
    bear, dog = made.items
    # 60 rows of 120 columns: 64x128 covers 64x96, and 16 columns are cut off on each side.
    expected = video.resize(draw((2, 0), FRAMES + 2, (60, 120))[:FRAMES], (64, 128))[:, :, 16:112]
    assert np.abs(bear.target().astype(int) - expected).mean() < 6
    np.testing.assert_array_equal(bear.source(), np.repeat(bear.target()[:1], FRAMES, axis=0))
    paths, still = bear.target_tracks(), bear.source_tracks()
    assert paths.xy.shape == (12, FRAMES, 2) and paths.visible[:, 0].all()
    np.testing.assert_array_equal(still.xy, np.repeat(paths.xy[:, :1], FRAMES, axis=1))
    assert np.abs(paths.xy[:, 0] - dog.target_tracks().xy[:, 0]).max() > 5, "each video has points of its own"
    alone = suite.build("motion_prompting", davis(tmp_path / "one", ["bear"]), tmp_path / "alone", **options)
    np.testing.assert_array_equal(alone.items[0].target_tracks().xy[:, 0], paths.xy[:, 0])
    other = suite.build("motion_prompting", folder, tmp_path / "other", **(options | {"seed": 4}))
    assert np.abs(other.items[0].target_tracks().xy[:, 0] - paths.xy[:, 0]).max() > 5


def mask_davis(folder, name):
    """Give each frame a mask in a palette's colours: thing 2 right of column 60, thing 1 below row 30 left of it."""
    for t in range(FRAMES + 2):
        things = np.zeros((60, 120), np.uint8)
        things[30:], things[:, 60:], things[0, 60 + t] = 1, 2, 0
        picture = Image.fromarray(things, "P")
        picture.putpalette([0, 0, 0, 200, 0, 0, 0, 0, 90])
        picture.save(folder / "Annotations" / "480p" / name / f"{t:05d}.png")


def test_davis_has_masks_of_the_frame_that_points_are_taken_in(tmp_path):
    folder = davis(tmp_path / "DAVIS", ["bear"])
    mask_davis(folder, "bear")
    size, short = {"size": (60, 96)}, {"num_frames": 3}
    for protocol, points, frame in (("motionv2v", 4, 3), ("motion_prompting", 4, 0), ("motion_inversion", 4, 0)):
        options = SMALL | size | short | {"num_points": points}
        (item,) = suite.build(protocol, folder, tmp_path / protocol, **options).items
        things = inputs.read_image(item.folder / "mask.png")
        # The 96 middle columns of 120, at their own size.
        assert things.shape == (60, 96, 3) and np.unique(things).tolist() == [0, 1, 2]
        assert (things[30:, :48] == 1).all() and (things[1:, 48:] == 2).all() and not things[:30, :48].any()
        assert np.flatnonzero(things[0, 48:, 0] == 0).tolist() == [frame]
        np.testing.assert_array_equal(item.mask(), things[..., 0] > 0)
    (found,) = footage.find(folder)
    assert footage.mask_of(found, 1, (60, 120), 12)[0, 62, 0] == 0, "of 24 pictures a second every other one"
    before = item.files["mask.png"]
    Image.fromarray(np.ones((60, 120), np.uint8)).save(folder / "Annotations" / "480p" / "bear" / "00000.png")
    (item,) = suite.build(protocol, folder, tmp_path / protocol, **options).items
    assert item.files["mask.png"] != before, "made anew with other masks"
    Image.new("L", (8, 8)).save(folder / "Annotations" / "480p" / "bear" / "00000.png")
    with pytest.raises(ValueError, match=r"bear: 00000.png has 8x8 pixels as a mask and 120x60 as a picture"):
        suite.build(protocol, folder, tmp_path / "spoilt", **options)
    (folder / "Annotations" / "480p" / "bear" / "00000.png").unlink()
    assert "mask.png" not in suite.build(protocol, folder, tmp_path / "none", **options).items[0].files


def test_a_split_takes_the_videos_that_it_names(tmp_path):
    folder = davis(tmp_path / "DAVIS", ["bear", "camel", "dog"])
    for year, names in (("2016", "bear"), ("2017", "camel\ndog\nlost\n")):
        (folder / "ImageSets" / year).mkdir(parents=True)
        (folder / "ImageSets" / year / "val.txt").write_text(names)
    assert [each.id for each in footage.find(folder)] == ["bear", "camel", "dog"]
    made = suite.build("motion_prompting", folder, tmp_path / "suite", **SMALL, num_points=4, split="val")
    assert [item.id for item in made.items] == ["camel", "dog"]
    assert made.left_out == {"lost": "is named by val.txt and is not there"}
    with pytest.raises(ValueError, match=r"has no ImageSets/\*/test.txt, as DAVIS has; available: val"):
        footage.find(folder, "test")


def test_a_rate_thins_pictures_as_it_does_videos(tmp_path):
    folder = davis(tmp_path / "DAVIS", ["bear"])
    (clip,) = (footage.read(each.path, (60, 120), 8) for each in footage.find(folder))
    frames = draw((2, 0), FRAMES + 2, (60, 120))[::3]  # of 24 a second
    assert clip.fps == 8 and np.abs(np.stack(list(clip.frames)).astype(int) - frames).mean() < 6


def test_building_goes_on_where_it_stopped(videos, tmp_path, monkeypatch):
    tracked, track = [], suite.trackers.LucasKanade.track

    def count(self, frames, queries):
        tracked.append(len(tracked))
        if len(tracked) == stops_at:
            raise KeyboardInterrupt
        return track(self, frames, queries)

    monkeypatch.setattr(suite.trackers.LucasKanade, "track", count)
    stops_at = 5
    with pytest.raises(KeyboardInterrupt):
        suite.build("motionv2v", videos, tmp_path / "suite", **SMALL)
    with pytest.raises(ValueError, match=r"suite: building it was interrupted; the same build again goes on"):
        suite.load(tmp_path / "suite")
    stops_at = None
    made = suite.build("motionv2v", videos, tmp_path / "suite", **SMALL)
    assert len(made.items) == 3 and len(tracked) == 5 + 2, "two items were there"
    (made.items[1].folder / "target.mp4").write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"left/target.mp4 is not what .*manifest.json says"):
        suite.load(tmp_path / "suite")
    made = suite.build("motionv2v", videos, tmp_path / "suite", **SMALL)
    assert len(tracked) == 9 and len(made.items[1].target()) == FRAMES
    video.write(videos / "left.mp4", draw((-1, 0)), fps=8, lossless=True)
    suite.build("motionv2v", videos, tmp_path / "suite", **SMALL)
    assert len(tracked) == 11, "the video has changed"
    with pytest.raises(ValueError, match="was built with frames 5, now 4: another folder, or the same settings"):
        suite.build("motionv2v", videos, tmp_path / "suite", **(SMALL | {"num_frames": 4}))


def test_what_makes_no_item_is_left_out_and_named(videos, tmp_path):
    (videos / "broken.mp4").write_bytes((videos / "left.mp4").read_bytes()[:900])
    (videos / "empty.mp4").touch()
    video.write(videos / "short.mp4", draw((1, 0))[1:], fps=8)
    (videos / "again.mp4").write_bytes((videos / "down.mp4").read_bytes())
    said = []
    made = suite.build("motionv2v", videos, tmp_path / "suite", say=said.append, **SMALL)
    assert [item.id for item in made.items] == ["again", "left", "right"]
    assert set(made.left_out) == {"broken", "empty", "short", "down"}
    assert made.left_out["short"] == "has 8 frames, expected at least 9 for two halves of 5 that share one"
    assert made.left_out["down"] == "the same file as again.mp4" and str(tmp_path) not in made.left_out["broken"]
    assert f"left out short: {made.left_out['short']}" in said
    with pytest.raises(
        ValueError, match=r"none of the 7 videos .* makes an item; again: .* expected 26 or more at each"
    ):
        suite.build("motionv2v", videos, tmp_path / "none", **(SMALL | {"min_hidden": 26}))


def test_points_hidden_at_both_ends_are_counted(tmp_path):
    """Noise covers more and more of the frame away from the middle one; in another clip only after it."""
    frames = draw((0, 0))
    for t in (*range(4), *range(5, 9)):
        frames[t, :, : 24 * abs(t - 4)] = np.random.default_rng(t).integers(0, 256, (64, 24 * abs(t - 4), 3))
    video.write(tmp_path / "videos" / "a.mp4", frames, fps=8, lossless=True)
    frames[:4] = frames[4]
    video.write(tmp_path / "videos" / "one_end.mp4", frames, fps=8, lossless=True)
    made = suite.build("motionv2v", tmp_path / "videos", tmp_path / "suite", **(SMALL | {"min_hidden": 10}))
    (item,), one_end = made.items, made.left_out["one_end"]
    assert item.id == "a" and one_end.startswith("0 of 25 points are hidden at the end of the source and ")
    assert min(item.hidden) >= 10
    assert item.hidden[1] == (~tracks.load(item.folder / "target_tracks.npz").visible[:, -1]).sum()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocol": "motion"}, "unknown protocol 'motion'; available: motionv2v, motion_prompting"),
        ({"num_points": 24}, "motionv2v's points are a grid: expected a square number such as 25, given 24"),
        ({"num_frames": 1}, "an item needs at least 2 frames, given 1"),
        ({"size": (8, 96)}, "an item's frames need at least 16x16 pixels, given 8x96"),
        ({"tracker": "best"}, "there is no tracker 'best'"),
        ({"videos": "nowhere"}, "nowhere is not there; expected a folder of videos"),
    ],
)
def test_settings_that_make_no_suite_are_refused(videos, tmp_path, change, message):
    options = {"protocol": "motionv2v", "videos": videos, "out": tmp_path / "suite"} | SMALL | change
    with pytest.raises(ValueError, match=message):
        suite.build(**options)
    assert not (tmp_path / "suite").exists()


def test_a_manifest_names_nothing_outside_its_folder(videos, tmp_path):
    made = suite.build("motionv2v", videos, tmp_path / "suite", **SMALL)
    text = (made.folder / "manifest.json").read_text()
    for strange in ("../right", "..", "a\\\\b"):
        (made.folder / "manifest.json").write_text(text.replace('"right"', f'"{strange}"'))
        with pytest.raises(ValueError, match="which is no name of a file"):
            suite.load(made.folder)


def test_a_folder_without_videos_or_suite_is_told(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no videos, nor folders with two pictures or more"):
        suite.build("motionv2v", tmp_path / "empty", tmp_path / "suite", **SMALL)
    with pytest.raises(ValueError, match=r"empty holds no manifest.json; expected a suite"):
        suite.load(tmp_path / "empty")
    (tmp_path / "empty" / "manifest.json").write_text('{"version": 1}')
    with pytest.raises(ValueError, match=r"manifest.json has no 'protocol'"):
        suite.load(tmp_path / "empty")


def test_clips_of_one_name_are_told_apart_and_thumbnails_are_no_clip(tmp_path):
    for name in ("a.mp4", "a.mkv"):
        video.write(tmp_path / name, draw((1, 0), 2), fps=8)
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "a.mp4").write_bytes((tmp_path / "a.mp4").read_bytes())
    for name in ("a.jpg", "b.jpg"):
        Image.fromarray(draw((1, 0), 2)[0]).save(tmp_path / name)
    found = footage.find(tmp_path)
    assert sorted((each.id, each.problem) for each in found) == [
        ("a", ""),
        ("a.mp4", "named as a.mkv is"),
        ("inner-a", "the same file as a.mp4"),
    ]


def known(name, level, made=None):
    """Return an item of exact content whose pictures are of one grey level."""
    paths = Tracks(np.full((3, FRAMES, 2), 10.0, np.float32), np.arange(3 * FRAMES).reshape(3, FRAMES) != 14)

    def make():
        if made is not None:
            made.append(name)
        frames = np.full((FRAMES, *SIZE, 3), level, np.uint8)
        return {"source.mp4": frames, "target.mp4": frames, "source_tracks.npz": paths, "target_tracks.npz": paths}

    return suite.Known(name, f"level {level}", f"all {level}", make)


def test_items_of_exact_paths_are_written_once(tmp_path):
    made, settings = [], {"num_frames": FRAMES, "size": SIZE, "num_points": 3}
    first = suite.assemble("motionv2v", [known("a", 5, made), known("b", 6, made)], tmp_path, **settings)
    assert made == ["a", "b"] and first.settings["tracker"] == "exact" and first.settings["num_points"] == 3
    item = first.items[1]
    assert (item.source() == 6).all() and item.prompt == "level 6" and item.hidden == [1, 1] and item.fps == 8
    np.testing.assert_array_equal(item.target_tracks().visible[2], np.arange(FRAMES) < 4)
    suite.assemble("motionv2v", [known("a", 5, made), known("b", 6, made)], tmp_path, **settings)
    assert made == ["a", "b"]
    (item.folder / "target.mp4").unlink()
    again = suite.assemble("motionv2v", [known("a", 9, made), known("b", 6, made)], tmp_path, **settings)
    assert made == ["a", "b", "a", "b"] and (again.items[0].target() == 9).all()
    with pytest.raises(ValueError, match="was built with num_points 3, now 4"):
        suite.assemble("motionv2v", [known("a", 5)], tmp_path, **{**settings, "num_points": 4})
    with pytest.raises(ValueError, match="there are no items"):
        suite.assemble("motionv2v", [], tmp_path / "none", **settings)

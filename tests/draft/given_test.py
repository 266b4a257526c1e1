"""Masks, boxes and strokes that a person gives: every form is read, and every mistake is one line."""

import functools

import numpy as np
import pytest
from PIL import Image

from motionv2v import video
from motionv2v.draft import given
from motionv2v.draft.given import Hint, Stroke

SIZE, FRAMES = (48, 64), 5


def disc(t, size=SIZE):
    """Draw a disc that goes to the right."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    return np.hypot(x / size[1] - 0.3 - 0.05 * t, y / size[0] - 0.5) < 0.2


MASKS = np.stack([disc(t) for t in range(FRAMES)])
read = functools.partial(given.read, size=SIZE, num_frames=FRAMES, notify=pytest.fail)


def save(path, array):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.asarray(array)).save(path)
    return path


@pytest.mark.parametrize("kind", ["bool", "0 and 1", "0 and 255", "share", "npy", "by frame"])
def test_arrays_are_read(kind, tmp_path):
    path = tmp_path / ("masks.npy" if kind == "npy" else "masks.npz")
    arrays = {
        "bool": MASKS,
        "0 and 1": MASKS.astype(np.uint8),
        "0 and 255": MASKS.astype(np.int64) * 255,
        "share": MASKS * 0.9,
        "npy": MASKS,
    }
    if kind == "npy":
        np.save(path, MASKS)
    elif kind == "by frame":
        np.savez(path, **{f"mask_{t}": MASKS[t] for t in (0, 3)})
    else:
        np.savez_compressed(path, arrays[kind])
    found = read(path)
    assert list(found) == ([0, 3] if kind == "by frame" else list(range(FRAMES)))
    for t, mask in found.items():
        np.testing.assert_array_equal(mask, MASKS[t])
        assert mask.dtype == bool


def test_pictures_are_read(tmp_path):
    """A folder with all frames, or some; grey, with 0 and 1, indexed as data sets have them, cut out, 16 bits."""
    for t in range(FRAMES):
        save(tmp_path / "all" / f"car{t:04d}.png", MASKS[t].astype(np.uint8) * 255)
    (tmp_path / "all" / "notes.txt").write_text("of a car")
    indexed = Image.fromarray(MASKS[0].astype(np.uint8))
    indexed.putpalette([0, 0, 0, 128, 0, 0])
    (tmp_path / "some").mkdir()
    indexed.save(tmp_path / "some" / "00000.png")
    cut_out = np.concatenate([np.full((*SIZE, 3), 9, np.uint8), MASKS[1, ..., None].astype(np.uint8) * 255], -1)
    save(tmp_path / "some" / "1.png", cut_out)
    save(tmp_path / "some" / "frame 2.PNG", MASKS[2])
    save(tmp_path / "some" / "3.png", MASKS[3].astype(np.uint16) * 255)
    save(tmp_path / "ones" / "3.png", MASKS[3].astype(np.uint8))
    assert list(read(tmp_path / "all")) == list(range(FRAMES)) and list(read(tmp_path / "some")) == [0, 1, 2, 3]
    for found in (read(tmp_path / "all"), read(tmp_path / "some"), read(tmp_path / "ones")):
        for t, mask in found.items():
            np.testing.assert_array_equal(mask, MASKS[t])


def test_one_picture_is_of_the_frame_that_is_told(tmp_path):
    path = save(tmp_path / "duck.png", MASKS[2].astype(np.uint8) * 255)
    np.testing.assert_array_equal(read(path, frame=2)[2], MASKS[2])
    assert list(read(save(tmp_path / "duck_4.png", MASKS[4]))) == [4]
    with pytest.raises(ValueError, match=r"duck\.png: of which frame\? A name ends in the number of its frame"):
        read(path)


def test_lossy_black_is_black(tmp_path):
    noisy = np.where(MASKS[0], 255, 1).astype(np.uint8)
    save(tmp_path / "jpegs" / "0.jpg", noisy)
    save(tmp_path / "jpegs" / "1.jpg", np.ones(SIZE, np.uint8))
    found = read(tmp_path / "jpegs")
    assert not found[1].any() and (found[0] == MASKS[0]).mean() > 0.99


def test_a_video_is_read_frame_by_frame(tmp_path):
    frames = np.repeat(MASKS[..., None].astype(np.uint8) * 255, 3, -1)
    video.write(tmp_path / "masks.mp4", frames, fps=10)
    found = read(tmp_path / "masks.mp4")
    assert list(found) == list(range(FRAMES))
    for t, mask in found.items():
        assert (mask == MASKS[t]).mean() > 0.99
    said = []
    assert list(read(tmp_path / "masks.mp4", num_frames=3, notify=said.append)) == [0, 1, 2]
    assert "has about 5 frames; the first 3 count" in said[0]


def test_masks_of_another_size_are_resized_with_a_notice(tmp_path):
    for factor in (2, 0.5):
        size = tuple(round(side * factor) for side in SIZE)
        np.save(tmp_path / "m.npy", np.stack([disc(t, size) for t in range(FRAMES)]))
        said = []
        found = read(tmp_path / "m.npy", notify=said.append)
        assert said == [f"{tmp_path / 'm.npy'}: masks are {size[1]}x{size[0]} and are resized to the clip's 64x48"]
        for t, mask in found.items():
            assert mask.shape == SIZE and (mask == MASKS[t]).mean() > 0.97


def test_longer_sequences_and_those_counted_from_one(tmp_path):
    np.save(tmp_path / "m.npy", MASKS)
    said = []
    assert list(read(tmp_path / "m.npy", num_frames=3, notify=said.append)) == [0, 1, 2]
    assert said[0].endswith("has masks of 5 frames; the first 3 count, as many as are edited")
    for t in range(FRAMES):
        save(tmp_path / "ffmpeg" / f"{t + 1:05d}.png", MASKS[t])
    found = read(tmp_path / "ffmpeg", notify=said.append)
    np.testing.assert_array_equal(found[0], MASKS[0])
    assert "mask 1 is taken for frame 0" in said[-1]


def test_what_is_wrong_with_masks_is_one_line(tmp_path):
    def wrong(name, message, array=None, **options):
        path = tmp_path / name
        if array is not None:
            np.save(path, array) if name.endswith(".npy") else save(path, array)
        with pytest.raises(ValueError, match=message) as caught:
            read(path, **options)
        assert "\n" not in str(caught.value) and str(path) in str(caught.value) and len(str(caught.value)) < 350

    wrong("none.npz", "there is no such file or folder")
    wrong("wide.npy", "masks are 80x48, the clip is 64x48: other proportions", np.ones((FRAMES, 48, 80), bool))
    wrong("empty.npy", "nothing in it is white, the values are 0 to 0", np.zeros((FRAMES, *SIZE), np.uint8))
    wrong("labels.npy", "nothing in it is white, the values are 0 to 3; a mask is 0 and 255", MASKS.astype(int) * 3)
    wrong("short.npy", "has masks of 4 frames, and the clip 5", MASKS[:4])
    wrong("flat.npy", r"one array \[T H W\], or arrays \[H W\] named by frames; it has flat \[5\]", np.ones(5))
    wrong("nan.npy", "go from 0 to 1, or to 255; got nan to nan", MASKS * np.nan)
    wrong("odd.npy", "go from 0 to 1, or to 255; got -1 to -0", -MASKS.astype(np.float32))
    wrong("text.npy", "bool or numbers", np.full((FRAMES, *SIZE), "a"))
    wrong("object.npy", "is not a file of arrays that can be read", np.array([{}], object))
    wrong("m_7.png", r"a mask of frame 7; the clip has frames 0\.\.4", MASKS[0])
    wrong("m.png", "a mask of frame 9; the clip", MASKS[0], frame=9)
    (tmp_path / "folder").mkdir()
    wrong("folder", "no pictures are in it")
    save(tmp_path / "folder" / "a_1.png", MASKS[0])
    save(tmp_path / "folder" / "b_1.png", MASKS[0])
    wrong("folder", "two masks are of frame 1")
    for name in ("broken.npz", "broken_1.png", "broken.mp4"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 no such thing")
        wrong(name, "not a (file of arrays|picture|video file) that can be read")
    np.savez_compressed(tmp_path / "cut.npz", MASKS)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:-40])
    wrong("cut.npz", "is not a file of arrays that can be read")
    video.write(tmp_path / "short.mp4", np.full((3, *SIZE, 3), 255, np.uint8), fps=10)
    wrong("short.mp4", "has 3 frames, but start=0 and num_frames=5")


def test_boxes_are_read_and_checked():
    assert given.parse_box("12,3,4.5,20,30") == (12, (3.0, 4.5, 20.0, 30.0))
    for text in ("", "12", "1,2,3,4", "1.5,1,2,3,4", "-1,1,2,3,4", "1,a,2,3,4", "1,2,3,4,5,6", "1,nan,2,3,4"):
        with pytest.raises(ValueError, match=r"a box is frame,x0,y0,x1,y1, such as .* got '"):
            given.parse_box(text)
    for box, message in (
        ((20, 4, 20, 30), r"the box of frame 1 is 20, 4, 20, 30; expected left < right and top < bottom"),
        ((3, 40, 20, 30), "expected left < right and top < bottom"),
        ((3, 4, 65, 30), r"leaves the frame: x 0\.\.64, y 0\.\.48, in pixels of the clip"),
        ((-1, 4, 20, 30), "leaves the frame"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            Hint(boxes={1: box}).check(SIZE, FRAMES)
        assert "\n" not in str(caught.value)
    Hint(boxes={1: (0, 0, 64, 48)}).check(SIZE, FRAMES)


@pytest.mark.parametrize(("hint", "message"), [
    (Hint(masks={5: MASKS[0]}), r"a mask of frame 5: the clip has frames 0\.\.4"),
    (Hint(boxes={-1: (1, 2, 3, 4)}), "a box of frame -1: the clip has"),
    (Hint(strokes={7: [Stroke(((1, 2),), 3)]}), "a stroke of frame 7: the clip has"),
    (Hint(masks={1: np.ones((3, 4), bool)}), r"the mask of frame 1 is bool \(3, 4\); the clip needs bool \(48, 64\)"),
    (Hint(masks={1: np.zeros(SIZE, bool), 2: np.zeros(SIZE, bool)}), "masks of 2 frames, and all are empty"),
    (Hint(strokes={1: [Stroke((), 3)]}), r"a stroke of frame 1 needs points \(x, y\) and a radius above 0"),
    (Hint(strokes={1: [Stroke(((1, 2),), 0)]}), "a radius above 0"),
])  # fmt: skip
def test_hints_that_do_not_fit_the_clip_are_one_line(hint, message):
    with pytest.raises(ValueError, match=message) as caught:
        hint.check(SIZE, FRAMES)
    assert "\n" not in str(caught.value)


def test_strokes_cover_what_is_near_their_line():
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    across = given.brushed(Stroke(((10, 20), (40, 20)), 5), SIZE)
    away = np.hypot(x - np.clip(x, 10, 40), y - 20)
    assert across[away < 4].all() and not across[away > 6].any()
    dot = given.brushed(Stroke(((30, 20),), 5), SIZE)
    away = np.hypot(x - 30, y - 20)
    assert dot[away < 4].all() and not dot[away > 6].any()
    beside = given.brushed(Stroke(((-3, 0), (-3, 48)), 6), SIZE)
    assert beside[5:-5, :2].all() and not beside[:, 4:].any()
    assert not given.brushed(Stroke(((1e9, -1e9),), 5), SIZE).any()
    assert given.brushed(Stroke(((30, 20),), 0.5), SIZE).any()


def test_labels_put_mask_box_and_strokes_together():
    add, remove = Stroke(((5, 5),), 2), Stroke(((30, 24),), 2, adds=False)
    hint = Hint({0: MASKS[0]}, {1: (10, 10, 20, 30)}, {0: [add], 1: [add, remove], 2: [add]})
    hint.check(SIZE, FRAMES)
    assert hint.frames == [0, 1, 2]
    first, second, third, none = (hint.labels(t, SIZE) for t in range(4))
    np.testing.assert_array_equal(first == 1, MASKS[0] | given.brushed(add, SIZE))
    assert set(np.unique(first)) == {-1, 1} and first.dtype == np.int8
    assert (second[10:30, 10:20] == 0).all() and second[4, 4] == 1 and second[40, 50] == -1
    assert third[4, 4] == 1 and set(np.unique(third)) == {0, 1} and not none.any()

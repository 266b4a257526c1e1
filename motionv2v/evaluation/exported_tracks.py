"""A suite's first frames, target tracks and prompts as other methods' own programs read them (`FORMATS`).

    ati        ATI (Wang et al. 2025): test.yaml, of images/ID.png and tracks/ID.pth, what torch.save makes of the bytes
               of a numpy archive whose `array` [N 121 1 3] is 8 (x, y, visible)
    wan_move   Wan-Move (Chu et al. 2025), laid out as its MoveBench, for generate.py --eval_bench --language=en:
               MoveBench/en/ has single_track.txt, first_frame/ID.jpg, and track/single/, of ID_tracks.npy [81 N 2] and
               ID_visibility.npy [81 N]
    das        Diffusion-as-Shader (Gu et al. 2025), for demo.py: ID/first.png (--input_path), tracking.mp4
               (--tracking_path), prompt.txt; points coloured by their places in the first frame, of unknown depth

Pictures and tracks are stretched to the size that the program works at, and frames spread evenly over as many as it
takes, as `scoring` brings what it makes back to the suite's. Diffusion-as-Shader was trained with 4,900 points.
"""

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from motionv2v import figures, files, video
from motionv2v.evaluation import suite
from motionv2v.tracks import Tracks
from motionv2v.typing import UInt8

ATI_SCALE, DAS_FPS, DAS_RADIUS = 8, 8, 2


class Format(NamedTuple):
    """What a program takes: (H, W), frames, and the function that writes (folder, id, first frame, tracks, prompt)."""

    size: tuple[int, int]
    num_frames: int
    write: Callable[[Path, str, UInt8[np.ndarray, "H W 3"], Tracks, str], None]


def export(of: str | Path, form: str, out: str | Path) -> list[str]:
    """Write a suite's items for another method's program into a folder; return their ids.

    Raises ValueError, one line, for a format that there is not, for what is no suite, for items without target tracks
    and for ids that the format cannot hold.
    """
    if form not in FORMATS:
        raise ValueError(f"unknown format {form!r}; available: {', '.join(FORMATS)}")
    found, how, out = suite.load(of), FORMATS[form], Path(out)
    files.check_place(out, is_folder=True)
    without = [item.id for item in found.items if "target_tracks.npz" not in item.files]
    if without:
        raise ValueError(f"items of {found.settings['protocol']} have no target tracks to export, such as {without[0]}")
    if wrong := [item.id for item in found.items if "," in item.id or item.id.startswith("#")]:
        raise ValueError(f"{wrong[0]!r} cannot stand in a list of items: expected ids without ',' and '#'")
    for item in found.items:
        first, prompt = video.resize(item.first(), how.size), " ".join(item.prompt.split())
        how.write(out, item.id, first, resampled(item.target_tracks(), found.settings["size"], how), prompt)
    prompts = {item.id: " ".join(item.prompt.split()) for item in found.items}
    if form == "ati":
        entries = [{"image": f"images/{n}.png", "text": p, "track": f"tracks/{n}.pth"} for n, p in prompts.items()]
        files.write(out / "test.yaml", json.dumps(entries, indent=1, ensure_ascii=False) + "\n")  # which is YAML too
    elif form == "wan_move":
        lines = [f"{name}.mp4,{prompt}\n" for name, prompt in prompts.items()]
        files.write(out / "MoveBench" / "en" / "single_track.txt", "".join(lines))
    return list(prompts)


def resampled(given: Tracks, size: tuple[int, int] | list[int], how: Format) -> Tracks:
    """Return tracks of frames of a size (H, W) in a format's pixels and frames, straight between frames.

    Whether a point is seen is as in the nearest frame.
    """
    xy = np.asarray(given.xy, np.float64) * (how.size[1] / size[1], how.size[0] / size[0])
    times = np.linspace(0, xy.shape[1] - 1, how.num_frames)
    before = np.minimum(times.astype(int), xy.shape[1] - 2)
    share = (times - before)[:, None]
    moved = xy[:, before] * (1 - share) + xy[:, before + 1] * share
    return Tracks(moved.astype(np.float32), np.asarray(given.visible)[:, np.rint(times).astype(int)])


def _ati(out: Path, name: str, first: UInt8[np.ndarray, "H W 3"], tracks: Tracks, prompt: str) -> None:
    del prompt
    array = np.concatenate([tracks.xy, tracks.visible[..., None]], axis=-1, dtype=np.float32)[:, :, None]
    content = io.BytesIO()
    np.savez_compressed(content, array=ATI_SCALE * array)
    figures.save_png(out / "images" / f"{name}.png", first)
    files.write(out / "tracks" / f"{name}.pth", _as_torch_saves(content.getvalue()))


def _as_torch_saves(content: bytes) -> bytes:
    """Return the file that torch.save makes of bytes."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(content, protocol=2))
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/version", "3\n")
    return made.getvalue()


def _wan_move(out: Path, name: str, first: UInt8[np.ndarray, "H W 3"], tracks: Tracks, prompt: str) -> None:
    del prompt
    figures.save_jpeg(out / "MoveBench" / "en" / "first_frame" / f"{name}.jpg", first, quality=98)
    for part, array in (("tracks", tracks.xy), ("visibility", tracks.visible)):
        content = io.BytesIO()
        np.save(content, np.ascontiguousarray(array.swapaxes(0, 1)))
        files.write(out / "MoveBench" / "en" / "track" / "single" / f"{name}_{part}.npy", content.getvalue())


def _das(out: Path, name: str, first: UInt8[np.ndarray, "H W 3"], tracks: Tracks, prompt: str) -> None:
    from motionv2v import render  # which loads jax, as the next
    from motionv2v.methods import diffusion_as_shader

    size = first.shape[:2]
    colors = diffusion_as_shader.colors(tracks.xy[:, 0], size, np.full(len(tracks.xy), 0.5))
    drawn = np.asarray(render.point_video(tracks, colors, size, DAS_RADIUS))
    figures.save_png(out / name / "first.png", first)
    video.write(out / name / "tracking.mp4", np.rint(drawn * 255).astype(np.uint8), DAS_FPS, crf=1)
    files.write(out / name / "prompt.txt", prompt + "\n")


FORMATS = {
    "ati": Format((480, 832), 121, _ati),
    "wan_move": Format((480, 832), 81, _wan_move),
    "das": Format((480, 720), 49, _das),
}
"""By the names that `launch/evaluate.py export --format=` takes."""

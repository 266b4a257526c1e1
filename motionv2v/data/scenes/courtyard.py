"""The packaged example `courtyard`: toys in the sun, rendered, and the same with the car driven further.

    python -m motionv2v.data.scenes.courtyard motionv2v/examples/courtyard --frames=runs/courtyard

writes its files again; `blender.py` beside this file says what must be installed. A toy car rolls to a stop between a
shrub and a crate, and a ball rolls past in front of everything. In the counterfactual the car is driven on, past the
crate, while ball and camera move as before. The camera glides to the right, so that what is near moves more.

Both clips are rendered frame by frame into `--frames`, where frames that are there already are taken as they are: what
was interrupted goes on. Points are chosen where the camera sees them in some frame of the clip, rest on the surface
that they lie on, and are projected in every frame of both clips; where they are hidden is found by rays.
"""

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bpy
import numpy as np
from mathutils import Matrix
from PIL import Image

from motionv2v import figures, files, tracks, video
from motionv2v.data.scenes import blender
from motionv2v.data.scenes.blender import Graph, Number, Place
from motionv2v.tracks import Tracks

SIZE, FPS, NUM_FRAMES = (320, 480), 24, 49
SAMPLES, SEED, CRF = 20, 0, 18
PROMPT = "a red toy car drives past a wooden crate in a sunny courtyard, a beach ball rolls by"
BALL_RADIUS, WHEEL_RADIUS = 0.3, 0.115
DRIVEN_ON = 2.4
"""Metres that the edit drives the car further by the last frame."""

PLASTIC = {"#dd4032": "#f3ead2", "#f3ead2": "#2f74b5", "#2f74b5": "#f4c838", "#f4c838": "#dd4032", "#359a60": "#f3ead2"}
"""The ball's colours, and those of the flecks in them."""

QUERIES = {
    "car rear window": (0, 46.2, 186.5),
    "car front window": (0, 92.6, 175.1),
    "car door": (0, 75.2, 186.4),
    "car number": (0, 79.4, 197.0),
    "car fender": (0, 53.9, 195.0),
    "car bonnet": (0, 138.3, 201.9),
    "ball cap": (0, 424.5, 204.0),
    "ball yellow": (0, 431.2, 243.3),
    "ball green": (0, 443.3, 213.4),
    "crate left": (0, 255.7, 135.6),
    "crate middle": (0, 297.9, 164.6),
    "crate right": (0, 351.8, 181.0),
    "pot": (0, 115.4, 169.0),
    "shrub": (0, 142.2, 108.4),
    "wall left": (0, 208.3, 115.8),
    "wall right": (0, 409.0, 138.0),
    "hedge": (0, 356.5, 46.6),
    "paving left": (0, 121.4, 273.3),
    "paving middle": (0, 185.5, 245.5),
    "paving right": (0, 376.0, 310.6),
}
"""Points by name: the frame in which each is chosen, and where, in pixels. Those of the edit are named "car ..."."""
BOXES = {
    "car": {"0": [40, 150, 184, 238], "48": [72, 150, 204, 238]},
    "ball": {"0": [392, 182, 480, 270], "24": [290, 182, 376, 270], "48": [190, 182, 274, 270]},
}
"""Where the things of the edit lie in frames of the clip, in pixels, as a person would draw it around them."""


@dataclass
class Toys:
    """What moves in the scene, and the camera."""

    car: Any
    wheels: list[Any]
    ball: Any
    viewer: Any


def stones(colours: tuple[str, str], mortar: str, height: Number) -> Any:
    """Return the look of stones two and a half times as long as they are high, in rows of a height in metres."""

    def look(graph: Graph) -> dict[str, Any]:
        at = graph.add("TexCoord")["Object"]
        bend = graph.add("TexNoise", {"Vector": at, "Scale": 3.0, "Detail": 2})[1]
        bend = graph.add("VectorMath", {0: bend, 3: 0.03}, operation="SCALE")[0]
        at = graph.add("VectorMath", {0: at, 1: bend})[0]
        courses = {"Brick Width": 2.5 * height, "Row Height": height, "Mortar Size": 0.016, "Mortar Smooth": 0.3}
        courses |= {"Color1": colours[0], "Color2": colours[1], "Mortar": mortar, "Scale": 1.0}
        stone = graph.add("TexBrick", {"Vector": at, **courses})
        coarse, fine = graph.noise(1.7, 4), graph.noise(22.0, 6)
        colour = graph.mix(stone["Color"], graph.ramp(coarse, {0.3: "#8a8070", 0.7: "#fff4e2"}), 0.6, "MULTIPLY")
        colour = graph.mix(colour, graph.ramp(fine, {0.3: "#4a443a", 0.66: "#ffffff"}), 0.75, "MULTIPLY")
        low = graph.add("Math", {0: stone["Fac"], 1: -0.012}, operation="MULTIPLY")[0]
        rough = graph.add("Math", {0: fine, 1: 0.012, 2: low}, operation="MULTIPLY_ADD")[0]
        return {"Base Color": colour, "Roughness": 0.85, "Bump": rough}

    return look


def wood(light: str, dark: str, stretch: Place) -> Any:
    """Return the look of wood whose grain runs where `stretch` is small; every plank of a mesh is another one."""

    def look(graph: Graph) -> dict[str, Any]:
        plank = graph.add("ObjectInfo")["Random"]
        away = graph.add("CombineXYZ", {0: plank, 1: plank, 2: plank})[0]
        shift = graph.add("VectorMath", {0: away, 3: 7.0}, operation="SCALE")[0]
        at = graph.add("VectorMath", {0: graph.add("TexCoord")["Object"], 1: shift})[0]
        grain = graph.noise(9.0, 6, stretch, at)
        colour = graph.ramp(grain, {0.32: dark, 0.5: light, 0.62: dark, 0.75: light})
        tint = graph.ramp(plank, {0.0: "#b8a890", 1.0: "#ffffff"})
        rough = graph.add("Math", {0: grain, 1: 0.006}, operation="MULTIPLY")[0]
        return {"Base Color": graph.mix(colour, tint, 1.0, "MULTIPLY"), "Roughness": 0.6, "Bump": rough}

    return look


def paint(colour: str, worn: str = "#d8c7a4", wear: Number = 0.5) -> Any:
    """Return the look of old paint with worn spots."""

    def look(graph: Graph) -> dict[str, Any]:
        spots = graph.ramp(graph.noise(14.0, 8), {0.6: "#000000", 0.66: "#ffffff"})
        shade = graph.ramp(graph.noise(5.0, 4), {0.3: "#9a9a9a", 0.7: "#ffffff"})
        share = graph.add("Math", {0: spots, 1: wear}, operation="MULTIPLY")[0]
        return {"Base Color": graph.mix(graph.mix(colour, shade, 0.8, "MULTIPLY"), worn, share), "Roughness": 0.38}

    return look


def confetti(colour: str, flecks: str) -> Any:
    """Return the look of plastic with flecks in it."""

    def look(graph: Graph) -> dict[str, Any]:
        cells = graph.add("TexVoronoi", {"Vector": graph.add("TexCoord")["Object"], "Scale": 17.0})
        share = graph.ramp(cells["Distance"], {0.22: "#ffffff", 0.27: "#000000"})
        return {"Base Color": graph.mix(colour, flecks, share), "Roughness": 0.35}

    return look


def leaves(graph: Graph) -> dict[str, Any]:
    """Return the look of leaves, each of a green of its own."""
    cells = graph.add("TexVoronoi", {"Vector": graph.add("TexCoord")["Object"], "Scale": 16.0})
    random = graph.add("SeparateColor", {0: cells["Color"]})[0]
    colour = graph.ramp(random, {0.0: "#2b4c22", 0.5: "#568332", 0.8: "#90b045", 1.0: "#d2d064"})
    shade = graph.ramp(cells["Distance"], {0.0: "#ffffff", 0.9: "#404a30"})
    depth = graph.add("Math", {0: cells["Distance"], 1: -0.05}, operation="MULTIPLY")[0]
    return {"Base Color": graph.mix(colour, shade, 0.8, "MULTIPLY"), "Roughness": 0.7, "Bump": depth}


def clay(graph: Graph) -> dict[str, Any]:
    """Return the look of terracotta."""
    colour = graph.ramp(graph.noise(6.0), {0.3: "#8d4a2e", 0.55: "#c27046", 0.75: "#e0a680"})
    return {"Base Color": colour, "Roughness": 0.8}


def add_yard() -> None:
    """Add what stands still but the crate: paving, wall, hedge, and a shrub in a pot."""
    paving = blender.material("paving", stones(("#d8c4a6", "#b09c85"), "#5c5347", 0.36))
    bricks = blender.material("bricks", stones(("#c27a5c", "#9c5a43"), "#c4b8a6", 0.15))
    coping = blender.material("coping", stones(("#c4baa8", "#b3a897"), "#6d655a", 0.5))
    green = blender.material("leaves", leaves)
    blender.box("paving", (16, 14, 0.2), (0, 1, -0.1), paving)
    wall = blender.box("wall", (16, 1.1, 0.3), (0, 2.3, 0.55), bricks)
    wall.rotation_euler = (math.pi / 2, 0, 0)  # the rows of stones lie in a box's own x and y
    blender.box("coping", (16, 0.42, 0.09), (0, 2.3, 1.14), coping, bevel=0.02)
    for k, x in enumerate(np.linspace(-4.4, 4.4, 8)):
        shape = (1.1, 0.8, 0.9 + 0.1 * (k % 2))
        blender.bush(f"hedge {k}", 0.75, (x, 3.5 + 0.2 * (k % 2), 0.95 + 0.12 * (k % 3)), shape, green)
    profile = [(0, 0), (0.26, 0), (0.36, 0.5), (0.41, 0.5), (0.41, 0.6), (0.36, 0.6), (0.33, 0.52), (0, 0.52)]
    blender.lathe("pot", profile, (-1.25, 1.25, 0), blender.material("clay", clay))
    blender.bush("shrub", 0.44, (-1.25, 1.25, 0.85), (1, 1, 0.95), green)


def add_crate() -> None:
    """Add an open crate of planks, a little turned."""
    lying = blender.material("planks", wood("#e0b074", "#976636", (1, 9, 9)))
    standing = blender.material("posts", wood("#d09e60", "#84552c", (9, 9, 1)))
    side = 0.92
    parts = [blender.box("floor", (side - 0.05, side - 0.05, 0.04), (0, 0, side - 0.1), lying)]
    for turn in range(4):
        fence = [((side - 0.06, 0.035, 0.205), (0, 0.03 - side / 2, 0.13 + 0.222 * k), lying) for k in range(4)]
        fence += [((side, 0.05, 0.1), (0, 0.005 - side / 2, z), lying) for z in (0.06, side - 0.06)]
        fence += [((0.11, 0.11, side), (0.04 - side / 2, 0.04 - side / 2, side / 2), standing)]
        for size, place, look in fence:
            part = blender.box("plank", size, (0, 0, 0), look, bevel=0.012)
            # Turned as a mesh, not as an object: the grain keeps running along the plank.
            part.matrix_world = Matrix.Rotation(turn * math.pi / 2, 4, "Z") @ Matrix.Translation(place)
            parts.append(part)
    crate = blender.group("crate", parts)
    crate.location, crate.rotation_euler = (0.75, 1.0, 0), (0, 0, math.radians(24))


def add_car() -> tuple[Any, list[Any]]:
    """Add the car about the origin, its nose at the right, and return it and its wheels."""
    red, cream = (
        blender.material(name, paint(*colours))
        for name, colours in {"red": ("#c2261f",), "cream": ("#f4e8c4", "#8a7a5a")}.items()
    )
    glass = blender.material("glass", paint("#2d5a7a", "#9fc0cf", 0.3))
    rubber = blender.material("rubber", paint("#2a282e", "#5a5650", 0.4))
    parts = [
        blender.box("body", (1.12, 0.52, 0.2), (0, 0, 0.235), red, bevel=0.05),
        blender.box("band", (1.124, 0.528, 0.05), (0, 0, 0.235), cream, bevel=0.01),
        blender.box("cab", (0.62, 0.46, 0.24), (-0.08, 0, 0.455), red, bevel=0.04, taper=0.78),
        blender.box("rear window", (0.22, 0.475, 0.13), (-0.205, 0, 0.46), glass, bevel=0.015, taper=0.86),
        blender.box("front window", (0.2, 0.475, 0.13), (0.055, 0, 0.46), glass, bevel=0.015, taper=0.86),
        blender.box("roof", (0.5, 0.38, 0.04), (-0.08, 0, 0.585), cream, bevel=0.015),
        blender.disk("number", 0.095, 0.54, (-0.02, 0, 0.26), [cream]),
        blender.word("7", 0.15, (-0.02, -0.272, 0.26), rubber),
    ]
    wheels = []
    for x in (-0.33, 0.33):
        for y in (-0.25, 0.25):
            wheels.append(blender.disk("wheel", WHEEL_RADIUS, 0.1, (x, y, WHEEL_RADIUS), [rubber]))
            hub = blender.disk("hub", WHEEL_RADIUS * 0.62, 0.115, (0, 0, 0), [cream, red])
            hub.parent = wheels[-1]
    return blender.group("car", parts + wheels), wheels


def build(size: tuple[int, int] = SIZE) -> Toys:
    """Build the scene for pictures of a size (H, W)."""
    blender.empty()
    blender.outside(math.radians(42), math.radians(-112))
    add_yard()
    add_crate()
    car, wheels = add_car()
    red, white, blue, yellow, green = PLASTIC
    looks = {name: blender.material(f"plastic {name}", confetti(name, flecks)) for name, flecks in PLASTIC.items()}
    wedges = [looks[name] for name in (red, white, blue, yellow, green, white)]
    ball = blender.ball("ball", BALL_RADIUS, wedges, looks[yellow])
    return Toys(car, wheels, ball, blender.camera(size, lens=46))


def pose(toys: Toys, t: int, is_edited: bool) -> None:
    """Put everything where it is in frame t of the clip, or of the counterfactual."""
    u = t / (NUM_FRAMES - 1)
    x = -1.5 + 0.7 * (2 * u - u * u)  # coasts to a stop
    if is_edited:
        x += DRIVEN_ON * u * u * (3 - 2 * u)
    toys.car.location = (x, -0.1, 0)
    for wheel in toys.wheels:
        wheel.rotation_euler = (0, x / WHEEL_RADIUS, 0)
    along = 1.5 - 1.4 * u
    tilt = Matrix.Rotation(0.9, 4, "X") @ Matrix.Rotation(0.5, 4, "Y")
    rolled = Matrix.Rotation(along / BALL_RADIUS, 4, "Y") @ tilt
    toys.ball.matrix_world = Matrix.Translation((along, -1.25, BALL_RADIUS)) @ rolled
    blender.aim(toys.viewer, (-0.08 + 0.16 * u, -5.9, 1.62), (0.18 * u, 0.2, 0.56))
    bpy.context.view_layer.update()


def shots(toys: Toys, is_edited: bool, folder: Path) -> figures.Frames:
    """Return the frames of a clip, each taken when it is asked for, unless `folder` has it."""

    def take(t: int) -> np.ndarray:
        path = folder / f"{'target' if is_edited else 'source'}_{t:03d}.png"
        if not path.exists():
            pose(toys, t, is_edited)
            figures.save_png(path, blender.photograph())
        return np.asarray(Image.open(path))

    return figures.Frames((NUM_FRAMES, *SIZE, 3), take)


def follow(toys: Toys) -> tuple[Tracks, Tracks]:
    """Return the points' paths in the clip and in the counterfactual, and where the camera sees them."""
    chosen = []
    for t, x, y in QUERIES.values():
        pose(toys, t, is_edited=False)
        chosen.append(blender.pick(x, y))
    found = []
    for is_edited in (False, True):
        places = np.zeros((len(chosen), NUM_FRAMES, 3))
        for t in range(NUM_FRAMES):
            pose(toys, t, is_edited)
            places[:, t] = [blender.locate(*point) for point in chosen]
        found.append(tracks.from_arrays(places[..., :2], places[..., 2]))
    return found[0], found[1]


def edit(source: Tracks, target: Tracks) -> dict[str, Any]:
    """Return the edit as a person would write it: a drag of the car's points, which the ball hides for some frames.

    The ball is dragged by nothing: that says where it is, and that it passes in front.
    """
    names = list(QUERIES)
    things = {thing: [name for name in names if name.startswith(f"{thing} ")] for thing in BOXES}
    car = [names.index(name) for name in things["car"]]
    start = source.xy[car, 0].mean(axis=0)
    end = start + (target.xy - source.xy)[car, -1].mean(axis=0)
    way = {"start": _rounded(start), "end": _rounded(end), "start_frame": 0}
    operations = [
        {"op": "drag", "points": things["car"], **way, "boxes": BOXES["car"]},
        {"op": "drag", "points": things["ball"], "by": [0, 0], "boxes": BOXES["ball"]},
        {"op": "show", "points": things["car"]},
    ]
    hidden = np.pad(~target.visible, ((0, 0), (1, 1))).astype(int)
    for index in car:
        first, after = (np.flatnonzero(np.diff(hidden[index]) == step).tolist() for step in (1, -1))
        operations += [
            {"op": "hide", "points": names[index], "start_frame": a, "end_frame": b - 1}
            for a, b in zip(first, after, strict=True)
        ]
    queries = [{"t": t, "x": x, "y": y, "name": name} for name, (t, x, y) in QUERIES.items()]
    order = [things["ball"][0], things["car"][0]]
    return {"queries": queries, "operations": operations, "order": order, "prompt": PROMPT, "seed": SEED}


def _rounded(place: np.ndarray) -> list[float]:
    return [round(float(value), 1) for value in place]


def write(folder: Path, frames: Path, samples: int = SAMPLES, threads: int = 0) -> Path:
    """Write source.mp4 and target.mp4, the points' tracks in both, edit.json, and about.json: how they were made."""
    toys = build()
    blender.quality(samples, SEED, threads)
    folder.mkdir(parents=True, exist_ok=True)
    sides = dict(zip(("source", "target"), follow(toys), strict=True))
    for name, of_side in sides.items():
        tracks.save(folder / f"{name}_tracks.npz", of_side)
        video.write(folder / f"{name}.mp4", shots(toys, name == "target", frames), FPS, crf=CRF)
    about = {
        "made by": "python -m motionv2v.data.scenes.courtyard",
        "renderer": f"Blender {bpy.app.version_string}, Cycles, {samples} samples a pixel, seed {SEED}, denoised",
        "coding": f"H.264, crf {CRF}",
        "tracks": "points at rest on the meshes, projected; visible where a ray from the camera reaches them",
        "licence": "Apache-2.0, as the rest of this package",
    }
    files.write(folder / "edit.json", json.dumps(edit(**sides), indent=2) + "\n")
    files.write(folder / "about.json", json.dumps(about, indent=2) + "\n")
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Render the packaged example `courtyard` and write its files.")
    parser.add_argument("folder", type=Path, help="where source.mp4, target.mp4, the tracks and edit.json are written")
    parser.add_argument("--frames", type=Path, required=True, help="folder of the frames; those in it are not rendered")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="rays a pixel")
    parser.add_argument("--threads", type=int, default=0, help="how many cores render; 0: all")
    given = parser.parse_args()
    print(write(given.folder, given.frames, given.samples, given.threads))

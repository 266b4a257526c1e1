"""What a person takes ready-made on the page: points about a point, a ball that turns, a camera that moves.

Each is a command of the session, as those of `session.Session`, made of what it has: points, groups, and operations of
`edit.json`, whose fields can be changed afterwards.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from motionv2v.editing import operation_list, point_groups, point_paths
from motionv2v.editing.gestures import Gestures
from motionv2v.edits import fields, prompts, things
from motionv2v.edits.selection import RADIUS
from motionv2v.typing import Float

COLORS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
"""Okabe and Ito's, which people who see colours otherwise tell apart."""
CAMERAS: dict[str, dict[str, Any]] = {
    "pan left": {"move": "pan", "degrees": -10},
    "pan right": {"move": "pan", "degrees": 10},
    "tilt up": {"move": "tilt", "degrees": 10},
    "tilt down": {"move": "tilt", "degrees": -10},
    "roll left": {"move": "roll", "degrees": -10},
    "roll right": {"move": "roll", "degrees": 10},
    "zoom in": {"move": "zoom", "distance": 0.25},
    "zoom out": {"move": "zoom", "distance": -0.25},
    "dolly in": {"move": "dolly", "distance": 0.2},
    "dolly out": {"move": "dolly", "distance": -0.2},
    "truck left": {"move": "truck", "distance": -0.1},
    "truck right": {"move": "truck", "distance": 0.1},
    "pedestal up": {"move": "pedestal", "distance": 0.1},
    "pedestal down": {"move": "pedestal", "distance": -0.1},
    "orbit left": {"move": "orbit", "degrees": -12},
    "orbit right": {"move": "orbit", "degrees": 12},
    "arc": {"move": "arc", "degrees": 8},
}
"""Motions of a camera over the whole clip, as fields of `move_camera`."""
ACROSS = 6
"""Points of the background along the frame's longer side, where there are none all over it."""
MOST_SIDE, MOST_BALL = 15, 200


class Presets(Gestures):
    """A project that hands work on. `project`, `workspace` and `revision` are as `history.History` has them."""

    @staticmethod
    def _name(project: dict[str, Any], mark: point_paths.Mark) -> dict[str, Any]:
        number = project["next"]
        point = {"id": f"p{number}", "name": f"p{number}", "color": COLORS[(number - 1) % len(COLORS)]}
        point |= dict(zip("txy", mark, strict=True))
        project["points"].append(point)
        project["next"] += 1
        return point

    def add_grid(self, name: str, frame: int, side: int = 3, spacing: float | int = 12, base: int | None = None) -> str:
        """Name a square grid of points about a point, as a frame shows it: dragged together they say more firmly.

        `side` points along each side, `spacing` pixels apart; those outside the frame are left out. They are a group
        with the point; returns its id. One step.
        """
        if not 2 <= side <= MOST_SIDE or spacing not in RADIUS:
            raise ValueError(f"a grid has 2 to {MOST_SIDE} points along a side, {RADIUS} apart: {side}, {spacing:g}")
        offsets = prompts.square(int(side), spacing)
        offsets = offsets[np.abs(offsets).max(axis=1) > spacing / 4]  # the point itself is there
        self._check_frame(frame)
        with self._step(f"Add a grid about {self._called([name])}", base, frame, [name]) as project:
            return self._spread(project, name, frame, offsets, "grid")["id"]

    def add_ball(
        self, name: str, frame: int, radius: float | int = 30, points: int = 24, base: int | None = None
    ) -> str:
        """Name points all over a ball whose middle is a point, as a frame shows it, and let the ball turn.

        They are a group with the point, which a `spin` turns to the right by a radius; returns that operation's id.
        One step. `radius` is in pixels; points outside the frame are left out.
        """
        if not 4 <= points <= MOST_BALL or radius not in RADIUS:
            raise ValueError(f"a ball has 4 to {MOST_BALL} points and a radius {RADIUS}: {points}, {radius:g}")
        # Next to the outline a tracker sees little: of a whole ball's points, evenly spread, this takes three tenths.
        over = prompts.over_ball(round(points / 0.3))
        offsets = radius * over[over[:, 2] < -0.4][:, :2]
        self._check_frame(frame)
        with self._step(f"Turn {self._called([name])} as a ball", base, frame, [name]) as project:
            group = self._spread(project, name, frame, offsets, "ball")
            op = {"op": "spin", "points": list(group["points"]), "by": [float(radius), 0.0], "radius": float(radius)}
            operation = operation_list.new(project, op)
            operation["label"] = f"spin {group['name']}"
            self._check(project)
        return operation["id"]

    def move_camera(self, preset: str, base: int | None = None) -> str:
        """Let the camera move by one of `CAMERAS`, over the whole clip; returns the operation's id. One step.

        What the camera sees is told by points all over the frame: where there are none, a grid of them is named, the
        group "background". Whatever was done to points before is seen by the camera as well.
        """
        if preset not in CAMERAS:
            raise ValueError(f"there is no camera {preset!r}; there are {', '.join(CAMERAS)}")
        height, width = self.clip.frames.shape[1:3]
        with self._step(f"Camera: {preset}", base) as project:
            # What moves by itself is no background.
            things_of = self._check(project).divide().things if project["points"] else ()
            moved = {point for thing in things_of for point in thing.points}
            still = [point for place, point in enumerate(project["points"]) if place not in moved]
            places = np.array([[point["x"], point["y"]] for point in still])
            if not len(places) or not things.is_all_over(places, (height, width)):
                grid = prompts.pins((height, width), 1, max(height, width) / ACROSS).xy[:, 0]
                self._group(project, "background", self._named(project, 0, grid))
            operation = operation_list.new(project, {"op": "move_camera", **CAMERAS[preset]})
            operation["label"] = f"camera: {preset}"
            self._check(project)
        return operation["id"]

    def _spread(
        self, project: dict[str, Any], name: str, frame: int, offsets: Float[np.ndarray, "M 2"], word: str
    ) -> dict[str, Any]:
        """Name points about a point, and make a group of all."""
        point = operation_list.find(project["points"], name, "point")
        middle = self.source(project).xy[project["points"].index(point), frame]
        ids = self._named(project, frame, middle + offsets)
        return self._group(project, f"{word} {point['name']}"[:60], [name, *ids])

    def _named(self, project: dict[str, Any], frame: int, places: Float[np.ndarray, "M 2"]) -> list[str]:
        """Name points where a frame shows them, and follow them; returns their ids. ValueError where none is inside."""
        size = np.array(self.clip.frames.shape[2:0:-1])
        inside = places[((places >= 0) & (places < size)).all(axis=1)]
        if not len(inside):
            raise ValueError("no such point lies inside the frame: choose a point, or a frame, where it is seen")
        made = [self._name(project, (int(frame), *map(float, place))) for place in inside.round(2)]
        self._track(made, may_stop=True)
        return [point["id"] for point in made]

    @staticmethod
    def _group(project: dict[str, Any], name: str, names: Sequence[str]) -> dict[str, Any]:
        color = operation_list.find(project["points"], names[0], "point")["color"]
        group = {"id": f"g{project['next']}", "name": fields.name(name, "label"), "color": color, "points": []}
        project["next"] += 1
        point_groups.put(project, group, names)
        return group

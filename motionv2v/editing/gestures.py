"""What a hand does on the page with more than a point: groups, drawn paths, visibility, keyframes, masks, layers.

Each is a command of the session, as those of `session.Session`: one step that can be undone.
"""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from motionv2v.editing import freehand, mask_files, operation_list, point_groups, projects
from motionv2v.editing.results import Results
from motionv2v.edits import fields, groups
from motionv2v.tracks import Tracks


class Gestures(Results):
    """A project that hands work on. `project`, `workspace` and `revision` are as `history.History` has them."""

    def _movable(self, project: dict[str, Any], name: str) -> dict[str, Any]:
        point = operation_list.find(project["points"], name, "point")
        if point.get("locked"):
            raise ValueError(f"{point['name']} is locked: unlock it first")
        return point

    def _check_frame(self, frame: int) -> int:
        """Raise ValueError for a frame that the clip does not have; returns its last one."""
        last = len(self.clip.frames) - 1
        if not 0 <= frame <= last:
            raise ValueError(f"there is no frame {frame}: the clip has frames 0..{last}")
        return last

    def _called(self, names: Sequence[str]) -> str:
        """Write what points and groups are called, in a few words."""
        groups = {tuple(sorted(each["points"])): each["name"] for each in self.project["groups"]}
        if whole := groups.get(tuple(sorted(names))):
            return whole
        called = {each["id"]: each["name"] for each in (*self.project["points"], *self.project["groups"])}
        words = [called.get(name, name) for name in names]
        return ", ".join(words) if len(words) <= 4 else f"{', '.join(words[:3])} and {len(words) - 3} more"

    def _titled(self, name: str) -> str:
        return next((each["label"] for each in self.project["operations"] if each["id"] == name), name)

    def _centre(self, of: Tracks, names: Sequence[str]) -> np.ndarray:
        """Return where the centre of some points is, [T 2], as operations have it: lost ones go as the others do."""
        chosen = np.isin([point["id"] for point in self.project["points"]], list(names))
        return np.asarray(groups.centre(groups.follow(of, chosen), of.visible, chosen), np.float64)

    def _given_to(self, project: dict[str, Any]) -> Callable[[int], Tracks]:
        """Return what paths an operation is given, by its place in the list."""

        def paths(place: int) -> Tracks:
            # A camera's motion that is taken out may be put back behind that place only: left out, on both sides of a
            # comparison.
            pair = operation_list.CAMERA_PAIR
            before = [each for each in project["operations"][:place] if each["op"]["op"] not in pair]
            return self.target({**project, "operations": before})

        return paths

    # --- groups ---

    def make_group(self, names: list[str], label: str | None = None, base: int | None = None) -> str:
        """Name a group of points, which leave the groups that they were in; returns its id. One step."""
        with self._step(f"Group {self._called(names)}", base, names=names) as project:
            number = project["next"]
            called = fields.name(f"group {number}" if label is None else label, "label")
            points = point_groups.members(project, names)
            color = operation_list.find(project["points"], points[0], "point")["color"]
            point_groups.put(project, {"id": f"g{number}", "name": called, "color": color, "points": []}, names)
            project["next"] += 1
        return f"g{number}"

    def change_group(self, name: str, base: int | None = None, **changes: Any) -> None:
        """Change a group's `label`, its `color` and whether it is `locked`, both of all its points, or its `points`."""
        if unknown := set(changes) - {"label", "color", "locked", "points"}:
            raise ValueError(f"a group has no {', '.join(sorted(unknown))}; it has label, color, locked, points")
        with self._step(f"Change {self._called([name])}", base, names=[name]) as project:
            group = point_groups.find(project, name)
            if "label" in changes:
                group["name"] = fields.name(changes["label"], "label")
            if "points" in changes:
                point_groups.put(project, group, changes["points"])
            own = [point for point in project["points"] if point["id"] in group["points"]]
            if "color" in changes:
                group["color"] = point_groups.check_color(changes["color"], "color")
            for point in own:
                point.update({word: changes[word] for word in ("color", "locked") if word in changes})
            projects.check_points(project)

    def remove_group(self, name: str, base: int | None = None) -> None:
        """Take a group apart; its points stay, and what was done with them."""
        with self._step(f"Ungroup {self._called([name])}", base, names=[name]) as project:
            project["groups"].remove(point_groups.find(project, name))

    def remove_points(self, names: list[str], base: int | None = None) -> None:
        """Take points away, and out of every operation; one that is about nothing else goes with them. One step."""
        with self._step(f"Remove {self._called(names)}", base) as project:
            gone = point_groups.members(project, names)
            for name in gone:
                self._movable(project, name)
            project["points"] = [point for point in project["points"] if point["id"] not in gone]
            for operation in project["operations"]:
                about = operation["op"].get("points")
                if isinstance(about, list):
                    operation["op"]["points"] = [each for each in about if each not in gone]
            project["operations"] = [each for each in project["operations"] if each["op"].get("points") != []]
            project["order"] = [each for each in project["order"] if each not in gone]
            point_groups.tidy(project)
            if project["points"]:
                self._check(project)  # an operation may name it in another way
            else:
                project["operations"] = []

    # --- paths ---

    def bend(self, names: list[str], frame: int, dx: float | int, dy: float | int, base: int | None = None) -> None:
        """Move points, or groups, at a frame: a keyframe of their path there; the clip's ends stay as they were.

        Where they were bent before, that operation has one keyframe more. Their own motion goes on.
        """
        last = self._check_frame(frame)
        with self._step(f"Bend {self._called(names)} at {frame}", base, frame, names) as project:
            names = point_groups.members(project, names)
            for name in names:
                self._movable(project, name)
            bent = operation_list.bending(project, names) or self._pinned(project, names, {0, last})
            bent.pop("drawn", None)  # it is no longer what was drawn
            centre = self._centre(self.stages(project)[bent["id"]], names)
            now = operation_list.offsets(bent["op"], centre)[frame]
            operation_list.put_shift(bent["op"], frame, now + (dx, dy), centre)
            self._check(project)

    def _pinned(self, project: dict[str, Any], names: list[str], frames: set[int]) -> dict[str, Any]:
        """Add a bend that keeps points where they are in some frames; returns the operation."""
        pins = {str(frame): [0, 0] for frame in sorted(frames)}
        bent = operation_list.new(project, {"op": "keyframes", "points": names, "by": pins, "interpolation": "smooth"})
        bent["label"] = f"bend {self._called(names)}"
        return bent

    def offsets(self, given: dict[str, Tracks] | None = None) -> dict[str, dict[str, list[float]]]:
        """Tell how far off the points' own path each keyframe is, {operation: {frame: [dx, dy]}}, in pixels.

        Of those operations that are on and keep the points' own motion: the page draws the path that they will have.
        `given` is what `stages` returns, for who has it.
        """
        found, given = {}, self.stages() if given is None else given
        for operation in self.project["operations"]:
            if operation["id"] in given and operation_list.is_bend(op := operation["op"]):
                operation_list.normalise(op := copy.deepcopy(op))
                centre = self._centre(given[operation["id"]], self._about(self.project, op))
                frames = sorted(map(int, operation_list.keys(op)))
                off = operation_list.offsets(op, centre)[frames].round(3)
                found[operation["id"]] = {str(frame): way for frame, way in zip(frames, off.tolist(), strict=True)}
        return found

    def scale_points(self, names: list[str], frame: int, factor: float | int, base: int | None = None) -> None:
        """Scale points, or groups, about their centre: they grow up to a frame, and stay so.

        They begin to at the last frame before it up to which they were scaled already, or at the clip's first; scaled
        at that frame, they are so in all frames. Again at the same frame it is the same operation, and one more factor.
        """
        label = f"Scale {self._called(names)} at {frame}"
        self._pose(label, names, frame, base, "scale", "factor", lambda was: round((was or 1) * factor, 4))

    def rotate_points(self, names: list[str], frame: int, degrees: float | int, base: int | None = None) -> None:
        """Turn points, or groups, about their centre, clockwise as seen; when they do is as for `scale_points`."""
        label = f"Turn {self._called(names)} at {frame}"
        self._pose(label, names, frame, base, "rotate", "degrees", lambda was: round((was or 0) + degrees, 2))

    def _pose(
        self,
        label: str,
        names: list[str],
        frame: int,
        base: int | None,
        kind: str,
        word: str,
        more: Callable[[float | None], float],
    ) -> None:
        last = self._check_frame(frame)
        with self._step(label, base, frame, names) as project:
            names = point_groups.members(project, names)
            for name in names:
                self._movable(project, name)
            if len(names) < 2:
                raise ValueError(f"{self._called(names)} is one point, and has no size; select two or more")
            operation, start = operation_list.posing(project, names, kind, frame, last)
            if operation is None:
                window = {"start_frame": start, "end_frame": int(frame)} if frame else {}
                operation = operation_list.new(project, {"op": kind, "points": names, **window})
                operation["label"] = f"{kind} {self._called(names)}"
            operation["op"][word] = more(operation["op"].get(word))
            self._check(project)

    def draw_path(
        self,
        names: list[str],
        frame: int,
        path: Sequence[Sequence[float | int]],
        smoothing: float | int = 1,
        even: bool = False,
        few: bool = False,
        base: int | None = None,
    ) -> str:
        """Let points, or groups, go along a drawn stroke from a frame on, to the clip's end (`freehand`).

        Returns the operation's id. What was drawn stays with it: `redraw_path` makes another path of the same stroke.
        """
        if not 0 <= frame < len(self.clip.frames) - 1:
            raise ValueError(f"a path goes on from frame {frame}: draw it at one of 0..{len(self.clip.frames) - 2}")
        drawn = {"frame": int(frame), "path": path, "smoothing": smoothing, "even": even, "few": few}
        drawn = freehand.check(fields.plain(drawn), "path")
        with self._step(f"Draw the path of {self._called(names)}", base, frame, names) as project:
            names = point_groups.members(project, names)
            for name in names:
                self._movable(project, name)
            operation = self._pinned(project, names, {frame})
            operation["label"] = f"path {self._called(names)}"
            operation["drawn"] = drawn
            self._redraw(project, operation)
        return operation["id"]

    def redraw_path(self, name: str, base: int | None = None, **changes: Any) -> None:
        """Make another path of what was drawn: another `smoothing` in frames, an `even` pace, or `few` keys."""
        if unknown := set(changes) - {"smoothing", "even", "few"}:
            raise ValueError(f"a drawn path has no {', '.join(sorted(unknown))}; it has smoothing, even, few")
        with self._step(f"Smooth {self._titled(name)}", base) as project:
            operation = operation_list.find(project["operations"], name, "operation")
            if "drawn" not in operation:
                raise ValueError(f"{operation['label']} was not drawn by hand; draw a path first")
            operation["drawn"] = freehand.check({**operation["drawn"], **changes}, "path")
            self._redraw(project, operation)

    def _redraw(self, project: dict[str, Any], operation: dict[str, Any]) -> None:
        place, op = project["operations"].index(operation), operation["op"]
        path = self._centre(self._given_to(project)(place), op["points"])
        for word in ("keyframes", "keep_motion"):  # as it was written before
            op.pop(word, None)
        op["by"] = freehand.keyframes(operation["drawn"], path)
        op["interpolation"] = "linear"  # few keyframes are chosen for it
        op.pop("ease", None)
        self._check(project)

    def _keep_motion(self, project: dict[str, Any], operation: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        """Write keyframes as shifts or as places, as far as fields that are given say so; returns the others."""
        op, kept = operation["op"], given.get("keep_motion")
        if not isinstance(kept, bool) or {"keyframes", "by"} & set(given) or not operation_list.is_tween(op):
            return given
        place = project["operations"].index(operation)
        operation_list.keep_motion(op, kept, self._centre(self._given_to(project)(place), self._about(project, op)))
        return {word: value for word, value in given.items() if word != "keep_motion"}

    def set_pace(
        self,
        names: list[str],
        frame: int,
        pace: str | None = None,
        interpolation: str | None = None,
        base: int | None = None,
    ) -> None:
        """Say how points, or groups, go from the keyframe before a frame to the next: a pace of `selection.PACES`.

        `interpolation`, "linear" or "smooth", is of the whole path. Drawn paths have their own pace. Raises ValueError
        where there are no two keyframes, and EditError for other words.
        """
        self._check_frame(frame)
        with self._step(f"Ease {self._called(names)} at {frame}", base, frame, names) as project:
            chosen, found = set(point_groups.members(project, names)), False
            for name in chosen:
                self._movable(project, name)
            for operation in project["operations"]:
                op = operation["op"]
                if not operation["on"] or "drawn" in operation or not operation_list.is_tween(op):
                    continue
                if len(operation_list.keys(op)) < 2 or not chosen & set(self._about(project, op)):
                    continue
                found = True
                operation_list.normalise(op)
                if pace is not None:
                    operation_list.set_pace(op, frame, pace)
                if interpolation is not None:
                    op["interpolation"] = interpolation
            if not found:
                raise ValueError(f"{self._called(names)}: no two keyframes to go between; bend the path first")
            self._check(project)

    def remove_key(self, name: str, frame: int, base: int | None = None) -> None:
        """Take one keyframe out of an operation; the operation goes with its last one."""
        with self._step(f"Remove the keyframe of {self._titled(name)} at {frame}", base, frame) as project:
            operation, keys = self._keys(project, name, frame)
            del keys[str(frame)]
            if isinstance(ease := operation["op"].get("ease"), dict):
                ease.pop(str(frame), None)
                if not ease:
                    del operation["op"]["ease"]
            if not keys:
                project["operations"].remove(operation)
            operation.pop("drawn", None)  # it is no longer what was drawn
            self._check(project)

    def move_key(self, name: str, frame: int, to: int, base: int | None = None, duplicate: bool = False) -> None:
        """Let a keyframe be at another frame, as far off the points' own path as it was; or one more like it there."""
        self._check_frame(to)
        with self._step(f"Move the keyframe of {self._titled(name)} from {frame} to {to}", base, to) as project:
            operation, keys = self._keys(project, name, frame)
            op, place = operation["op"], np.asarray(keys[str(frame)], np.float64)
            if "keyframes" in op and op.get("keep_motion"):
                index = project["operations"].index(operation)
                path = self._centre(self._given_to(project)(index), self._about(project, op))
                place = place - path[frame] + path[to]
            if not duplicate:
                del keys[str(frame)]
            keys[str(to)] = operation_list.rounded(place)
            if isinstance(ease := op.get("ease"), dict) and str(frame) in ease:
                ease[str(to)] = ease[str(frame)] if duplicate else ease.pop(str(frame))
            operation.pop("drawn", None)
            self._check(project)

    @staticmethod
    def _keys(project: dict[str, Any], name: str, frame: int) -> tuple[dict[str, Any], dict[str, Any]]:
        operation = operation_list.find(project["operations"], name, "operation")
        operation_list.normalise(operation["op"])
        keys = operation_list.keys(operation["op"])
        if str(frame) not in keys:
            raise ValueError(f"{operation['label']} has no keyframe at {frame}; it has {', '.join(keys) or 'none'}")
        return operation, keys

    @staticmethod
    def _about(project: dict[str, Any], op: dict[str, Any]) -> list[str]:
        known, about = [point["id"] for point in project["points"]], op.get("points", "all")
        about = known if about == "all" else about if isinstance(about, list) else [about]
        return [known[each] if isinstance(each, int) else each for each in about]

    # --- visibility ---

    def set_visible(self, names: list[str], first: int, last: int, visible: bool, base: int | None = None) -> None:
        """Hide or show points, or groups, in frames from first to last: one stroke of the brush on the timeline.

        It goes on with the stroke before, if that did the same to the same points and ends where this one begins.
        """
        length = len(self.clip.frames)
        first, last = sorted((first, last))
        if not 0 <= first <= last < length:
            raise ValueError(f"frames {first} to {last} are not in the clip: it has frames 0..{length - 1}")
        kind = "show" if visible else "hide"
        label = f"{kind.title()} {self._called(names)} in frames {first} to {last}"
        with self._step(label, base, first, names) as project:
            names = point_groups.members(project, names)
            before = project["operations"][-1] if project["operations"] else None
            op = {"op": kind, "points": names, "start_frame": int(first), "end_frame": int(last)}
            if before and before["on"] and before["op"].get("op") == kind and before["op"].get("points") == names:
                start, end = before["op"].get("start_frame", 0), before["op"].get("end_frame", length - 1)
                if first <= end + 1 and start <= last + 1:
                    op["start_frame"], op["end_frame"] = min(first, start), max(last, end)
                    project["operations"].pop()
            operation_list.new(project, op)["label"] = f"{kind} {self._called(names)}"
            self._check(project)

    # --- masks and layers ---

    def _said_of(self, project: dict[str, Any], names: Sequence[str]) -> list[str]:
        """Return points that something is said of; where nothing moves them, add an operation that leaves them."""
        names = point_groups.members(project, names)
        if not operation_list.moving(project, names):
            self._pinned(project, names, {0, len(self.clip.frames) - 1})
        return names

    def set_box(self, names: list[str], frame: int, box: Sequence[float | int], base: int | None = None) -> None:
        """Say where the thing of these points is in a frame, for the draft: inside (x0, y0, x1, y1), in pixels.

        Raises EditError for a box that leaves the frame.
        """
        with self._step(f"Box {self._called(names)} at {frame}", base, frame, names) as project:
            operation_list.put_box(project, self._said_of(project, names), frame, box)
            self._check(project)

    def remove_box(self, names: list[str], frame: int, base: int | None = None, operation: str | None = None) -> None:
        """Take a box away that `set_box` drew, or that of an operation. Raises ValueError where there is none."""
        with self._step(f"Remove the box of {self._called(names)} at {frame}", base, frame, names) as project:
            operation_list.take(project, point_groups.members(project, names), frame, "boxes", operation)
            self._check(project)

    def add_stroke(self, names: list[str], frame: int, stroke: dict[str, Any], base: int | None = None) -> None:
        """Say with a brush what is the thing of these points in a frame, or is not, over what else is said of it.

        `stroke` is {path: [[x, y], ...], radius, sign: "add" or "remove"}, in pixels. Raises as `set_box`.
        """
        with self._step(f"Brush {self._called(names)} at {frame}", base, frame, names) as project:
            operation_list.put_stroke(project, self._said_of(project, names), frame, copy.deepcopy(stroke))
            self._check(project)

    def remove_strokes(
        self, names: list[str], frame: int, base: int | None = None, operation: str | None = None
    ) -> None:
        """Take the strokes of a frame away, those of an operation if one is named. Raises as `remove_box`."""
        with self._step(f"Remove the strokes of {self._called(names)} at {frame}", base, frame, names) as project:
            operation_list.take(project, point_groups.members(project, names), frame, "strokes", operation)
            self._check(project)

    def set_masks(self, names: list[str], path: str | Path, frame: int = 0, base: int | None = None) -> dict[str, Any]:
        """Take a file of masks (`mask_files`) as where the thing of these points is, in place of one before.

        Returns {frames: how many have a mask, notices}. Raises ValueError for files that are none, or of another clip.
        """
        notices: list[str] = []
        length, *size = self.clip.frames.shape[:3]
        found = mask_files.read(Path(path), tuple(size), length, frame, notices.append)
        name = mask_files.keep(self.workspace, found)
        with self._step(f"Masks of {self._called(names)}", base, min(found), names) as project:
            operation_list.put_masks(project, self._said_of(project, names), name)
            self._check(project)
        return {"frames": len(found), "notices": [line.replace(str(path), Path(path).name) for line in notices]}

    def remove_masks(self, name: str, base: int | None = None) -> None:
        """Take the file of masks out of an operation."""
        with self._step(f"Remove the masks of {self._titled(name)}", base) as project:
            operation = operation_list.find(project["operations"], name, "operation")
            if operation["op"].pop("masks", None) is None:
                raise ValueError(f"{operation['label']} has no file of masks")
            self._check(project)

    def set_order(self, names: list[str], base: int | None = None) -> None:
        """Say which things lie in front, the foremost first, each by one of its points."""
        with self._step("Order the layers", base) as project:
            project["order"] = [operation_list.find(project["points"], name, "point")["id"] for name in names]
            if len(set(names)) != len(names):
                raise ValueError("the order names a point twice; each layer has one place")
            self._check(project)

"""Named groups of points in a project, {id, name, color, points}: points that are selected, moved and masked together.

A point is in one group at most. Commands that take points take groups as well, by their ids. Functions change the
project that they are given.
"""

import re
from collections.abc import Sequence
from typing import Any

from motionv2v.edits import fields

_FIELDS = ("id", "name", "color", "points")
MOST = 1000
"""Groups of a project."""


def find(project: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the group with an id. Raises ValueError that lists those there are."""
    for group in project["groups"]:
        if group["id"] == name:
            return group
    raise ValueError(f"there is no group {name!r}; there are {', '.join(g['id'] for g in project['groups']) or 'none'}")


def members(project: dict[str, Any], names: Sequence[str]) -> list[str]:
    """Replace groups by their points; each point once, in the order of the project. Raises ValueError for others."""
    groups, known = {group["id"]: group["points"] for group in project["groups"]}, [p["id"] for p in project["points"]]
    wanted = {point for name in names for point in groups.get(name, [name])}
    if unknown := sorted(wanted - set(known)):
        listed = ", ".join([*known, *groups][:40]) or "none"
        raise ValueError(f"there is no point {unknown[0]!r}; there are {listed}")
    return [point for point in known if point in wanted]


def put(project: dict[str, Any], group: dict[str, Any], names: Sequence[str]) -> None:
    """Let a group be of these points, which leave the groups that they were in; one that is empty then is gone."""
    taken = members(project, names)
    for other in project["groups"]:
        other["points"] = [point for point in other["points"] if point not in taken]
    group["points"] = taken
    if all(each is not group for each in project["groups"]):
        project["groups"].append(group)
    tidy(project)


def tidy(project: dict[str, Any]) -> None:
    """Take points that are gone out of groups, and empty groups away."""
    known = {point["id"] for point in project["points"]}
    for group in project["groups"]:
        group["points"] = [point for point in group["points"] if point in known]
    project["groups"] = [group for group in project["groups"] if group["points"]]


def check_color(value: Any, where: str) -> str:
    """Read a colour, #rrggbb. Raises ValueError."""
    if not isinstance(value, str) or not re.fullmatch("#[0-9a-fA-F]{6}", value):
        raise ValueError(f"{where}: must be like #e69f00, got {fields.shown(value)}")
    return value


def check(project: dict[str, Any]) -> None:
    """Raise ValueError, with the place, for groups and an order of a project that a file holds and that are none."""
    known = {point["id"] for point in project["points"]}
    if not isinstance(project["groups"], list) or len(project["groups"]) > MOST:
        raise ValueError(f"groups: must be a list of at most {MOST}")
    taken: list[str] = []
    for index, group in enumerate(project["groups"]):
        where = f"groups[{index}]"
        fields.check_object(group, _FIELDS, where, required=_FIELDS)
        is_one = isinstance(group["id"], str) and re.fullmatch(r"g[1-9][0-9]{0,8}", group["id"])
        if not is_one or int(group["id"][1:]) >= project["next"]:
            raise ValueError(f"{where}.id: must be g and a number below {project['next']}")
        fields.name(group["name"], f"{where}.name")
        check_color(group["color"], f"{where}.color")
        taken += _known(group["points"], known, f"{where}.points")
    for what, each in (("points", taken), ("ids", [group["id"] for group in project["groups"]])):
        if len(set(each)) != len(each):
            raise ValueError(f"groups: the same {what} are there twice")
    order = _known(project["order"], known, "order", least=0)
    if len(set(order)) != len(order):
        raise ValueError("order: the same point is there twice")


def _known(value: Any, known: set[str], where: str, least: int = 1) -> list[str]:
    if not isinstance(value, list) or len(value) < least or not all(isinstance(e, str) and e in known for e in value):
        raise ValueError(f"{where}: must be a list of points of the project, got {fields.shown(value)}")
    return value

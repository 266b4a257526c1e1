"""Edits of a session with the moving square's clip, of all kinds in turn, for tests of the steps that they make."""

import json

import moving_square

X, Y = (float(side) + 10 for side in moving_square.corners()[0])


def edits(session):
    """Yield edits of all kinds without end."""
    stroke = {"path": [[X, Y], [X + 5, Y]], "radius": 6, "sign": "add"}
    step = 0
    while True:
        step += 1
        yield from (
            lambda step=step: session.bend(["p1"], step % 9, 1, step % 3),
            lambda step=step: session.set_visible(["p2"], step % 5, 6, step % 2 == 0),
            lambda step=step: session.set(prompt=f"a red square {step}"),
            lambda step=step: session.add_stroke(["p1"], step % 9, {**stroke, "radius": 6 + step}),
            lambda: session.move_operation(session.project["operations"][-1]["id"], 0),
            lambda step=step: session.change_point("p1", label=f"nose {step}"),
            lambda: session.add_point(4, 60, 40),
            lambda: session.make_group(["p1", "p2"] if session.project["groups"] == [] else ["p1"]),
            lambda: session.remove_point(session.project["points"][-1]["id"]),
            lambda: session.remove_group(session.project["groups"][0]["id"]),
            lambda step=step: session.set(seed=step),
            lambda: session.change_operation(
                session.project["operations"][0]["id"], on=not session.project["operations"][0]["on"]
            ),
        )


def hashed(session):
    """Write a project whole, to be compared."""
    return json.dumps(session.project)


def edited(session, count):
    """Do edits that change something; returns the project as it was before each, and at the end."""
    seen = [hashed(session)]
    for edit in edits(session):
        before = session.revision
        edit()
        if session.revision > before:
            seen.append(hashed(session))
        if len(seen) > count:
            return seen

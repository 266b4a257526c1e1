"""Draw the loss of a run, and what its probes measured, over its steps.

    python -m motionv2v.training.curves runs/motion_prompting_tiny curves.png

The loss does not tell when control begins to work; probes do.
"""

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from motionv2v import progress

PROBE = "probe/"
REFERENCES = ("_held", "_copy", "_truth")
"""Ends of names that stand for what no model made: drawn as a dashed line beside the name they belong to."""


def read(workdir: str | Path) -> dict[str, list[tuple[int, float]]]:
    """Read a run's scalars: {name: [(step, value), ...]}.

    Raises:
        ValueError: for a folder that no run has written to.
    """
    path, found = Path(workdir) / progress.METRICS, {}
    if not path.is_file():
        raise ValueError(f"{workdir} holds no {progress.METRICS}: expected the work dir of a training run")
    for line in path.read_text(encoding="utf-8").splitlines():
        scalars: dict[str, Any] = json.loads(line)
        step = scalars.pop("step")
        for name, value in scalars.items():
            found.setdefault(name, []).append((step, value))
    return found


def panels(names: list[str]) -> dict[str, list[str]]:
    """Sort scalars into panels: the loss, and one for each thing that a probe measures, with its references."""
    probes = [name.removeprefix(PROBE) for name in names if name.startswith(PROBE)]
    main = [name for name in probes if not name.endswith(REFERENCES)]
    measured = {name: [name, *(name + end for end in REFERENCES if name + end in probes)] for name in main}
    return {"loss": ["loss"]} | {name: [PROBE + each for each in group] for name, group in measured.items()}


def draw(workdir: str | Path, out: str | Path) -> Path:
    """Draw a run's curves into a PNG, one panel above the other; returns its path. Raises ValueError as `read`."""
    scalars = read(workdir)
    groups = {title: [n for n in group if n in scalars] for title, group in panels(list(scalars)).items()}
    groups = {title: group for title, group in groups.items() if group}
    figure = Figure(figsize=(6, 1.6 * len(groups) + 0.4), layout="constrained")
    axes = figure.subplots(len(groups), 1, sharex=True, squeeze=False)[:, 0]
    for panel, (title, group) in zip(axes, groups.items(), strict=True):
        for name in group:
            is_reference = name.endswith(REFERENCES)
            label = name.removeprefix(PROBE)
            panel.plot(*zip(*scalars[name], strict=True), "--" if is_reference else "-", lw=1.2, label=label)
        panel.set_ylabel(title)
        if len(group) > 1:
            panel.legend(fontsize="small")
        panel.grid(alpha=0.3)
    axes[-1].set_xlabel("step")
    figure.savefig(out, dpi=100)
    return Path(out)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("expected a work dir and a file: python -m motionv2v.training.curves runs/NAME curves.png")
    try:
        print(f"wrote {draw(*sys.argv[1:])}")
    except ValueError as error:
        raise SystemExit(f"curves: {error}") from None

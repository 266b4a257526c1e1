"""Write what `scoring` found: scores.json, scores.csv, scores.md, and scores.html, a page that needs no network."""

import csv
import html
import io
import json
import math
import os
from pathlib import Path
from urllib.parse import quote

from motionv2v import files
from motionv2v.evaluation import measures, plots, scoring, trajan_scores
from motionv2v.evaluation.measures import METRICS
from motionv2v.evaluation.protocols import PROTOCOLS
from motionv2v.evaluation.scoring import Row, Scores
from motionv2v.evaluation.sets import SETS
from motionv2v.evaluation.suite import EXACT

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; padding: 0 1em; max-width: 1500px; color: #202124 }
table { border-collapse: collapse; margin: 1em 0; display: block; overflow-x: auto }
th, td { padding: .3em .7em; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left } tr.reference { color: #80848a }
.row { display: flex; flex-wrap: wrap; gap: 10px } figure { margin: 0; width: 300px } video { width: 100% }
figcaption { font-size: 13px } summary { cursor: pointer; padding: .4em 0; font-weight: 600 } li { margin: .2em 0 }
"""
_SCRIPT = """
for (const item of document.querySelectorAll('details.item')) {
  const videos = [...item.querySelectorAll('video')];
  const load = () => { if (item.open) videos.forEach(v => { v.preload = 'auto'; }); };
  item.addEventListener('toggle', load);
  load();
  item.querySelector('button').onclick = () => videos.forEach(v => { v.currentTime = 0; v.play(); });
}
"""


def write(scores: Scores, out: str | Path) -> Path:
    """Write the four files into a folder, each whole or not at all, and return the folder."""
    out = Path(out)
    files.write(out / "scores.json", json.dumps(content(scores), indent=1, allow_nan=False) + "\n")
    files.write(out / "scores.csv", table_of_videos(scores))
    files.write(out / "scores.md", markdown(scores))
    files.write(out / "scores.html", page(scores, out))
    return out


def content(scores: Scores) -> dict:
    """Return what scores.json holds: each number with its protocol, the methods, and what was left out."""
    methods = [row for row in scores.rows if not row.is_reference]
    return {
        "scores": list(scoring.entries(scores)),
        "items": scores.ids,
        "methods": {row.name: row.about for row in methods},
        "missing": {row.name: row.missing for row in methods if row.missing},
        "not_measured": scores.lacking,
        "notes": notes(scores),
    }


def table_of_videos(scores: Scores) -> str:
    """Return scores.csv: a line for each video, a column for each metric of videos, and how the video was altered."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    metrics = _of_videos(scores)
    writer.writerow(["row", "item", *metrics, "note"])
    for row in scores.rows:
        for name in scores.ids:
            values = (row.scores[name][metric] for metric in metrics)
            told = ["" if math.isnan(value) else f"{value:.6g}" for value in values]
            writer.writerow([row.name, name, *told, "; ".join(row.notes[name])])
    return text.getvalue()


def markdown(scores: Scores) -> str:
    """Return scores.md: a table, and below it what the numbers were measured on and how."""
    heads = [_head(metric) for metric in scores.metrics]
    lines = [f"| | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    for row in scores.rows:
        lines.append(f"| {row.title.replace('|', '/')} | {' | '.join(_cells(scores, row))} |")
    return "\n".join([*lines, "", *(f"- {note}" for note in notes(scores)), ""])


def _tracked(settings: dict) -> str:
    """Say where a suite's paths are from."""
    return "of exact paths, tracked" if settings["tracker"] == EXACT else f"tracked by {settings['tracker']},"


def notes(scores: Scores) -> list[str]:
    """List what belongs to the numbers: the protocol, the items that count, and what was done to videos."""
    settings, total = scores.suite.settings, len(scores.suite.items)
    height, width = settings["size"]
    rate = "each video's own rate" if settings["fps"] is None else f"{settings['fps']:g} fps"
    shape = f"{settings['frames']} frames of {width}x{height}, {rate}"
    found = [f"Protocol {settings['protocol']}, seed {settings['seed']}: {shape}; means over {len(scores.ids)} items."]
    if len(scores.ids) < total:
        found.append(f"Of {total} items of the suite, {len(scores.ids)} are scored: those that all methods have.")
    if scores.suite.left_out:
        found.append(f"{len(scores.suite.left_out)} videos made no item when the suite was built (manifest.json).")
    if any(METRICS[metric].group in measures.TRACKED for metric in scores.metrics):
        shares = list(scores.usable.values())
        points = f"{settings['num_points']} points an item, {_tracked(settings)} again by {scores.tracker}"
        limit = f"{measures.TRACKABLE[0]:g} px or {measures.TRACKABLE[1]:.2%} of the diagonal"
        found.append(f"{points}; {sum(shares) / len(shares):.0%} of them count: those it follows to {limit}.")
        if scores.tracker == settings["tracker"]:
            found.append("The tracker is the one that found the targets' points: the target's own error is no floor.")
    if any(METRICS[metric].group == "fidelity" for metric in scores.metrics):
        by = f"{settings['num_points']} points an item, {_tracked(settings)} again by {scores.tracker}"
        found.append(f"{by}: motion fidelity grows with their number.")
    how = "frame i of F is frame round(i (G - 1) / (F - 1)) of G, pixels by area or cubic interpolation, stretched"
    found.append(f"Outputs of another length or size are resampled: {how}.")
    if "lpips" in scores.networks:
        found.append(f"LPIPS by {scores.networks['lpips']}.")
    if by := scores.networks.get("clip", scores.networks.get("vbench")):
        found.append(f"{by}; the sides of frames that are wider than high are not seen.")
    if "trajan" in scores.networks:
        how = f"{trajan_scores.POINTS} points a video by {scores.tracker}, not BootsTAPIR's 4096"
        seen = "seen is (1-s(v))(1-s(c)) <= 0.5 of its logits v and c, not s(v)s(c) > 0.5"
        found.append(f"{scores.networks['trajan']}: {how}; {seen}; the rounding of latents is left out.")
    found += [f"{metric}: {METRICS[metric].words}{_of_sets(scores, metric)}." for metric in scores.metrics]
    found += [f"{metric} is not measured: {why}." for metric, why in scores.lacking.items()]
    for row in (row for row in scores.rows if not row.is_reference):
        for name, why in list(row.missing.items())[:5]:
            found.append(f"{row.title} lacks {name}: {why}.")
        if len(row.missing) > 5:
            found.append(f"{row.title} lacks {len(row.missing) - 5} more.")
        told = [note for name in scores.ids for note in row.notes[name]]
        found += [f"{row.title}: {told.count(note)} videos {note}." for note in sorted(set(told))]
        if row.strangers:
            found.append(f"{row.title} has videos of no item: {', '.join(row.strangers[:5])}.")
        if row.about:
            found.append(f"{row.title} says: {', '.join(f'{key} {value}' for key, value in row.about.items())}.")
    return found


def page(scores: Scores, out: Path) -> str:
    """Return scores.html, to lie in `out`: the table, and the videos of each item side by side."""
    heads = "".join(f'<th title="{html.escape(METRICS[m].words)}">{html.escape(_head(m))}</th>' for m in scores.metrics)
    body = []
    for row in scores.rows:
        cells = "".join(f"<td>{cell}</td>" for cell in _cells(scores, row))
        kind = ' class="reference"' if row.is_reference else ""
        body.append(f"<tr{kind}><td>{html.escape(row.title)}</td>{cells}</tr>")
    told = "".join(f"<li>{html.escape(note)}</li>" for note in notes(scores))
    prompts = {item.id: item.prompt for item in scores.suite.items}
    items = [_item(scores, name, prompts[name], out, index == 0) for index, name in enumerate(scores.ids)]
    title = f"{html.escape(scores.suite.folder.name)}: {len(scores.ids)} items"
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}{plots.STYLE}</style>\n"
        f"<h1>{title}</h1>\n<table><tr><th></th>{heads}</tr>\n{chr(10).join(body)}\n</table>\n<ul>{told}</ul>\n"
        f"<details><summary>each video's numbers; bars are means</summary>{_plots(scores)}</details>\n"
        f"{chr(10).join(items)}\n<script>{_SCRIPT}</script></html>\n"
    )


def _item(scores: Scores, name: str, prompt: str, out: Path, is_open: bool) -> str:
    """Return the part of the page that shows one item."""
    players = []
    for row in scores.rows:
        source = quote(Path(os.path.relpath(row.videos[name], out)).as_posix())
        values = ", ".join(
            f"{m} {_number(row.scores[name][m], m)}" for m in _of_videos(scores)[:1] + _first_of_tracks(scores)
        )
        players.append(
            f'<figure><video controls muted loop playsinline preload="none" src="{source}"></video>'
            f"<figcaption>{html.escape(row.title)}<br>{html.escape(values)}</figcaption></figure>"
        )
    head = html.escape(f"{name}: {prompt}" if prompt else name)
    shown = " open" if is_open else ""
    return (
        f'<details class="item"{shown}><summary>'
        f"{head}</summary><p><button>play all</button></p>"
        f'<div class="row">{"".join(players)}</div></details>'
    )


def _plots(scores: Scores) -> str:
    """Return a plot of each metric of which videos have numbers."""
    drawn = []
    for metric in _of_videos(scores):
        values = {row.title: [row.scores[name][metric] for name in scores.ids] for row in scores.rows}
        drawn.append(plots.strip(_head(metric), values, {row.title: row.mean(metric)[0] for row in scores.rows}))
    return "".join(drawn)


def _first_of_tracks(scores: Scores) -> list[str]:
    return [metric for metric in _of_videos(scores)[1:] if METRICS[metric].group == "tracks"][:1]


def _of_videos(scores: Scores) -> list[str]:
    """List the metrics of which each video has a number."""
    return [metric for metric in scores.metrics if metric not in SETS and metric not in scores.lacking]


def _of_sets(scores: Scores, metric: str) -> str:
    """Say what a number of whole sets cannot be read without."""
    if metric not in scores.about:
        return ""
    rows, floor, warnings = scores.about[metric]
    told = f"; {rows} rows of features each"
    if not math.isnan(floor):
        told += f", floor {floor:.4f} (two random halves of the {PROTOCOLS[scores.suite.settings['protocol']].true}s)"
    words = scores.networks[METRICS[metric].group]
    return f"{told}; by {words}{''.join(f'; {warning}' for warning in warnings)}"


def _head(metric: str) -> str:
    """Name a column: the metric, its unit, and which way is better."""
    known = METRICS[metric]
    arrow = {True: " ↑", False: " ↓", None: ""}[known.is_more_better]
    return metric + (f" ({known.unit})" if known.unit else "") + arrow


def _cells(scores: Scores, row: Row) -> list[str]:
    """Return a row's numbers; how many items have one, where that is not all."""
    cells = []
    for metric in scores.metrics:
        value, count = row.mean(metric)
        cells.append(_number(value, metric) + (f" (n {count})" if 0 < count < len(scores.ids) else ""))
    return cells


def _number(value: float, metric: str) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.2f}" if METRICS[metric].unit else f"{value:.4f}"

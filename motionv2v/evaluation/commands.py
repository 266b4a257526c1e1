"""The commands of launch/evaluate.py that work on suites, and their flags.

build --protocol=motionv2v --videos=FOLDER --out=SUITE       make a suite of the videos, or go on
make --suite=SUITE --outputs=OUTPUTS --checkpoint=tiny       let models of this package make OUTPUTS/MODEL/ID/
score --suite=SUITE --outputs=OUTPUTS                        score OUTPUTS/METHOD/ID.mp4
export --suite=SUITE --format=ati --out=FOLDER               first frames and tracks for another method's program
study --suite=SUITE --outputs=A --outputs=B --out=STUDY      a sheet on which people choose, not knowing whose it is
study --out=STUDY --answers=ONE.csv --answers=OTHER.csv      what they chose
features --features=MADE.npy --features=TRUE.npy             distances of two sets of any network's features
list                                                         what can be measured here, and what would add more
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from motionv2v import cli
from motionv2v.evaluation import (
    distances,
    exported_tracks,
    measures,
    method_folders,
    networks,
    report,
    scoring,
    study,
    suite,
)
from motionv2v.evaluation.protocols import PROTOCOLS

SUITE = flags.DEFINE_string("suite", None, "folder of the suite; of build the same as --out")
PROTOCOL = flags.DEFINE_enum("protocol", "motionv2v", list(PROTOCOLS), "build: what an item is")
OUTPUTS = flags.DEFINE_multi_string(
    "outputs", [], "make, score: folder of METHOD/ID.mp4, or METHOD/ID/00000.png; score: or METHOD; study: METHODs"
)
FORMAT = flags.DEFINE_enum("format", None, list(exported_tracks.FORMATS), "export: whose program reads it")
ANSWERS = flags.DEFINE_multi_string("answers", [], "study: answers to read (.csv), one file a person")
FEATURES = flags.DEFINE_multi_string("features", [], "features: made, then true; [rows features] in .npy files")
METRIC = flags.DEFINE_multi_string("metric", [], "score: one of `list`'s, or some with commas; default: all")
flags.DEFINE_alias("metrics", "metric")
SIZE = flags.DEFINE_string("size", "480x720", "build: HEIGHTxWIDTH of the items, in pixels")
FPS = flags.DEFINE_float("fps", None, "build: rate of the items; default: each video's own", lower_bound=0.1)
NUM_TRACKS = flags.DEFINE_integer(
    "num_tracks", None, "build, motionv2v: points of each item; default: protocol's", lower_bound=1
)
MIN_HIDDEN = flags.DEFINE_integer(
    "min_hidden", None, "build: points hidden at the end of source and target; default: 10 (motionv2v)", lower_bound=0
)
WEIGHTS = flags.DEFINE_string("weights", None, "score, list, motion_prompting, motionv2v: folder with networks' files")
LPIPS = flags.DEFINE_enum("lpips", "alex", networks.NETS, "score, list, motion_prompting, motionv2v: LPIPS' network")
CLIP = flags.DEFINE_enum("clip", "ViT-B/32", networks.CLIP_NETS, "score, list: CLIP's network")
CLIP_ACTIVATION = flags.DEFINE_enum(
    "clip_activation", None, networks.ACTIVATIONS, "score, list: of a CLIP whose file does not tell; quick_gelu: OpenAI"
)
I3D_SOURCE = flags.DEFINE_enum(
    "i3d_source", None, networks.ORIGINS, "score, list, motion_prompting: origin of a state dict of I3D"
)
PROMPTS = flags.DEFINE_string("prompts", None, "build: table (.csv) of video and prompt; an item for each line")
EDITS = flags.DEFINE_string("edits", None, "build --protocol=revideo: folder of ID/first.png, mask.png, tracks.npz")
SPLIT = flags.DEFINE_string("split", None, "build: of DAVIS' videos those of ImageSets/*/SPLIT.txt, such as val")
DRAFT = flags.DEFINE_bool("draft", True, "score: a row of drafts, some seconds for each item, once")


def build() -> tuple[str, dict[str, Any]]:
    """Build the suite that the flags ask for; what was made, in words and as a record.

    Raises ValueError as `suite.build`, and for flags that are missing.
    """
    height, _, width = _given("size").partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise ValueError(f"--size is HEIGHTxWIDTH, such as 480x720, given {SIZE.value}")
    options: dict[str, Any] = {"fps": FPS.value, "num_points": NUM_TRACKS.value, "min_hidden": MIN_HIDDEN.value}
    options |= {"prompts": PROMPTS.value, "edits": EDITS.value, "split": SPLIT.value}
    # Flags that other benchmarks have too, with defaults of theirs.
    shared = {"num_frames": "num_frames", "tracker": "tracker", "seed": "seed", "num_clips": "most"}
    options |= {name: flags.FLAGS[flag].value for flag, name in shared.items() if cli.is_given(flag)}
    made = suite.build(PROTOCOL.value, _given("videos"), _built(), size=(int(height), int(width)), say=print, **options)
    left_out = [f"\n  {name}: {reason}" for name, reason in made.left_out.items()]
    text = f"{len(made.items)} items in {made.folder}, {len(left_out)} videos left out{':' if left_out else ''}"
    return text + "".join(left_out), {"items": [item.id for item in made.items], "left_out": made.left_out}


def make() -> tuple[str, dict[str, Any]]:
    """Let the models that the flags name make the videos of a suite; how many, in words and as a record.

    Raises ValueError as `making.make`, and for flags that are missing.
    """
    from motionv2v.evaluation import making  # which loads jax

    of, outputs, values = _given("suite"), _given("outputs"), flags.FLAGS.flag_values_dict()
    if len(outputs) > 1:
        raise ValueError(f"make takes one folder for the folders of all models, given --outputs {len(outputs)} times")
    options = {name: values[name] for name in ("num_steps", "jitter", "devices")}
    options |= {"num_views": values["views"] and int(values["views"])}
    options |= {"seed": values["seed"]} if cli.is_given("seed") else {}
    made = making.make(of, outputs[0], [values["checkpoint"], *values["compare"]], **options)
    lines = [f"{len(ids)} videos made in {outputs[0]}/{name}" for name, ids in made.items()]
    return "\n".join(lines), {"made": made}


def score() -> tuple[str, dict[str, Any]]:
    """Score the outputs that the flags name; the table, and what scores.json holds.

    Raises ValueError as `scoring.score`, and for flags that are missing.
    """
    of, places = _given("suite"), [Path(place) for place in _given("outputs")]
    out = Path(flags.FLAGS["out"].value or method_folders.place(places, of))
    tracker = flags.FLAGS["tracker"].value if cli.is_given("tracker") else scoring.TRACKER
    options = {"out": out, "tracker": tracker, "draws": DRAFT.value, "say": print}
    options |= {"weights": WEIGHTS.value, **_nets()}
    metrics = [name for each in METRIC.value for name in each.split(",") if name]
    found = scoring.score(of, places, metrics, **options)
    folder = report.write(found, out)
    return f"{report.markdown(found)}\nwrote {folder}/scores.html, .md, .csv and .json", report.content(found)


def export() -> tuple[str, dict[str, Any]]:
    """Write a suite for another method's program; raises as `exported_tracks.export`."""
    ids = exported_tracks.export(_given("suite"), _given("format"), _given("out"))
    return f"{len(ids)} items in {_given('out')} for {FORMAT.value}", {"items": ids}


def ask() -> tuple[str, dict[str, Any]]:
    """Write a study's sheet, or read answers to it; raises ValueError as `study.make` and `study.read`."""
    out = _given("out")
    if ANSWERS.value:
        shares = study.read(out, ANSWERS.value)
        return study.markdown(shares), {"shares": [each._asdict() for each in shares]}
    options = {name: flags.FLAGS[f].value for name, f in (("seed", "seed"), ("most", "num_clips")) if cli.is_given(f)}
    count = study.make(_given("suite"), _given("outputs"), out, **options)
    return f"{count} pairs: hand out {out}/sheet, open its index.html; keep {out}/key.json", {"pairs": count}


def compare_features() -> tuple[str, dict[str, Any]]:
    """Compare two sets of features of any network; raises ValueError as `distances.compare_files`."""
    given = _given("features")
    if len(given) != 2:
        raise ValueError(f"features compares two files, --features=made.npy --features=true.npy, given {len(given)}")
    found, notes = distances.compare_files(*given)
    lines = [f"{name:14s} {value:.6g}" for name, value in found.items()]
    return "\n".join([*lines, *(f"- {note}" for note in notes)]), {**found, "notes": notes}


def list_metrics() -> tuple[str, dict[str, Any]]:
    """Say what can be measured here, and what more there would be with which files."""
    told = lambda groups: [f"  {name:20s} {m.words}" for name, m in measures.METRICS.items() if m.group in groups]  # noqa: E731
    lines = ["measured, without weights:", *told({m.group for m in measures.METRICS.values()} - {*networks.GROUPS})]
    for group in networks.GROUPS:
        lines += [f"with weights in a folder, --weights ({_network(group)}):", *told([group])]
    lines += ["of models of this package, without a command:", f"  --benchmark={'|'.join(_benchmarks())}"]
    return "\n".join(lines), {"measured": list(measures.METRICS), "benchmarks": _benchmarks()}


class Command(NamedTuple):
    """What a word on the command line does, and the flags that it takes."""

    run: Callable[[], tuple[str, dict[str, Any]]]
    flags: tuple[str, ...]


_NETS = ("weights", "lpips", "clip", "clip_activation", "i3d_source")
_BUILD = ("protocol", "videos", "suite", "out", "size", "fps", "num_tracks", "min_hidden", "prompts", "edits", "split")
COMMANDS = {
    "build": Command(build, (*_BUILD, "num_frames", "tracker", "seed", "num_clips")),
    "make": Command(
        make, ("suite", "outputs", "checkpoint", "compare", "seed", "num_steps", "views", "jitter", "devices")
    ),
    "score": Command(score, ("suite", "outputs", "metric", "metrics", "out", "tracker", "draft", *_NETS)),
    "export": Command(export, ("suite", "format", "out")),
    "study": Command(ask, ("suite", "outputs", "out", "answers", "seed", "num_clips")),
    "features": Command(compare_features, ("features",)),
    "list": Command(list_metrics, _NETS),
}
"""By the word on the command line."""


def _benchmarks() -> list[str]:
    """List the tables of the launcher, which has one more than this folder."""
    return list(flags.FLAGS["benchmark"].parser.enum_values)


def _network(group: str) -> str:
    """Say whether a network is here, and if not, what is missing."""
    try:
        found = networks.load(group, WEIGHTS.value or "weights", **_nets())
    except ValueError as error:
        return f"not here: {error}"
    return f"here: {found.words}"


def _nets() -> dict[str, str | None]:
    """Return what the flags say of networks, as `networks.load` takes it."""
    nets = {"net": LPIPS.value, "clip_net": CLIP.value, "clip_activation": CLIP_ACTIVATION.value}
    return nets | {"i3d_source": I3D_SOURCE.value}


def _built() -> str:
    """Return the folder of a suite to build, which two flags may name."""
    if SUITE.value and flags.FLAGS["out"].value:
        raise ValueError("--suite and --out both name the suite's folder: give one of them")
    return SUITE.value or _given("out")


def _given(name: str) -> str:
    """Return a flag's value; raises ValueError where it is missing."""
    value = flags.FLAGS[name].value
    if value is None or value == []:
        raise ValueError(f"--{name} is missing")
    return value

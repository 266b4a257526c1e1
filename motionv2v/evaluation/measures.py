"""What videos of a suite are worth: the metrics, in groups that share their work. Here those of one video by itself.

    pictures   psnr, l2, ssim against the target (`metrics`), of all frames and, "_later", without frame 0, which most
               methods are given
    tracks     the target's points, tracked again in the video (`retracked`): a point counts in its longest visible
               run, if the tracker follows it on the true target itself (`usable`)
    objects    the same points as things that are dragged, and the background behind them (`trajectories`)
    fidelity   whether a video moves as the source does (`motion_fidelity`), for protocols without a target
    kept       psnr against the source, outside of the region that an edit changes, for protocols with a mask
    motion     of the video alone: flicker, dynamic_dis
    lpips      against the target, by a network's features, where a folder holds its weights (`networks`)
    clip       of the video alone and its text, by another network's features (`clip_scores`); vbench: VBench's way
    trajan     of the video alone: whether its points move as in real videos (`trajan_scores`)

and named here, for the tables, those of whole sets of videos, by features (`sets`): groups i3d, inception, fvmd.

Static videos win at flicker, track_jerk, clip_consec, clip_allpairs and vbench_background: look at dynamic_dis beside
them.
"""

import itertools
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import cv2
import numpy as np

from motionv2v import metrics
from motionv2v.evaluation import clip_scores, retracked, trajan_scores, trajectories
from motionv2v.evaluation.motion_fidelity import motion_fidelity
from motionv2v.evaluation.suite import Item
from motionv2v.tracks import Tracks
from motionv2v.typing import Bool, Float, UInt8

PSNR_MOST = 100.0
"""dB; of a video that is the target itself, whose PSNR is infinite, so that means stay numbers."""
TRACKABLE = (1.0, 0.0025)
"""Pixels, or share of the diagonal where that is more: a point counts if it is followed so well on the true target."""
MOVED = 0.01
"""Share of the diagonal by which the paths of a point in source and target differ, on average, to count as edited."""
_THINNED_FPS, _FASTEST, _RAFT_LEVEL = 8, 0.05, 6 / 256


class Metric(NamedTuple):
    """How a metric is told: its unit, whether more is better (None: neither), its group, what it is in a sentence."""

    unit: str
    is_more_better: bool | None
    group: str
    words: str


METRICS = {
    "psnr": Metric("dB", True, "pictures", f"PSNR of the squared error pooled over a clip, {PSNR_MOST:.0f} at most"),
    "psnr_later": Metric("dB", True, "pictures", "the same without frame 0"),
    "ssim": Metric("", True, "pictures", "structural similarity (Wang et al. 2004), mean over frames"),
    "ssim_later": Metric("", True, "pictures", "the same without frame 0"),
    "l2": Metric("", False, "pictures", "mean squared error of pictures in [0, 1] (MotionV2V's frame-wise L2)"),
    "l2_later": Metric("", False, "pictures", "the same without frame 0"),
    "follow_epe": Metric("px", False, "tracks", "mean distance of points, tracked again, to where they should be"),
    "follow_epe_seen": Metric("px", False, "tracks", "the same without positions in which the tracker lost the point"),
    "follow_epe_percent": Metric("%", False, "tracks", "follow_epe in per cent of the frame's diagonal"),
    "acc_01": Metric("", True, "tracks", "share of positions within 1 % of the diagonal (ATI); a lost point is wrong"),
    "acc_05": Metric("", True, "tracks", "share of positions within 5 % of the diagonal (ATI)"),
    "lost": Metric("", False, "tracks", "share of positions in which the tracker does not see the point"),
    "identity_copy_rate": Metric(
        "", False, "tracks", "share of edited points that stay nearer to their path in the source than in the target"
    ),
    "track_jerk": Metric("px", None, "tracks", "mean second difference of the tracked paths, per frame squared"),
    "ctd": Metric("px", False, "objects", "mean over points of how far each goes from its path (MotionPro's CTD)"),
    "objmc": Metric("px", False, "objects", "mean distance to the paths, hidden positions as well (DragAnything)"),
    "bg_obj_ctd": Metric(
        "px",
        None,
        "objects",
        "how much less the background goes along with what is edited (Time-to-Move); 0 if it does",
    ),
    "motion_fidelity": Metric(
        "", True, "fidelity", "motion fidelity to the source by tracks (Motion Inversion's equation 6, halved)"
    ),
    "motion_fidelity_floor": Metric("", None, "fidelity", "the same to the source of another video: a wrong pairing"),
    "motion_fidelity_sum": Metric("", True, "fidelity", "equation 6 as printed, both halves added: up to 2"),
    "motion_fidelity_dmt": Metric("", True, "fidelity", "as DMT's published script: the made half, less the identity"),
    "kept_psnr": Metric("dB", True, "kept", f"PSNR to the source outside the mask (ReVideo), {PSNR_MOST:.0f} at most"),
    "kept_psnr_8": Metric("dB", True, "kept", "the same 8 pixels away from the mask"),
    "flicker": Metric("", None, "motion", "(255 - mean absolute difference of neighbouring frames) / 255 (VBench)"),
    "dynamic_dis": Metric("", None, "motion", "whether it moves: VBench's dynamic degree, DIS flow in place of RAFT"),
    "lpips": Metric("", False, "lpips", "LPIPS v0.1 (Zhang et al. 2018), mean over frames, at the suite's size"),
    "lpips_later": Metric("", False, "lpips", "the same without frame 0"),
    "clip_text": Metric("", True, "clip", "mean cosine of frames and the item's prompt by CLIP, raw"),
    "clip_consec": Metric("", None, "clip", "mean cosine of neighbouring frames by CLIP (ReVideo's consistency)"),
    "clip_allpairs": Metric("", None, "clip", "mean cosine of every two frames by CLIP (Motion Inversion's)"),
    "vbench_background": Metric(
        "", None, "vbench", "VBench's background consistency on the suite's frames; its own CLIP is ViT-B/32"
    ),
    "trajan_jaccard": Metric(
        "", True, "trajan", "how well TRAJAN reads off half of a video's tracks from the others, average Jaccard"
    ),
    "trajan_occlusion": Metric("", True, "trajan", "the same of when points are hidden, its accuracy"),
    "fvd_tf": Metric(
        "",
        False,
        "i3d",
        "FVD (Unterthiner et al. 2018) as TF-Hub's script and magvit: TensorFlow 1's resize, divisor n-1",
    ),
    "fvd_styleganv": Metric("", False, "i3d", "FVD as StyleGAN-V: torch's resize of the suite's pixels, divisor n"),
    "fvd_cd_i3d": Metric("", False, "i3d", "FVD as cd-fvd's I3D: torch's resize, divisor n, epsilon 1e-5 in the norms"),
    "fid_pytorch": Metric(
        "", False, "inception", "FID (Heusel et al. 2017) of all frames as pytorch-fid: torch's resize, not smoothed"
    ),
    "kid_pytorch": Metric(
        "", False, "inception", "KID (Binkowski et al. 2018) of the same features; unbiased, may be below 0"
    ),
    "fid_tf": Metric("", False, "inception", "FID as the original and torch-fidelity: TensorFlow 1's resize"),
    "kid_tf": Metric("", False, "inception", "KID of the same features"),
    "fid_clean": Metric("", False, "inception", "FID as clean-fid: Pillow's smoothed bicubic resize of floats"),
    "kid_clean": Metric("", False, "inception", "KID of the same features"),
    "fvmd": Metric(
        "", False, "fvmd", "Frechet video motion distance (Liu et al. 2024) by a tracker: compare within one only"
    ),
}
"""By name, in the order of tables."""


class Truth:
    """What the videos of one item are measured against; read when first asked for, then kept."""

    def __init__(
        self,
        item: Item,
        tracker: Any,
        usable: Bool[np.ndarray, "N"] | None = None,
        network: Any = None,
        clip: Any = None,
        other: Item | None = None,
        trajan: Any = None,
    ):
        """Take the item and what tracks points again; `usable` if known.

        `network` is LPIPS, a `convert.perceptual.Network`, `clip` a `clip_scores.Sight`, `other` an item of another
        video, `trajan` a `convert.trajan.Network`.
        """
        self.trajan = trajan
        self.other = other
        self.item, self.tracker, self.network, self.clip = item, tracker, network, clip
        if usable is not None:
            self.usable = usable

    @cached_property
    def frames(self) -> UInt8[np.ndarray, "T H W 3"]:
        """Return the target."""
        return self.item.target()

    @cached_property
    def tracks(self) -> Tracks:
        """Return where the points should go."""
        return self.item.target_tracks()

    @cached_property
    def usable(self) -> Bool[np.ndarray, "N"]:
        """Tell which points the tracker follows on the true target, to within `TRACKABLE` on average.

        On the others an error would be the tracker's own, whatever the video.
        """
        found, counted = retracked.follow(self.frames, self.tracks, self.tracker)
        error = np.linalg.norm(found.xy - self.tracks.xy, axis=-1)
        mean = (error * counted).sum(axis=1) / np.maximum(counted.sum(axis=1), 1)
        return counted.any(axis=1) & (mean < max(TRACKABLE[0], TRACKABLE[1] * self.diagonal))

    @cached_property
    def edited(self) -> Bool[np.ndarray, "N"]:
        """Tell which of the points that count go elsewhere than in the source, by `MOVED` on average."""
        source, both = self.item.source_tracks(), self.tracks.visible & self.item.source_tracks().visible
        return self.usable & _goes_elsewhere(self.tracks, source, both, self.diagonal)

    @property
    def diagonal(self) -> float:
        """Return the length of a frame's diagonal in pixels."""
        return float(np.hypot(*self.frames.shape[1:3]))


def pictures(frames: UInt8[np.ndarray, "T H W 3"], truth: Truth) -> dict[str, float]:
    """Compare a video with the target picture by picture, as long and as large; frame by frame, to save memory."""
    pairs = list(zip(frames, truth.frames, strict=True))
    errors = np.array([metrics.l2(made[None], true[None]) for made, true in pairs])
    alike = np.array([metrics.ssim(made[None], true[None]) for made, true in pairs])
    found = {}
    for name, chosen in (("", slice(None)), ("_later", slice(1, None))):
        error = float(errors[chosen].mean())
        found["psnr" + name] = min(PSNR_MOST, -10 * float(np.log10(error))) if error else PSNR_MOST
        found["ssim" + name], found["l2" + name] = float(alike[chosen].mean()), error
    return found


def tracks(frames: UInt8[np.ndarray, "T H W 3"], truth: Truth) -> dict[str, float]:
    """Track the target's points again in a video, and compare; NaN where no point counts."""
    if not truth.usable.any():
        return {name: float("nan") for name, metric in METRICS.items() if metric.group == "tracks"}
    found, counted = retracked.follow(frames, truth.tracks, truth.tracker)
    return compare(found, truth.tracks, truth.item.source_tracks(), counted & truth.usable[:, None], truth.diagonal)


def compare(
    found: Tracks, wanted: Tracks, source: Tracks, counted: Bool[np.ndarray, "N T"], diagonal: float
) -> dict[str, float]:
    """Compare tracks with where they should go, over the (n, t) that are counted, all points of a clip together.

    Args:
        found: as tracked; where a point is lost its last position counts for follow_epe, and none for follow_epe_seen.
        wanted: in the target.
        source: of the same points in the source. diagonal: of a frame, in pixels.
    """
    error = np.linalg.norm(found.xy.astype(np.float64) - wanted.xy, axis=-1)
    near = [(error <= share * diagonal) & found.visible for share in (0.01, 0.05)]
    epe = metrics.epe(found.xy, wanted.xy, counted)
    return {
        "follow_epe": epe,
        "follow_epe_seen": metrics.epe(found.xy, wanted.xy, counted & found.visible),
        "follow_epe_percent": 100 * epe / diagonal,
        "acc_01": _share(near[0][counted]),
        "acc_05": _share(near[1][counted]),
        "lost": _share(~found.visible[counted]),
        "identity_copy_rate": _copied(found, wanted, source, counted, diagonal),
        "track_jerk": _jerk(found.xy, counted),
    }


def motion(frames: UInt8[np.ndarray, "T H W 3"], truth: Truth) -> dict[str, float]:
    """Measure a video by itself."""
    return {"flicker": flicker(frames), "dynamic_dis": dynamic_degree(frames, truth.item.fps)}


def fidelity(frames: UInt8[np.ndarray, "T H W 3"], truth: Truth) -> dict[str, float]:
    """Track the source's points in a video, from its first frame on, and compare how both move."""
    source = truth.item.source_tracks()
    found = truth.tracker.track(frames, np.insert(source.xy[:, 0], 0, 0, axis=1).astype(np.float32))
    other = float("nan") if truth.other is None else motion_fidelity(truth.other.source_tracks(), found)
    modes = {"": "mean", "_sum": "sum", "_dmt": "dmt_code"}
    of_modes = {f"motion_fidelity{name}": motion_fidelity(source, found, mode) for name, mode in modes.items()}
    return of_modes | {"motion_fidelity_floor": other}


def kept(frames: UInt8[np.ndarray, "T H W 3"], truth: Truth) -> dict[str, float]:
    """Compare a video with the source where the edit changes nothing; NaN where it changes all."""
    near = cv2.dilate(truth.item.mask().astype(np.uint8), np.ones((17, 17), np.uint8)) > 0
    errors = np.stack(
        [
            np.square((made.astype(np.float64) - true) / 255).mean(axis=-1)
            for made, true in zip(frames, truth.item.source(), strict=True)
        ]
    ).mean(axis=0)
    found = {}
    for name, outside in (("kept_psnr", ~truth.item.mask()), ("kept_psnr_8", ~near)):
        error = float(errors[outside].mean()) if outside.any() else float("nan")
        # NaN stays NaN: `min` would answer with the most.
        found[name] = PSNR_MOST if error == 0 else float(np.minimum(PSNR_MOST, -10 * np.log10(error)))
    return found


def appearance(frames: UInt8[np.ndarray, "T H W 3"], truth: Truth) -> dict[str, float]:
    """Compare a video with the target by the features of `truth.network`."""
    from motionv2v.models.features import lpips  # which loads jax; other metrics need none of it

    each = lpips.frame_distances(truth.network.module, truth.network.params, frames, truth.frames)
    return {"lpips": float(each.mean()), "lpips_later": float(each[1:].mean())}


def flicker(frames: UInt8[np.ndarray, "T H W 3"]) -> float:
    """Return 1 for a still video, 0 for one that turns from black to white: VBench's temporal flickering."""
    steps = [cv2.absdiff(a, b).mean() for a, b in itertools.pairwise(frames)]
    return (255 - float(np.mean(steps))) / 255 if steps else float("nan")


def dynamic_degree(frames: UInt8[np.ndarray, "T H W 3"], fps: float | int) -> float:
    """Return 1 where a video moves, else 0, by the rule of VBench's dynamic degree, of DIS flow instead of RAFT's.

    Of the frames at 8 per second, a pair of neighbours moves if the fastest twentieth of its pixels goes on average
    more than 6/256 of the shorter side; the video does if so many pairs do as a quarter of its frames, one at least.
    """
    thinned = frames[:: max(1, round(fps / _THINNED_FPS))]
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in thinned]
    limit, moving = _RAFT_LEVEL * min(frames.shape[1:3]), 0
    for a, b in itertools.pairwise(grey):
        speed = np.sort(np.linalg.norm(dis.calc(a, b, None), axis=-1), axis=None)
        moving += bool(speed[-max(1, int(_FASTEST * speed.size)) :].mean() > limit)
    return float(moving >= max(1, round(len(grey) / 4)))


def _share(right: Bool[np.ndarray, "M"]) -> float:
    return float(right.mean()) if right.size else float("nan")


def _copied(found, wanted, source, counted, diagonal) -> float:
    """Return the identity-copy rate of the points whose paths differ in source and target."""
    both = counted & source.visible
    edited = _goes_elsewhere(wanted, source, both, diagonal)
    return metrics.identity_copy_rate(found, source, Tracks(wanted.xy, counted), edited)


def _goes_elsewhere(wanted, source, both, diagonal) -> Bool[np.ndarray, "N"]:
    """Tell which points' paths differ in source and target by `MOVED`, on average over the frames that count."""
    apart = np.linalg.norm(source.xy - wanted.xy, axis=-1)
    return both.any(axis=1) & ((apart * both).sum(axis=1) > MOVED * diagonal * both.sum(axis=1))


def _jerk(xy: Float[np.ndarray, "N T 2"], counted: Bool[np.ndarray, "N T"]) -> float:
    """Return the mean length of second differences within the counted frames and the one before them."""
    inner = counted[:, 1:-1] & counted[:, 2:]
    second = np.linalg.norm(np.diff(xy.astype(np.float64), n=2, axis=1), axis=-1)[inner]
    return float(second.mean()) if second.size else float("nan")


class Group(NamedTuple):
    """Metrics that are taken together. `version` counts up when their numbers change; kept ones then expire."""

    version: int
    measure: Callable[[UInt8[np.ndarray, "T H W 3"], Truth], dict[str, float]]


GROUPS = {
    "pictures": Group(1, pictures),
    "tracks": Group(2, tracks),
    "objects": Group(3, trajectories.measure),
    "fidelity": Group(2, fidelity),
    "kept": Group(2, kept),
    "motion": Group(1, motion),
    "lpips": Group(1, appearance),
    "clip": Group(clip_scores.VERSION, clip_scores.measure),
    "vbench": Group(clip_scores.VERSION, clip_scores.measure_background),
    "trajan": Group(trajan_scores.VERSION, trajan_scores.measure),
}

TRACKED = ("tracks", "objects")
"""Groups that track the target's points again."""

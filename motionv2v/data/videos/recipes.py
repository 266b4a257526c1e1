"""Make counterfactual pairs out of one real clip: the recipes, the points, and the gates that keep bad pairs out.

The target is always a contiguous window of the clip as filmed. The source shows the same content under another motion
(the paper, section 3.2 and supplement):

    resample      frames evenly spaced between two free times: another speed, a shift, a reversal
    preset        the window under a speed preset, perhaps reversed
    crop          the window seen by a moving, rotating, zooming crop: another camera
    shuffle       the window cut into pieces that are put together in another order
    interpolate   frames that a generator makes between two frames of the clip; half of them shuffled as above

Motion Prompting learns from single clips with dense tracks: with `PairConfig.dense` a window of the clip is taken as
filmed, with that many tracks (`dense_clip`), and nothing is paired.

Sources of the other recipes get a sliding crop too, with a probability. Source and target are scaled until they cover
the wanted size, and cut to it around the centre; points follow every step. A point is the same in both clips: in frames
of one clip because it was tracked once through the whole clip, in generated frames because both videos are tracked from
the frames that they share, the first and the last generated one.

Numpy only. The tracker and the generator are passed in.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from motionv2v.data import counterfactual, transforms
from motionv2v.data.counterfactual import ClipPair, FramePair
from motionv2v.data.transforms import TrackedClip
from motionv2v.data.videos import generator_prompts, shots
from motionv2v.trackers import Tracker
from motionv2v.tracks import Tracks, from_arrays, hide_outside, select, validate
from motionv2v.typing import Bool, Float, Int, UInt8

Generator = Callable[[np.ndarray, np.ndarray, str, int, int], np.ndarray]
"""(first uint8 [H W 3], last uint8 [H W 3], prompt, num_frames T, seed) -> frames uint8 [T H W 3] between them."""

RECIPES: dict[str, float] = {"resample": 0.4, "preset": 0.15, "crop": 0.15, "shuffle": 0.1, "interpolate": 0.2}
"""The recipes and their default weights; the paper states none. Without a generator "interpolate" has none."""

GATES: dict[str, str] = {
    "short": "the clip has fewer frames than a pair needs",
    "cut": "the frames used come from more than one shot",
    "black": "black frames",
    "frozen": "frozen frames",
    "tracking": "too many points do not return when they are tracked there and back",
    "few_points": "too few points are seen in both clips",
    "static": "no points move differently in source and target, so that the pair would teach copying",
}
"""The quality gates: the names that `Rejected.gate` takes, and what they mean."""


class Rejected(ValueError):
    """A quality gate refused a clip or a pair; `gate` is one of `GATES`."""

    def __init__(self, gate: str, reason: str = ""):
        super().__init__(gate, reason)  # both, so that it can be pickled
        self.gate = gate

    def __str__(self) -> str:
        return f"{self.gate}: {self.args[1] or GATES[self.gate]}"


@dataclass(frozen=True)
class PairConfig:
    """How pairs are made. Lengths in the picture are given as parts of the short side, to hold at any size.

    Attributes:
        num_frames, size: frames T and (H, W) in pixels of source and target.
        num_points: points N of a sample, padded with points that are hidden everywhere. min_points: gate "few_points";
            below 8 a sample says little about the motion of a whole picture.
        recipes: weight of each recipe, of `RECIPES`; those left out have none.
        crop: probability of a sliding crop of the source (0.2 in the paper's released code).
        shuffle: probability that a generated source is shuffled in time.
        grid_points, query_times: points followed through a clip, and the number of times at which they start.
        edited_share: share of the N points taken from those that move differently, as far as there are any: in many
            clips only something small moves.
        min_change: gate "static" and `edited`: a point moves differently if its two paths are this far apart on
            average. 0.01 is 5 px at 480 rows, above the error of tracks that pass the gate "tracking" (4 px).
        min_edited: gate "static": the least number of such points among those followed; fewer may be tracking errors.
        max_return: gate "tracking": how far from its start a point may come back that was tracked there and back.
        min_returned: gate "tracking": the least share of points that come back. Where it works, 9 in 10 do; where half
            of them go astray, chance decides about the others.
        dense: tracks of a single clip (16,384 in Motion Prompting); 0 makes pairs. With it recipes,
            `num_points` and what says which points move play no part.
    """

    num_frames: int = 49
    size: tuple[int, int] = (480, 720)
    num_points: int = 64
    min_points: int = 8
    recipes: Mapping[str, float] = field(default_factory=lambda: dict(RECIPES))
    crop: float = 0.2
    shuffle: float = 0.5
    grid_points: int = 1024
    query_times: int = 4
    edited_share: float = 0.5
    min_change: float = 0.01
    min_edited: int = 4
    max_return: float = 0.008
    min_returned: float = 0.5
    dense: int = 0

    def __post_init__(self):
        """Raise ValueError for options out of range."""
        unknown = sorted(set(self.recipes) - set(RECIPES))
        weights = list(self.recipes.values())
        if unknown or not weights or min(weights) < 0 or sum(weights) <= 0:
            raise ValueError(f"recipes must give weights to some of {', '.join(RECIPES)}, given {dict(self.recipes)}")
        if self.dense and self.dense < self.min_points:
            raise ValueError(f"dense must be 0 or at least min_points={self.min_points}, given {self.dense}")
        if self.num_frames < 3 or min(self.size) < 1:
            raise ValueError(f"a pair needs 3 frames and a positive size, given {self.num_frames} and {self.size}")
        if not 1 <= self.min_points <= self.num_points:
            raise ValueError(f"min_points must be 1..num_points={self.num_points}, given {self.min_points}")
        if not 1 <= self.query_times <= self.grid_points:
            raise ValueError(f"query_times must be 1..grid_points={self.grid_points}, given {self.query_times}")
        for name in ("crop", "shuffle", "edited_share", "min_returned"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in 0..1, given {getattr(self, name)}")


@dataclass(frozen=True)
class PairSample:
    """One counterfactual pair, in pixels of `PairConfig.size`.

    Attributes:
        source, target: the same content under two motions, uint8 [T H W 3].
        source_tracks, target_tracks: the same N points in both; points without use are hidden in all frames.
        edited: [N], True where the point moves differently, by `PairConfig.min_change` on average.
        caption: what the clip shows. kind: the recipe's name.
        source_frames, target_frames: [T], the frame of the clip that each frame shows; -1 where it was generated.
    """

    source: UInt8[np.ndarray, "T H W 3"]
    target: UInt8[np.ndarray, "T H W 3"]
    source_tracks: Tracks
    target_tracks: Tracks
    edited: Bool[np.ndarray, "N"]
    caption: str
    kind: str
    source_frames: Int[np.ndarray, "T"]
    target_frames: Int[np.ndarray, "T"]


@dataclass(frozen=True)
class ClipSample:
    """One clip as filmed with dense tracks, in pixels of `PairConfig.size`.

    Attributes:
        clip: uint8 [T H W 3]. tracks: the N points that are seen in it, N at most `PairConfig.dense`.
        frames: [T], the frame of the longer clip that each frame shows. caption, kind: as of a pair.
    """

    clip: UInt8[np.ndarray, "T H W 3"]
    tracks: Tracks
    frames: Int[np.ndarray, "T"]
    caption: str
    kind: str = "clip"


def dense_clip(
    rng: np.random.Generator,
    frames: UInt8[np.ndarray, "T0 H0 W0 3"],
    track: Callable[[UInt8[np.ndarray, "T H0 W0 3"], int], Tracks],
    config: PairConfig,
    caption: str = "",
) -> ClipSample:
    """Take a window of a clip as filmed, with dense tracks.

    Args:
        rng: draws the window. frames: of one video. config: with `dense`. caption: what the clip shows.
        track: (frames of the window, its start) -> tracks in their pixels, of `track_densely` or exact ones.

    Raises:
        Rejected: with the gate's name where the clip is not fit for training.
    """
    _check_length(frames, config)
    window = transforms.window_indices(rng, len(frames), config.num_frames)
    _check_shot(frames, window)
    taken = frames[window[0] : window[-1] + 1]
    tracks = validate(track(taken, int(window[0])), num_frames=len(taken))
    clip = transforms.cover_crop(TrackedClip(taken, tracks), config.size)
    inside = hide_outside(clip.tracks, config.size)
    seen = np.flatnonzero(inside.visible.any(axis=1))
    if len(seen) < config.min_points:
        raise Rejected("few_points", f"{len(seen)} points are seen in the clip, {config.min_points} are needed")
    return ClipSample(clip.frames, select(inside, seen), window, caption)


def track_densely(
    rng: np.random.Generator, frames: UInt8[np.ndarray, "T H0 W0 3"], tracker: Tracker, config: PairConfig
) -> Tracks:
    """Follows `dense_queries` through a clip; those that do not come back when tracked there and back are left out.

    Raises Rejected with the gate "tracking".
    """
    queries = dense_queries(rng, len(frames), frames.shape[1:3], config)
    tracks, returned = there_and_back(frames, queries, tracker, config.max_return * min(frames.shape[1:3]))
    _check_returned(returned, config)
    return select(tracks, np.flatnonzero(returned))


def dense_queries(
    rng: np.random.Generator, num_frames: int, size: tuple[int, ...], config: PairConfig
) -> Float[np.ndarray, "N 3"]:
    """Draws `config.dense` queries (t, x, y) at most: half of them in the first frame, which Motion Prompting gives.

    The others start at `config.query_times` later times, for what the first frame does not show; all are spread evenly
    over a picture of `size` (H, W).
    """
    times = np.linspace(0, num_frames, config.query_times + 1, endpoint=False).astype(int)[1:]
    first = _grid_queries(rng, np.array([0]), size, (config.dense + 1) // 2)
    later = _grid_queries(rng, np.unique(times), size, config.dense // 2)
    queries = np.concatenate([first, later])
    # In the order of the grid: what lies side by side is stored in less.
    return queries[np.sort(rng.permutation(len(queries))[: config.dense])]


def make_pair(
    rng: np.random.Generator,
    frames: UInt8[np.ndarray, "T0 H0 W0 3"],
    tracks: Tracks | None,
    tracker: Tracker | None,
    config: PairConfig,
    caption: str = "",
    generator: Generator | None = None,
    prompts: Callable[[np.random.Generator, str], str] = generator_prompts.rewrite,
) -> PairSample:
    """Draws one pair from a clip; `tracks` are those of `track_grid` or exact ones, and are made if they are None.

    The tracker is needed without tracks and for the recipe "interpolate", the generator for that recipe only; `prompts`
    turns the clip's caption into what the generator is asked for. Raises Rejected with the gate's name where the clip
    or the drawn pair is not fit for training (another draw may be), ValueError for what is missing or does not fit.
    """
    kind = _draw_recipe(rng, config, generator)
    if (tracks is None or kind == "interpolate") and tracker is None:
        raise ValueError(f"the recipe {kind!r} needs a tracker here; give one, or tracks of the whole clip")
    _check_length(frames, config)
    if kind == "interpolate":
        pair, indices = _interpolated(rng, frames, tracker, config, lambda: prompts(rng, caption), generator)
    else:
        indices = _FRAMES[kind](rng, len(frames), config.num_frames)
        _check_shot(frames, np.concatenate(indices))
        tracks = track_grid(rng, frames, tracker, config) if tracks is None else tracks
        tracks = validate(tracks, num_frames=len(frames))
        taken = counterfactual.take_pair(TrackedClip(frames, tracks), indices)
        pair = ClipPair(*(transforms.cover_crop(clip, config.size) for clip in taken))
    probability = 1.0 if kind == "crop" else config.crop
    pair = pair._replace(source=counterfactual.random_sliding_crop(rng, pair.source, probability))
    source, target, edited = _choose_points(rng, pair, config)
    return PairSample(
        source=pair.source.frames,
        target=pair.target.frames,
        source_tracks=source,
        target_tracks=target,
        edited=edited,
        caption=caption,
        kind=kind,
        source_frames=indices.source,
        target_frames=indices.target,
    )


def track_grid(
    rng: np.random.Generator, frames: UInt8[np.ndarray, "T0 H0 W0 3"], tracker: Tracker, config: PairConfig
) -> Tracks:
    """Follows points from all over the picture and the clip through the whole clip, for several pairs of one clip.

    Starts at `config.query_times` times, one point at random in each cell of a grid, about `config.grid_points` in all.
    Points that do not come back when tracked there and back are left out. Raises Rejected with the gate "short" or
    "tracking".
    """
    _check_length(frames, config)
    times = ((np.arange(config.query_times) + rng.random()) * len(frames) / config.query_times).astype(int)
    queries = _grid_queries(rng, np.unique(times), frames.shape[1:3], config.grid_points)
    tracks, returned = there_and_back(frames, queries, tracker, config.max_return * min(frames.shape[1:3]))
    _check_returned(returned, config)
    return select(tracks, np.flatnonzero(returned))


def there_and_back(
    frames: UInt8[np.ndarray, "T H W 3"], queries: Float[np.ndarray, "N 3"], tracker: Tracker, max_error: float
) -> tuple[Tracks, Bool[np.ndarray, "N"]]:
    """Tracks queries (t, x, y), and again from far away back; returns the tracks and which points came back.

    Each point is tracked back from the frame furthest from its query in which it was seen (of nine frames spread over
    the clip and those of the queries). It came back if it is seen again at most `max_error` pixels from its query.
    Frames in which the two paths are further apart than that are hidden.
    """
    tracks = tracker.track(frames, queries)
    rows, num_frames = np.arange(len(queries)), len(frames)
    start = queries[:, 0].astype(int)
    # Few distinct times: a tracker's work may grow with the number of times at which points start.
    ends = np.union1d(start, np.linspace(0, num_frames - 1, min(9, num_frames)).astype(int))
    distance = np.abs(ends - start[:, None])
    end = ends[np.where(tracks.visible[:, ends], distance, -1).argmax(axis=1)]
    limit = np.array([frames.shape[2], frames.shape[1]])
    far = np.clip(tracks.xy[rows, end], 0, limit)
    back = tracker.track(frames, np.concatenate([end[:, None], far], axis=1).astype(np.float32))
    error = np.linalg.norm(back.xy - tracks.xy, axis=-1)
    returned = (error[rows, start] <= max_error) & back.visible[rows, start]
    astray = back.visible & (error > max_error)
    return Tracks(tracks.xy, tracks.visible & ~astray), returned


_FRAMES: dict[str, Callable[..., FramePair]] = {
    "resample": counterfactual.resample_pair,
    "preset": counterfactual.slowed_pair,
    "crop": counterfactual.same_pair,
    "shuffle": counterfactual.shuffled_pair,
}


def _draw_recipe(rng: np.random.Generator, config: PairConfig, generator: Any) -> str:
    """Draws a recipe by its weight among those that can be made."""
    weights = {name: w for name, w in config.recipes.items() if generator is not None or name != "interpolate"}
    if sum(weights.values()) <= 0:
        raise ValueError('the only recipe with a weight is "interpolate", which needs a generator; none is given')
    names = list(weights)
    return names[rng.choice(len(names), p=np.array(list(weights.values())) / sum(weights.values()))]


def _interpolated(
    rng: np.random.Generator, frames: np.ndarray, tracker: Tracker, config: PairConfig, prompt, generator: Generator
) -> tuple[ClipPair, FramePair]:
    """Generates a source between two frames of the clip and tracks both videos from those two frames."""
    num_frames = config.num_frames
    target = transforms.window_indices(rng, len(frames), num_frames)
    start, end = rng.choice(len(frames), size=2, replace=False)
    _check_shot(frames, np.array([*target, start, end]))
    low, high = min(start, end, target[0]), max(start, end, target[-1]) + 1
    nothing = from_arrays(np.zeros((0, high - low, 2)))
    clip = transforms.cover_crop(TrackedClip(frames[low:high], nothing), config.size).frames
    first, last = clip[start - low], clip[end - low]
    made = np.asarray(generator(first, last, prompt(), num_frames, int(rng.integers(2**31))))
    if made.shape != (num_frames, *config.size, 3) or made.dtype != np.uint8:
        expected = [num_frames, *config.size, 3]
        raise ValueError(f"the generator must return uint8 {expected}, it returned {made.dtype} {list(made.shape)}")
    _check_shot(made, np.arange(num_frames))
    queries = _grid_queries(rng, np.array([0, num_frames - 1]), config.size, config.grid_points)
    queries_in_clip = np.where(queries[:, :1] == 0, start - low, end - low)
    queries_in_clip = np.concatenate([queries_in_clip, queries[:, 1:]], axis=1).astype(np.float32)
    # Tracked from the clip's own two frames, which the generator may have changed a little.
    shared = np.concatenate([first[None], made[1:-1], last[None]])
    limit = config.max_return * min(config.size)
    in_clip, good_in_clip = there_and_back(clip, queries_in_clip, tracker, limit)
    in_made, good_in_made = there_and_back(shared, queries, tracker, limit)
    _check_returned(good_in_clip, config)
    _check_returned(good_in_made, config)
    good = np.flatnonzero(good_in_clip & good_in_made)
    source = TrackedClip(made, select(in_made, good))
    if rng.random() < config.shuffle:
        source = transforms.take_frames(source, transforms.shuffle_indices(rng, num_frames))
    window = transforms.take_frames(TrackedClip(clip, select(in_clip, good)), target - low)
    return ClipPair(source, window), FramePair(np.full(num_frames, -1), target)


def _choose_points(
    rng: np.random.Generator, pair: ClipPair, config: PairConfig
) -> tuple[Tracks, Tracks, Bool[np.ndarray, "N"]]:
    """Chooses N points seen in both clips, pads with hidden ones, and says which of them move differently."""
    source, target = (hide_outside(clip.tracks, config.size) for clip in pair)
    seen = source.visible.any(axis=1) & target.visible.any(axis=1)
    if seen.sum() < config.min_points:
        raise Rejected("few_points", f"{seen.sum()} points are seen in both clips, {config.min_points} are needed")
    gap = np.linalg.norm(source.xy - target.xy, axis=-1)
    both = source.visible & target.visible
    # A hidden point's position is a guess; where the two are never seen at the same time there is nothing better.
    both |= ~both.any(axis=1, keepdims=True)
    moved = (gap * both).sum(axis=1) / both.sum(axis=1)
    edited = seen & (moved > config.min_change * min(config.size))
    if edited.sum() < config.min_edited:
        raise Rejected("static", f"{edited.sum()} points move differently, {config.min_edited} are needed")
    order = rng.permutation(np.flatnonzero(seen))
    differing = order[edited[order]][: round(config.edited_share * config.num_points)]
    rest = order[~np.isin(order, differing)][: config.num_points - len(differing)]
    chosen = rng.permutation(np.concatenate([differing, rest]))
    spare = config.num_points - len(chosen)
    padded = [
        Tracks(
            np.pad(side.xy[chosen].astype(np.float32), ((0, spare), (0, 0), (0, 0))),
            np.pad(side.visible[chosen], ((0, spare), (0, 0))),
        )
        for side in (source, target)
    ]
    return padded[0], padded[1], np.pad(edited[chosen], (0, spare))


def _grid_queries(
    rng: np.random.Generator, times: Int[np.ndarray, "M"], size: tuple[int, ...], num_points: int
) -> Float[np.ndarray, "N 3"]:
    """Draws a point in each cell of a grid of nearly square cells, at each of the times: about `num_points` in all."""
    height, width = size
    cells = max(num_points / len(times), 1)
    rows = max(1, round(np.sqrt(cells * height / width)))
    columns = max(1, round(cells / rows))
    t, row, column = np.meshgrid(times, np.arange(rows), np.arange(columns), indexing="ij")
    x = (column + rng.random(t.shape)) * width / columns
    y = (row + rng.random(t.shape)) * height / rows
    queries = np.stack([t, x, y], axis=-1).reshape(-1, 3).astype(np.float32)
    # Rounding to float32 must not move a point onto the picture's far edge.
    return np.minimum(queries, np.nextafter(np.float32([np.inf, width, height]), np.float32(0)))


def _check_length(frames: np.ndarray, config: PairConfig) -> None:
    if len(frames) < config.num_frames:
        raise Rejected("short", f"the clip has {len(frames)} frames, a pair needs {config.num_frames}")


def _check_shot(frames: np.ndarray, used: np.ndarray) -> None:
    """Rejects frames that are not of one clean shot, from the first one used to the last."""
    first, last = int(used.min()), int(used.max())
    found = shots.defect(frames[first : last + 1])
    if found:
        raise Rejected(found, f"{GATES[found]} between frames {first} and {last}")


def _check_returned(returned: Bool[np.ndarray, "N"], config: PairConfig) -> None:
    if returned.mean() < config.min_returned:
        share = f"{returned.mean():.0%} of the points come back, {config.min_returned:.0%} are needed"
        raise Rejected("tracking", share)

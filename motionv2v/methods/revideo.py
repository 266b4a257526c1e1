"""ReVideo (Mou et al., NeurIPS 2024, arXiv 2405.13865): a region of a video is made anew, the rest stays.

Given are the video around the region, its first frame as it shall be, and trajectories inside. `region` is 1 where the
video is made anew, everywhere in this package. Three things enter the control branch's tokens:

    content     latents of the video with the region filled, and the region itself
    motion      how far points have come since the last frame, around where they are (`render.displacements`), the maps
                of a latent's four frames beside one another, so that none is lost
    reference   latents of the first frame, which has no hole

Content and motion are added, or mixed by SAFM (`fusion`): a weight from region and diffusion time, w of the motion and
1 - w of the content, and a Linear layer behind. That layer starts as twice the identity and w as a half, so that
training goes on exactly where the sum ended. "apart" gives each a control branch of its own (`dit.control_branches` 2),
as in the paper's second toy experiment.

The paper fills the region with -1, which the autoencoder lets be seen far around; `hole` "first" fills it with the
first frame as it shall be. `keeps` takes the content's latents around the region as they are, so that only the region
is made: a result is then as near to the video around it as the autoencoder lets it be.

Two more choices of our own are for models that are trained for an hour on a CPU. With `maps` "shifts" the maps tell how
far points have come since the first frame (`render.shifts`), so that it need not be added up; with `carries` the
latents of the reference are also brought to where these maps say (`carry`), and the branch has to mend what arrives.

Training has three stages, as three configs: `data.region` says what a sample is (`data.regions`), `optim.schedule`
what trains. Seeing content from the start, a model guesses motion from it and ignores the trajectories.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from motionv2v import figures, metrics, render
from motionv2v.methods import Method, fields, start_from_base, with_image_channels
from motionv2v.models.dit import Control, DiT
from motionv2v.models.patches import patchify
from motionv2v.models.vae.autoencoder import latent_shape
from motionv2v.schema import Field, choice, flag, number
from motionv2v.trackers import followed
from motionv2v.tracks import Tracks
from motionv2v.typing import AnyArray, Float, Key, PyTree

FUSIONS = ("sum", "safm", "safm_without_time", "apart")
HIDDEN = 64
"""Features of SAFM between its two layers."""

SETTINGS = {
    "sigma": Field(number(above=0, most=4096), "spread of a trajectory in pixels", 10.0),
    "maps": Field(
        choice("displacements", "shifts"),
        "what maps of motion tell: since the last frame, or the first",
        "displacements",
    ),
    "carries": Field(flag, "the reference's latents are carried along the trajectories, with maps of shifts", False),
    "fusion": Field(choice(*FUSIONS), "how content and motion are joined", "sum"),
    "content": Field(
        choice("latents", "convolutions"), "what reads it: the autoencoder, or convolutions as in the paper", "latents"
    ),
    "hole": Field(choice("black", "first"), "what fills the region: black, or the first frame, held", "black"),
    "keeps": Field(flag, "latents around the region are the content's, and not predicted", False),
    "first_frame": Field(
        choice("control", "concat"), "where its latents enter: the branch, or beside the noise", "control"
    ),
    "image_scale": Field(number(above=0), "the first frame's latents beside the noise are multiplied by this", 1.0),
}
"""The fields of `config.method`, see `schema`."""


def conditions(key: Key, clip: dict[str, AnyArray], config: Any) -> dict[str, dict[str, AnyArray]]:
    """Take from one sample what is given: its first frame, what is outside the region, and the trajectories.

    Args:
        key: unused. clip: `target` uint8 [T H W 3], read outside the region and in the first frame alone; `region`
            [T H W], 1 inside; `target_xy` [N T 2] in pixels and `target_visible` [N T].
        config: `sigma`, `maps`, `content`, `hole`.

    Returns:
        {"videos": {"reference": [1 H W 3], "content": [T H W 3]} in [-1, 1], "maps": {"region": [t h w 1],
        "motion": [t h w 8], or 12 of shifts}}; with `content` "convolutions" that is a map [T H W 3].
    """
    del key
    frames = clip["target"].astype(jnp.float32) / 127.5 - 1
    content = jnp.where(clip["region"][..., None] > 0, frames[:1] if config.hole == "first" else -1.0, frames)
    grid = latent_shape((1, *frames.shape))[2:4]
    tracks = Tracks(clip["target_xy"], clip["target_visible"])
    draw = render.shifts if config.maps == "shifts" else render.displacements
    motion = draw(tracks, frames.shape[1:3], grid, config.sigma)
    region = render.per_latent((clip["region"] > 0).astype(jnp.float32), jnp.max)[..., None]
    videos, maps = {"reference": frames[:1]}, {"region": region, "motion": render.pack(motion)}
    (maps if config.content == "convolutions" else videos)["content"] = content
    return {"videos": videos, "maps": maps}


def carry(
    reference: Float[AnyArray, "B 1 h w z"], motion: Float[AnyArray, "B t h w 12"]
) -> Float[AnyArray, "B t h w F"]:
    """Bring the reference's latents to where maps of shifts say that they are seen.

    Args:
        reference: the latents. motion: of `render.shifts`, packed.

    Returns:
        For each of a latent's four frames z numbers and how near a trajectory is; far from all, the reference as it is.
        F = 4 (z + 1), laid out as Motion Prompting's, whose weights are a start for what reads it.
    """
    shifts = motion.reshape(*motion.shape[:4], render.FRAMES, 3)
    row = jnp.arange(motion.shape[2])[:, None, None] - shifts[..., 1]
    column = jnp.arange(motion.shape[3])[:, None] - shifts[..., 0]
    found = jnp.concatenate([render.between(reference[:, 0], row, column), shifts[..., 2:]], -1)
    return found.reshape(*motion.shape[:4], -1)


class ContentEncoder(nn.Module):
    """Bring pixels to the latents' grid by convolutions, 16 to 256 channels, as the paper's content encoder.

    The paper's reads frame by frame; this one also halves time twice, looking back alone.
    """

    features: tuple[int, ...] = (16, 32, 96, 256)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, video: Float[AnyArray, "B T H W 3"]) -> Float[AnyArray, "B t h w F"]:
        """Return features on the grid of the autoencoder's latents."""

        def conv(x, features, stride):
            # The first frame is seen by the first output alone, as in the autoencoder.
            padding = ((2, 0), (1, 1) if stride[1] == 1 else (0, 1), (1, 1) if stride[2] == 1 else (0, 1))
            return nn.Conv(features, (3, 3, 3), stride, padding, dtype=self.dtype)(x)

        x = nn.silu(conv(video.astype(self.dtype), self.features[0], (1, 1, 1)))
        for index, features in enumerate(self.features[1:]):
            x = nn.silu(conv(x, features, (1, 1, 1)))
            x = nn.silu(conv(x, features, (2 if index else 1, 2, 2)))
        return x


class Conditioner(nn.Module):
    """Join content, motion and reference into the control branch's tokens.

    Attributes:
        width: model width D. patch_size: rows and columns of latents per token, as in the DiT.
        fusion, content, carries, keeps: as in `SETTINGS`.
        is_beside_noise: the reference is not the branch's business, but stands beside the noise.
        image_scale: its latents there are multiplied by this besides the VAE's scaling factor.
        dtype: compute type; parameters are float32.
    """

    width: int
    patch_size: int = 2
    fusion: str = "sum"
    content: str = "latents"
    is_beside_noise: bool = False
    image_scale: float = 1.0
    carries: bool = False
    keeps: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, conditions: dict[str, Any], time: Float[AnyArray, "B"] | None = None) -> Control:
        """Return `Control` with tokens [B t*h*w/p^2 D], and concat [B t h w z] if the reference stands there.

        With `fusion` "apart" tokens are [B t*h*w/p^2 2D], motion before content.

        Args:
            conditions: {"videos": {"reference": [B 1 h w z], "content": [B t h w z]}, "maps": {"region": [B t h w 1],
                "motion": [B t h w 8 or 12]}}. time: [B] in [0, 1], 1 is noise; read by SAFM.

        Raises:
            ValueError: if one is missing, naming what is there.
        """
        given = {**conditions.get("videos", {}), **conditions.get("maps", {})}
        for name in ("reference", "content", "region", "motion"):
            if name not in given:
                raise ValueError(f"condition {name!r} is missing; got {', '.join(sorted(given)) or 'none'}")
        region, reference, content = given["region"], given["reference"], given["content"]
        known = {"known": content, "is_known": (region == 0).astype(content.dtype)} if self.keeps else {}
        if self.content == "convolutions":
            content = ContentEncoder(dtype=self.dtype, name="content_encoder")(content)
        motion = self._embed("motion_embed", given["motion"])
        # Zeros at first: the second stage begins with what the first one learned.
        content = self._embed("content_embed", content, region, kernel_init=nn.initializers.zeros)
        if self.carries:
            held = jnp.repeat(reference, region.shape[1], axis=1)
            for name, seen in (("carried_embed", carry(reference, given["motion"])), ("held_embed", held)):
                motion += self._embed(name, seen, kernel_init=nn.initializers.zeros)
        reference = jnp.pad(reference, ((0, 0), (0, region.shape[1] - 1), (0, 0), (0, 0), (0, 0)))
        concat = reference * self.image_scale if self.is_beside_noise else None
        shown = 0 if self.is_beside_noise else self._embed("reference_embed", reference)
        if self.fusion == "apart":
            return Control(tokens=jnp.concatenate([motion + shown, content], -1), concat=concat, **known)
        tokens = motion + content if self.fusion == "sum" else self._mix(motion, content, region, time)
        return Control(tokens=tokens + shown, concat=concat, **known)

    def _embed(self, name: str, *parts: AnyArray, **options: Any) -> Float[AnyArray, "B n D"]:
        patches = patchify(jnp.concatenate(parts, -1).astype(self.dtype), self.patch_size)
        return nn.Dense(self.width, dtype=self.dtype, name=name, **options)(patches)

    def _mix(self, motion, content, region, time):
        """Weigh motion against content by region and time (SAFM)."""
        has_time = self.fusion == "safm" and time is not None
        plane = jnp.broadcast_to(
            (time if has_time else jnp.zeros(len(region)))[:, None, None, None, None], region.shape
        )
        patches = patchify(jnp.concatenate([region, plane], -1).astype(self.dtype), self.patch_size)
        hidden = nn.silu(nn.Dense(HIDDEN, dtype=self.dtype, name="safm_in")(patches))
        zeros = {"kernel_init": nn.initializers.zeros, "dtype": self.dtype}
        weight = jax.nn.sigmoid(nn.Dense(self.width, name="safm_out", **zeros)(hidden))
        twice = lambda key, shape, dtype=jnp.float32: 2 * jnp.eye(*shape, dtype=dtype)  # noqa: E731
        mixed = motion * weight + content * (1 - weight)
        return nn.Dense(self.width, dtype=self.dtype, kernel_init=twice, name="safm_mix")(mixed)


def make_conditioner(config: Any, *, width: int, patch_size: int, dtype: Any = jnp.float32) -> Conditioner:
    """Build the conditioner that a config asks for.

    Raises ValueError for one that carries without shifts, or keeps latents that there are not.
    """
    if config.carries and config.maps != "shifts":
        raise ValueError(f'method.carries needs shifts to carry by: method.maps is {config.maps!r}, expected "shifts"')
    if config.keeps and config.content != "latents":
        raise ValueError(f'method.keeps needs latents to keep: method.content is {config.content!r}, not "latents"')
    settings = {name: config[name] for name in ("fusion", "content", "carries", "keeps", "image_scale")}
    is_beside = config.first_frame == "concat"
    return Conditioner(width, patch_size, is_beside_noise=is_beside, **settings, dtype=dtype)


def start_from(params: PyTree, base: PyTree, dit: DiT, config: Any) -> PyTree:
    """Start branch and transformer from a base; one that reads an image may start from one that does not."""
    base = with_image_channels(base, dit) if config.first_frame == "concat" else base
    return start_from_base(params, base, dit, config)


def probe(generate: Callable[[dict[str, Any]], AnyArray], samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Make held-out regions anew, and see whether trajectories are followed inside and the rest stays outside.

    Args:
        generate: the model, as `Method.probe` says. samples: held-out ones with `target`, its tracks and `region`.

    Returns:
        {"scalars": {"follow_epe", "follow_epe_held" in pixels, "psnr_inside", "psnr_outside" in dB}, "videos": the
        first four, side by side}; "held" is the first frame's region, for the whole clip.
    """
    names = ("target", "region", "target_xy", "target_visible")
    batch = {name: np.stack([sample[name] for sample in samples]) for name in names}
    truth, inside = batch["target"], batch["region"] > 0
    made = np.asarray(generate(batch))
    held = np.where(inside[..., None], truth[:, :1], truth)
    scalars, shown = {}, {}
    tracks = [Tracks(*both) for both in zip(batch["target_xy"], batch["target_visible"], strict=True)]
    for name, videos in (("", made), ("_held", held)):
        errors = np.array([followed.epe(*both) for both in zip(videos, tracks, strict=True)])
        scalars[f"follow_epe{name}"] = float(np.nanmean(errors)) if np.isfinite(errors).any() else float("nan")
    for name, where in (("inside", inside), ("outside", ~inside)):
        found = [metrics.clip_psnr(a, b, mask) for a, b, mask in zip(made, truth, where, strict=True) if mask.any()]
        scalars |= {f"psnr_{name}": float(np.mean(found))} if found else {}
    for i in range(min(4, len(made))):
        given = np.where(inside[i, ..., None], 255, truth[i]).astype(np.uint8)
        given[0] = truth[i, 0]
        rows = [("given", figures.draw_tracks(given, tracks[i])), ("made", made[i]), ("true", truth[i])]
        shown[f"remade_{i}"] = figures.side_by_side(rows)
    return {"scalars": scalars, "videos": shown}


METHOD = Method(
    reads=("target", "region", "target_tracks"),
    conditions=conditions,
    make_conditioner=make_conditioner,
    settings=SETTINGS,
    # A clip that is turned round in time starts with another frame than the one that is given.
    turn={"target": fields.FIELDS["target"]._replace(keeps_time=True)},
    start_from=start_from,
    probe=probe,
)

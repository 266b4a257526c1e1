"""MotionV2V (arXiv 2511.20640, section 3.3): a source video, its tracks and the wanted tracks steer the control branch.

Three conditioning videos go through the frozen VAE: the source video, its points drawn as coloured Gaussian blobs, and
the same points, in the same colours, where the edit wants them. Their latents are concatenated on channels in the order
[target tracks | source tracks | source video], 3 x 16 = 48 channels, and patchified into the control branch's tokens.
The code behind the published demos adds to each stream the latent of its first frame (zero elsewhere): 96 channels.

A fourth stream, which is ours, is the edit's draft (`motionv2v.draft`): what the clip's own pixels make of it. Its
latent comes with two maps, the shares of each latent cell that the draft made up and that it doubts, so that the branch
repairs a picture instead of drawing from blobs. It enters twice: by a patch embedding of its own, and by a linear map
of each patch to clean latents, the estimate which the transformer then corrects (`dit.Control.estimate`), so that what
is certain need not pass through the blocks. Both start as zeros: weights that were trained without a draft go on from
where they were.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from motionv2v import render
from motionv2v.methods import Method, start_from_base
from motionv2v.models.dit import Control, DiT
from motionv2v.models.layouts import Layout, Shapes, Trim
from motionv2v.models.patches import patchify, unpatchify
from motionv2v.schema import Field, Kind, choice, flag, number
from motionv2v.tracks import Tracks
from motionv2v.typing import AnyArray, Float, Key, PyTree

STREAMS = ("target_tracks", "source_tracks", "source_video")
DRAFT = "draft"


def _known_streams(value: Any) -> tuple[str, ...]:
    if tuple(value) not in (STREAMS, (*STREAMS, DRAFT)):
        raise ValueError
    return tuple(value)


SETTINGS = {
    "streams": Field(
        Kind(f"{STREAMS}, or these and then {DRAFT!r}", _known_streams), "what the branch sees, in order", STREAMS
    ),
    "sigma": Field(number(above=0, most=4096), "standard deviation of a blob in pixels", 10.0),
    "colors": Field(choice("any", *render.POOLS), "pool of the blobs' colours", "any"),
    "first_frame_latents": Field(flag, "96 conditioning channels instead of 48", False),
    "subpixel": Field(flag, "whether a blob's centre lies between pixels, or snaps to one", True),
    "patch_embed_from_base": Field(flag, "start the conditioner's patch embedding from the base's", False),
}
"""The fields of `config.method`, see `schema`."""


def conditions(key: Key, clip: dict[str, AnyArray], config: Any) -> dict[str, dict[str, Float[AnyArray, "T H W 3"]]]:
    """Draw the conditioning videos of one sample; jittable and vmappable, the same in training and in editing.

    Args:
        key: draws the blobs' colours.
        clip: `source` uint8 [T H W 3]; `source_xy`, `target_xy` float [N T 2] in pixels; `source_visible`,
            `target_visible` bool [N T]. A hidden point draws nothing. With the stream `draft` also that field's arrays.
        config: `sigma` (pixels), `colors` (a pool of `render.random_colors`), `first_frame_latents`, `streams`, and
            `subpixel`: whether a blob's centre lies between pixels (the default), or snaps to one as the released
            weights saw it.

    Returns:
        {"videos": {name: [T H W 3] in [-1, 1]}}; with first-frame latents also `<name>_first` of one frame each. With
        the stream `draft` also that video, and "maps": {"draft": [t h w 2]}, the shares of each latent's pixels that
        are made up and that are doubtful.
    """
    size = clip["source"].shape[1:3]
    colors = render.random_colors(key, clip["source_xy"].shape[0], config.colors)
    videos = {"source_video": clip["source"].astype(jnp.float32) / 127.5 - 1}
    for side in ("source", "target"):
        tracks = Tracks(clip[f"{side}_xy"], clip[f"{side}_visible"])
        drawn = render.blobs(tracks, colors, size, config.sigma, subpixel=config.subpixel)
        videos[f"{side}_tracks"] = drawn * 2 - 1
    if config.first_frame_latents:
        videos |= {f"{name}_first": video[:1] for name, video in videos.items()}
    if DRAFT not in config.streams:
        return {"videos": videos}
    videos[DRAFT] = clip["draft"].astype(jnp.float32) / 127.5 - 1
    shares = [render.per_latent(clip[f"draft_{name}"]) for name in ("hole", "uncertain")]
    return {"videos": videos, "maps": {DRAFT: jnp.stack(shares, -1)}}


class Conditioner(nn.Module):
    """Patchify the conditioning latents into the control branch's tokens (paper, section 3.3).

    Attributes:
        width: model width D. patch_size: rows and columns of latents per token, as in the DiT.
        first_frame_latents: 96 channels instead of 48.
        dtype: compute type; parameters are float32.
    """

    width: int
    patch_size: int = 2
    first_frame_latents: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, conditions: dict[str, Any], time: Any = None) -> Control:
        """Return `Control` with tokens [B t*h*w/p^2 D].

        Args:
            conditions: {"videos": {name: latents [B t h w z], scaled}}; `<name>_first` are [B 1 h w z].
            time: unused; part of the protocol.

        Raises:
            ValueError: if a stream is missing, naming those that are there.
        """
        patches = self._patches(self._streams(conditions["videos"]))
        return Control(tokens=nn.Dense(self.width, dtype=self.dtype, name="patch_embed")(patches))

    def _patches(self, parts: list[Float[AnyArray, "B t h w _"]]) -> Float[AnyArray, "B n F"]:
        return patchify(jnp.concatenate(parts, -1).astype(self.dtype), self.patch_size)

    def _streams(self, videos: dict[str, Float[AnyArray, "B _ h w z"]]) -> list[Float[AnyArray, "B t h w z"]]:
        names, streams = self.stream_names(), []
        for name in names:
            _check_there(name, videos)
            length = videos[names[0]].shape[1]
            padding = ((0, 0), (0, length - videos[name].shape[1]), (0, 0), (0, 0), (0, 0))
            streams.append(jnp.pad(videos[name], padding))
        return streams

    def stream_names(self) -> list[str]:
        """Name the streams of `patch_embed` in the order of their channels."""
        suffixes = ("", "_first") if self.first_frame_latents else ("",)
        return [name + suffix for name in STREAMS for suffix in suffixes]


class RepairConditioner(Conditioner):
    """Add the draft to the tokens and as an estimate of the answer, each by a linear map that starts as zeros."""

    @nn.compact
    def __call__(self, conditions: dict[str, Any], time: Any = None) -> Control:
        """Return `Control` with tokens and estimate; `conditions` also have "maps": {"draft": [B t h w 2]}."""
        for part in ("videos", "maps"):
            _check_there(DRAFT, conditions.get(part, {}))
        draft, maps = conditions["videos"][DRAFT], conditions["maps"][DRAFT]
        zeros = {"use_bias": False, "kernel_init": nn.initializers.zeros, "dtype": self.dtype}
        added = nn.Dense(self.width, name="draft_embed", **zeros)(self._patches([draft, maps]))
        tokens = super().__call__(conditions, time).tokens + added
        # A linear map cannot leave out what is made up or doubtful, so it is given the draft without either as well.
        trusted = [draft * (1 - maps[..., i : i + 1]) for i in range(maps.shape[-1])]
        features = draft.shape[-1] * self.patch_size**2
        estimate = nn.Dense(features, name="draft_estimate", **zeros)(self._patches([draft, maps, *trusted]))
        grid = (draft.shape[1], draft.shape[2] // self.patch_size, draft.shape[3] // self.patch_size)
        return Control(tokens=tokens, estimate=unpatchify(estimate, grid, self.patch_size))


def _check_there(name: str, given: dict[str, Any]) -> None:
    if name not in given:
        raise ValueError(f"conditioning stream {name!r} is missing; got {', '.join(sorted(given)) or 'none'}")


def make_conditioner(config: Any, *, width: int, patch_size: int, dtype: Any = jnp.float32) -> Conditioner:
    """Build the conditioner that a config asks for."""
    kind = RepairConditioner if DRAFT in config.streams else Conditioner
    return kind(width, patch_size, config.first_frame_latents, dtype)


def start_from(params: PyTree, base: PyTree, dit: DiT, config: Any) -> PyTree:
    """Start branch and transformer from a base, and with `patch_embed_from_base` the conditioner too.

    Its kernel is then the base's patch embedding on the target tracks' latents, and zeros elsewhere: with two streams
    of zeros the tokens are the base's own embedding of the target tracks. This is the 48-channel form of how the
    released code starts its second patch embedding.

    Args:
        params, base, dit: as for `methods.start_from_base`. config: `patch_embed_from_base`.
    """
    params = start_from_base(params, base, dit, config)
    if not config.patch_embed_from_base:
        return params
    own, of_base = params["conditioner"]["patch_embed"], params["dit"]["patch_embed"]
    # Kernels are [p*p*channels, D], the places of a patch major.
    patch_area = dit.patch_size**2
    kernel = jnp.zeros((patch_area, own["kernel"].shape[0] // patch_area, own["kernel"].shape[1]), own["kernel"].dtype)
    rows = jnp.asarray(of_base["kernel"]).reshape(patch_area, -1, kernel.shape[-1])
    kernel = kernel.at[:, : rows.shape[1]].set(rows)
    embed = {"kernel": kernel.reshape(own["kernel"].shape), "bias": jnp.asarray(of_base["bias"])}
    return {**params, "conditioner": {**params["conditioner"], "patch_embed": embed}}


# --- published weights -----------------------------------------------------------------------------------------------
# The released code of MotionV2V grew out of Diffusion-as-Shader's, and its branch has the same names. There the tracks
# pass the transformer's own patch embedding; here a second one takes the latents of the three streams.

_BRANCH: dict[str, Any] = {
    "suffix": "Tracking",
    "depth_key": "num_tracking_blocks",
    "depth": 18,
    "wiring": "chained",
    "linears": {"initial_combine_linear": "dit/control/zero_in", "combine_linears.{i}": "dit/control/zero_out"},
    "blocks": {"transformer_blocks_copy": "dit/control/blocks"},
}


def released_conditioner(dit: DiT, shapes: Shapes) -> Conditioner:
    """Build the conditioner that goes with a file of the released layout: its channels tell of first-frame latents."""
    channels = shapes.get("second_patch_embed.proj.weight", ())[1:2]
    return Conditioner(dit.width, dit.patch_size, channels == (2 * len(STREAMS) * dit.out_channels,))


def released_settings(conditioner: Conditioner) -> dict[str, Any]:
    """Return the `method` section of a config for released weights: the paper's settings, blobs that snap to pixels."""
    return {
        "name": "motionv2v",
        "sigma": 10.0,
        "colors": "any",
        "subpixel": False,
        "first_frame_latents": conditioner.first_frame_latents,
    }


def trim_released(config: dict[str, Any], shapes: Shapes, read: Callable[[str], np.ndarray]) -> Trim | None:
    """Find what the training code saves and never reads: an image's channels and tables of positions.

    That code starts from CogVideoX-5B-I2V and then takes the text-to-video weights: the channels of I2V's image become
    zeros, and the learned positions are switched off in both patch embeddings. config.json still speaks of I2V, and
    the tables are still in the file.

    Args:
        config: of the transformer. shapes: of the file's tensors. read: gives one of them.

    Returns:
        What to leave out; None if an image's channels are absent, or not all zero: then the model reads them.
    """
    name, count = "patch_embed.proj.weight", config.get("out_channels", 16)
    shape = shapes.get(name, ())
    if len(shape) != 4 or shape[1] != config.get("in_channels", 16) or count != shape[1] / 2:
        return None
    # Written so that a number that is none counts as not zero.
    if not (read(name)[:, count:] == 0).all():
        return None
    tables = tuple(f"{embed}.pos_embedding" for embed in ("patch_embed", "second_patch_embed"))
    without = tuple(table for table in tables if table in shapes)
    also = f" and {' and '.join(without)}, which text-to-video weights switch off," if without else ""
    return Trim(
        {**config, "in_channels": count, "use_learned_positional_embeddings": False},
        without,
        {name: count},
        f"{count} input channels of zeros{also} are left out: the model computes the same without them",
    )


LAYOUTS = (
    Layout(
        name="motionv2v",
        mark="second_patch_embed.",
        prefix="Original",
        patches={"second_patch_embed.proj": "conditioner/patch_embed"},
        copies={"second_patch_embed.text_proj": "dit/text_embed"},
        # The second patch embedding adds any other positions to the branch's tokens; our conditioner has none.
        positions=("rope",),
        conditioner=Conditioner,
        make_conditioner=released_conditioner,
        example=lambda module, latents: {"videos": dict.fromkeys(module.stream_names(), latents[:, :1])},
        section=released_settings,
        trim=trim_released,
        **_BRANCH,
    ),
    Layout(name="shader", mark="transformer_blocks_copy.", prefix="Original", **_BRANCH),
)
"""MotionV2V's released code and, as `shader`, Diffusion-as-Shader."""


METHOD = Method(
    reads=("source", "source_tracks", "target_tracks"),
    conditions=conditions,
    make_conditioner=make_conditioner,
    also_reads=lambda config: (DRAFT,) if DRAFT in config.streams else (),
    settings=SETTINGS,
    start_from=start_from,
    max_points=lambda config: render.pool_size(config.colors),
    layouts=LAYOUTS,
)

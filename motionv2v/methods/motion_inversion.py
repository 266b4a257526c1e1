"""Motion Inversion (Wang et al., SIGGRAPH 2025, doi 10.1145/3721238.3730735): a clip's motion as embeddings.

Other content is made to follow them. A trained base stays as it is; learned are two embeddings in each of some layers,
m^QK for what queries and keys are read from, one vector a frame, and m^V for what values are read from, a vector a
frame and place (equation 3). They start at zero, are float32 whatever the base computes in, and enter where its
attention runs along time: in attention along time alone, on a base with `dit.axes` ("hw", "t"), the equation holds as
written; in CogVideoX's full attention they enter all of it, which is this project's port.

Full attention has a value per place of every layer: 2.3 thousand million numbers in CogVideoX-5B. So m^V has a grid of
its own, coarser than the tokens' and grown to theirs by linear interpolation, in chosen layers alone; or it is a sum of
`rank` products of a factor over time, one over places and one over features.

What m^V holds of the clip's look is the same in all frames. At use `debias` takes it away (equation 5), or all of m^V.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from motionv2v import diffusion
from motionv2v.methods import Method, fields, v_loss
from motionv2v.models.dit import Control
from motionv2v.schema import Field, choice, flag, several, whole
from motionv2v.typing import AnyArray, Float, Int, Key, PyTree

SHAPES = ("frames", "places", "none")
"""What an embedding has a vector for: each frame, each frame and place, or nothing."""
DEBIAS = ("difference", "mean", "none", "drop")
STARTS = ("noise", "inverted", "blend", "frequencies")
LOW_PASS = 0.25
"""Part of the frequencies, along each axis, that `frequencies` takes from the inverted clip."""

SETTINGS = {
    "depth": Field(whole(1), "blocks of the base"),
    "layers": Field(several(whole(0)), "those of them that have embeddings, none named: all", ()),
    "frames": Field(whole(1), "latent frames of the clip"),
    "grid": Field(several(whole(1), 2), "rows and columns of places"),
    "qk": Field(choice(*SHAPES), "what m^QK has a vector for", "frames"),
    "v": Field(choice(*SHAPES), "what m^V has a vector for", "places"),
    "rank": Field(whole(0), "products that m^V is a sum of, 0: a number of its own for each entry", 0),
    "temporal_only": Field(
        flag, "m^QK counts only where tokens of one place meet, see `models.attention.places`", False
    ),
    "loss": Field(choice("plain", "debiased_v", "debiased_eps", "cosine", "hybrid"), "see `LOSSES`", "plain"),
    "debias": Field(choice(*DEBIAS), "what is taken from m^V at use", "difference"),
    "start": Field(choice(*STARTS), "what samples start from, where the clip was inverted", "blend"),
}
"""The fields of `config.method`, see `schema`."""

ANCHOR_WEIGHT = 1.0
"""beta of the debiased loss."""
LEAST_SIGNAL = 0.01
"""abar below which eps, which a v-prediction only gives there as noise, is not compared."""


class Conditioner(nn.Module):
    """Hold a clip's embeddings; gives them to the layers that have some, and zeros to the others.

    Attributes:
        width: D. depth, layers, frames, grid, qk, v, rank, temporal_only: as in `SETTINGS`.
    """

    width: int
    depth: int
    layers: tuple[int, ...]
    frames: int
    grid: tuple[int, int]
    qk: str = "frames"
    v: str = "places"
    rank: int = 0
    temporal_only: bool = False

    @nn.compact
    def __call__(self, conditions: dict[str, Any], time: Any = None) -> Control:
        """Return `Control.motion`: "qk" (or "qk_same") and "v", each [depth t D] or [depth t gh gw D]."""
        del conditions, time
        motion = {}
        for name, shape in (("qk", self.qk), ("v", self.v)):
            if shape != "none":
                value = self._factors(shape) if name == "v" and self.rank else self._whole(name, shape)
                whole = jnp.zeros((self.depth, *value.shape[1:])).at[jnp.array(self.used)].set(value)
                motion["qk_same" if name == "qk" and self.temporal_only else name] = whole
        return Control(motion=motion)

    @property
    def used(self) -> tuple[int, ...]:
        """Return the layers that have embeddings."""
        return self.layers or tuple(range(self.depth))

    def _whole(self, name: str, shape: str) -> Float[AnyArray, "L t *n D"]:
        places = self.grid if shape == "places" else ()
        return self.param(f"motion_{name}", nn.initializers.zeros, (len(self.used), self.frames, *places, self.width))

    def _factors(self, shape: str) -> Float[AnyArray, "L t *n D"]:
        """Multiply the factors of m^V; the one over features starts at zero, so that their product does."""
        first = (len(self.used), self.rank)
        time = self.param("motion_v_time", nn.initializers.normal(1.0), (*first, self.frames))
        features = self.param("motion_v_features", nn.initializers.zeros, (*first, self.width))
        if shape == "frames":
            return jnp.einsum("Lrt,LrD->LtD", time, features)
        place = self.param("motion_v_place", nn.initializers.normal(1.0), (*first, *self.grid))
        return jnp.einsum("Lrt,Lryx,LrD->LtyxD", time, place, features)


def make_conditioner(config: Any, *, width: int, patch_size: int, dtype: Any = jnp.float32) -> Conditioner:
    """Build the module of a config. Raises ValueError for a layer that the base has not."""
    del patch_size, dtype
    layers = tuple(config.layers)
    if bad := [layer for layer in layers if layer >= config.depth]:
        raise ValueError(f"method.layers names layer {bad[0]}, but the base has layers 0..{config.depth - 1}")
    if len(set(layers)) < len(layers):
        raise ValueError(f"method.layers is {layers}; expected each layer once")
    sizes = (width, config.depth, layers, config.frames, tuple(config.grid))
    return Conditioner(*sizes, config.qk, config.v, config.rank, config.temporal_only)


def debiased(motion: PyTree, how: str) -> PyTree:
    """Take from the embeddings what is the same in all frames, as they are used (equation 5).

    Args:
        motion: a `Conditioner`'s parameters. how: "difference", m~_1 = m_1 and m~_j = m_j - m_(j-1), the paper's;
            "mean", the mean over time taken off; "none"; or "drop", without m^V.

    Returns:
        Parameters of the same shapes. m^QK has no place, hence no look, and stays as it is.
    """
    if how not in DEBIAS:
        raise ValueError(f"debias must be one of {', '.join(DEBIAS)}, got {how!r}")

    def along(x: AnyArray, axis: int) -> AnyArray:
        if how == "none":
            return x
        if how == "mean":
            return x - jnp.mean(x, axis, keepdims=True)
        first = jax.lax.slice_in_dim(x, 0, 1, axis=axis)
        return jnp.concatenate([first, jnp.diff(x, axis=axis)], axis)

    changed = dict(motion)
    if how == "drop":
        return changed | {name: jnp.zeros_like(x) for name, x in motion.items() if name.startswith("motion_v")}
    # Of products, the factor over time alone: differences and means are sums over it.
    for name, axis in (("motion_v", 1), ("motion_v_time", 2)):
        if name in motion:
            changed[name] = along(jnp.asarray(motion[name]), axis)
    return changed


def relative(x: Float[AnyArray, "B t *x"], anchor: Int[AnyArray, ""], weight: float = ANCHOR_WEIGHT) -> AnyArray:
    """Return what frames have beside an anchor frame: phi(x)_j = sqrt(weight^2 + 1) x_j - weight x_anchor.

    MotionDirector's (arXiv 2310.08465), whose anchor is drawn in each step; what all frames share, the clip's look,
    counts for less.
    """
    return (weight**2 + 1) ** 0.5 * x - weight * jnp.take(x, anchor, axis=1)[:, None]


def _each(x: Float[AnyArray, "B *x"]) -> Float[AnyArray, "B"]:
    return jnp.mean(x, axis=tuple(range(1, x.ndim)))


def _debiased(key: Key, made: AnyArray, true: AnyArray) -> Float[AnyArray, "B"]:
    anchor = jax.random.randint(key, (), 0, true.shape[1])
    return _each(jnp.square(relative(made, anchor) - relative(true, anchor)))


def debiased_v(key: Key, v: AnyArray, x0: AnyArray, eps: AnyArray, timestep: AnyArray, schedule: Any) -> AnyArray:
    """Compare v frame by frame, and once more by what the frames have beside one of them."""
    plain = diffusion.loss(v, x0, eps, timestep, schedule)
    return plain + _debiased(key, v, diffusion.velocity(schedule, x0, eps, timestep))


def debiased_eps(key: Key, v: AnyArray, x0: AnyArray, eps: AnyArray, timestep: AnyArray, schedule: Any) -> AnyArray:
    """As `debiased_v`, the second time by the noise that v means; left out where the signal is all but gone."""
    xt = diffusion.corrupt(schedule, x0, eps, timestep)
    made = diffusion.eps_from_v(schedule, xt, v, timestep)
    counts = jnp.asarray(schedule.alphas_cumprod)[timestep] > LEAST_SIGNAL
    return diffusion.loss(v, x0, eps, timestep, schedule) + counts * _debiased(key, made, eps)


def cosine(key: Key, v: AnyArray, x0: AnyArray, eps: AnyArray, timestep: AnyArray, schedule: Any) -> AnyArray:
    """Compare the directions of what changes from frame to frame alone: 1 - cos, a mean over the steps in time.

    After Video Motion Customization (arXiv 2312.00845), on v. 0 for a clip of one latent frame.
    """
    del key
    true = diffusion.velocity(schedule, x0, eps, timestep)
    if true.shape[1] < 2:
        return jnp.zeros(true.shape[0])
    steps = [jnp.diff(x, axis=1).reshape(*x.shape[:1], x.shape[1] - 1, -1) for x in (v, true)]
    lengths = [jnp.linalg.norm(x, axis=-1) for x in steps]
    both = jnp.sum(steps[0] * steps[1], -1) / jnp.maximum(lengths[0] * lengths[1], 1e-12)
    return jnp.mean(1 - both, axis=-1)


LOSSES: Mapping[str, Callable[..., Float[AnyArray, "B"]]] = {
    "debiased_v": debiased_v,
    "debiased_eps": debiased_eps,
    "cosine": cosine,
    "hybrid": debiased_eps,
}
"""What is compared. "hybrid" has low-rank updates of the base learn the look of single frames meanwhile, so that the
embeddings need not; they are dropped afterwards (`training.inversion`)."""


def loss(
    key: Key, prediction: AnyArray, x0: AnyArray, eps: AnyArray, timestep: AnyArray, schedule: Any, config: Any
) -> Float[AnyArray, "B"]:
    """Return each sample's loss as `config.loss` says; "plain" is the base's own."""
    if config.loss == "plain":
        return v_loss(key, prediction, x0, eps, timestep, schedule, config)
    return LOSSES[config.loss](key, prediction, x0, eps, timestep, schedule)


def initial_noise(
    key: Key, batch: Mapping[str, AnyArray], shape: tuple[int, ...], config: Any
) -> Float[AnyArray, "B t h w z"]:
    """Draw what a sample starts from, as `config.start` says, of noise and of the noise that the clip came from.

    Args:
        batch: with `inverted` [B t h w z], the clip inverted (`sampling.invert`); without it the start is noise.
        shape: of the latents. config: of the method.
    """
    fresh = jax.random.normal(key, tuple(shape))
    if "inverted" not in batch or config.start == "noise":
        return fresh
    inverted = jnp.broadcast_to(batch["inverted"], shape).astype(fresh.dtype)
    if config.start == "inverted":
        return inverted
    if config.start == "blend":
        return (fresh + inverted) * 0.5**0.5
    return low_pass(inverted) + fresh - low_pass(fresh)


def low_pass(x: Float[AnyArray, "B t h w z"], part: float = LOW_PASS) -> Float[AnyArray, "B t h w z"]:
    """Keep what changes slowly in time and over places: frequencies up to `part` of the highest, along each axis."""
    axes = (1, 2, 3)
    spectrum = jnp.fft.fftn(x, axes=axes)
    for axis in axes:
        shape = [1] * x.ndim
        shape[axis] = x.shape[axis]
        keep = np.abs(np.fft.fftfreq(x.shape[axis])) <= part / 2
        spectrum = spectrum * keep.reshape(shape)
    return jnp.fft.ifftn(spectrum, axes=axes).real.astype(x.dtype)


START = fields.Field({"inverted": (("t", "h", "w", "z"), np.float32)}, None, ("inverted",))
"""The clip inverted to noise, latents [t h w z], where a sample shall start from it."""

METHOD = Method(
    # The clip itself is what the embeddings are learned from, and no condition: at use there may be its inversion.
    reads=("start",),
    turn={"start": START},
    conditions=lambda key, clip, config: {},
    initial_noise=initial_noise,
    make_conditioner=make_conditioner,
    settings=SETTINGS,
    loss=loss,
)

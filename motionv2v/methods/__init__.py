"""Methods as thin plug-ins on one backbone: each is one file of this package that exports one record, `METHOD`.

Nothing else in the package asks which method runs: `get(config.method.name)` is the only look-up, and everything that
differs between methods stands in `Method`. `register` adds a method from outside, such as a test or a user's own file.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from motionv2v import diffusion, schema
from motionv2v.methods import fields
from motionv2v.models.dit import base_params, init_control_from_base
from motionv2v.models.layouts import Layout
from motionv2v.typing import AnyArray, Float, Key, PyTree

_REGISTERED: dict[str, "Method"] = {}


def normal_noise(key: Key, batch: Mapping[str, AnyArray], shape: Sequence[int], config: Any) -> AnyArray:
    """Draw what a sample starts from: N(0, 1) of `shape` [B t h w z], whatever the batch."""
    del batch, config
    return jax.random.normal(key, tuple(shape))


def v_loss(
    key: Key,
    prediction: Float[AnyArray, "B *x"],
    x0: Float[AnyArray, "B *x"],
    eps: Float[AnyArray, "B *x"],
    timestep: AnyArray,
    schedule: diffusion.Schedule,
    config: Any,
) -> Float[AnyArray, "B"]:
    """Return each sample's mean squared error of v (`diffusion.loss`)."""
    del key, config
    return diffusion.loss(prediction, x0, eps, timestep, schedule)


def start_from_base(params: PyTree, base: PyTree, dit: Any, config: Any) -> PyTree:
    """Start from a trained transformer: its weights, a control branch that copies its first blocks, the rest fresh.

    Args:
        params: {"dit", "conditioner"} as drawn. base: a transformer's tree; what it has beside its base is left out;
            its patches may be larger than `dit`'s (`with_finer_patches`).
        dit: the module that shall run. config: of the method.
    """
    del config
    started = {**params["dit"], **base_params(with_finer_patches(base, dit))}
    if "blocks" in base:
        # Attentions that the base's blocks lack stay as they were drawn.
        started["blocks"] = {**params["dit"]["blocks"], **base["blocks"]}
    if "control" in started:
        started = init_control_from_base(started)
    return {**params, "dit": started}


def with_image_channels(base: PyTree, dit: Any) -> PyTree:
    """Give a base's patch embedding zero rows for the channels of an image beside the noise: the same prediction.

    Args:
        base: a transformer's tree, of half of `dit`'s input channels; or of all of them, as CogVideoX-I2V's: that stays
            as it is. dit: the module that shall run.
    """
    kernel = base["patch_embed"]["kernel"]
    own, wanted = kernel.shape[0] * 2, dit.in_channels * dit.patch[0] * dit.patch[1] * dit.patch[2]
    if own != wanted:
        return base
    # Rows are positions in a patch, each with all channels: the new ones come behind the old ones of each position.
    rows = kernel.reshape(-1, dit.in_channels // 2, kernel.shape[1])
    rows = jnp.concatenate([rows, jnp.zeros_like(rows)], axis=1).reshape(wanted, -1)
    return {**base, "patch_embed": {**base["patch_embed"], "kernel": rows}}


def with_finer_patches(base: PyTree, dit: Any) -> PyTree:
    """Give a base finer patches: a start for training that is far better than none, and no equal of the base.

    A fine patch enters as the sum of all that its coarse one added up to, so that where a coarse patch holds one fine
    patch over and over its token is what it was; and each is predicted as the mean of what was predicted for all. Both
    see tokens of another size, at other distances, which training has to put right.

    Args:
        base: a transformer's tree, whose patches are `dit`'s or a whole number of times as wide and high; else it stays
            as it is. dit: the module that shall run.
    """
    kernel, out = base["patch_embed"]["kernel"], base.get("out")
    frames, side = dit.patch[0], dit.patch_size
    area = kernel.shape[0] / (dit.in_channels * frames * side * side)
    times = area**0.5
    wanted = dit.out_channels * frames * side * side * area
    # Whatever else does not fit is for the check of all shapes.
    if times != int(times) or times < 2 or out is None or out["kernel"].shape[1] != wanted:
        return base
    # Positions of a coarse patch: frames, fine patches down, rows of one, fine patches across, columns of one.
    cells = (frames, int(times), side, int(times), side)
    rows = kernel.reshape(*cells, dit.in_channels, -1).sum((1, 3)).reshape(-1, kernel.shape[1])
    # Predictions are laid out channel by channel (`patches.unpatchify`).
    columns = out["kernel"].reshape(-1, dit.out_channels, *cells).mean((3, 5)).reshape(kernel.shape[1], -1)
    bias = out["bias"].reshape(dit.out_channels, *cells).mean((2, 4)).reshape(-1)
    embed = {**base["patch_embed"], "kernel": rows}
    return {**base, "patch_embed": embed, "out": {**out, "kernel": columns, "bias": bias}}


class Method(NamedTuple):
    """What one method is. Every field but the first three has a default.

    Attributes:
        reads: fields of a clip or pair that it needs, such as "source" and "target_tracks" (`fields.FIELDS`).
        conditions: (key, clip, config) -> {"videos": {name: [T H W 3] in [-1, 1]}, "maps": {name: [t h w C]}}, of ONE
            sample whose arrays are `fields.arrays(reads)`; jittable, the same in training, caching and editing. Videos
            reach the conditioner as latents of the frozen autoencoder, maps as they are; either may be left out.
        make_conditioner: (config, width=, patch_size=, dtype=) -> linen module: (conditions, time) -> `dit.Control`.
        settings: what `config.method` may hold besides `name`, see `schema`.
        loss: see `v_loss`. initial_noise: see `normal_noise`.
        also_reads: (config) -> further fields that it reads with these settings.
        turn: further fields, by name, for methods that read what `fields.FIELDS` does not have.
        start_from: see `start_from_base`.
        probe: (generate, samples) -> {"scalars", "videos"}: what is measured on held-out samples while training, with
            generate(batch of `reads`) -> uint8 videos; None scores the videos against each sample's target.
        max_points: (config) -> how many points it can tell apart; None: any number.
        layouts: how published weights of the method are laid out, for `convert`; one that builds on another stands
            before it.
    """

    reads: tuple[str, ...]
    conditions: Callable[..., dict[str, dict[str, AnyArray]]]
    make_conditioner: Callable[..., Any]
    settings: Mapping[str, schema.Field] = {}
    loss: Callable[..., Float[AnyArray, "B"]] = v_loss
    initial_noise: Callable[..., AnyArray] = normal_noise
    also_reads: Callable[[Any], tuple[str, ...]] = lambda config: ()
    turn: Mapping[str, fields.Field] = {}
    start_from: Callable[..., PyTree] = start_from_base
    probe: Callable[..., dict[str, Any]] | None = None
    max_points: Callable[[Any], int] | None = None
    layouts: tuple[Layout, ...] = ()

    def fields(self, config: Any) -> dict[str, fields.Field]:
        """Return the fields it reads with a `config.method`, by name, as `fields.select`."""
        return fields.select((*self.reads, *self.also_reads(config)), self.turn)

    def edits(self) -> bool:
        """Tell whether an edit brings all that the method reads: a clip, its tracks and where they shall go.

        A draft, which some also read, is drawn from these.
        """
        return set(self.reads) <= {"source", "source_tracks", "target_tracks"} and "target_tracks" in self.reads

    def animates(self) -> bool:
        """Tell whether it makes a video of a first frame and paths: of `target` it then reads the first frame alone."""
        return set(self.reads) == {"target", "target_tracks"}

    def remakes(self) -> bool:
        """Tell whether it makes a region of a video anew: of `target` it reads what is around, and the first frame."""
        return set(self.reads) == {"target", "region", "target_tracks"}

    def continues(self) -> bool:
        """Tell whether it makes a video of a first frame alone, or of both ends: it reads no frame between them."""
        return set(self.reads) == {"target", "given"}

    def draw(self, key: Key, clip: Mapping[str, AnyArray], config: Any) -> dict[str, dict[str, AnyArray]]:
        """Draw the conditions of one sample; of videos and maps what the method leaves out is there, and empty."""
        return {"videos": {}, "maps": {}, **self.conditions(key, clip, config)}

    def batch_conditions(self, key: Key, batch: Mapping[str, AnyArray], config: Any) -> dict[str, dict[str, AnyArray]]:
        """Draw the conditions of a batch: `draw` mapped over its leading axis, each sample with a key of its own.

        Raises:
            ValueError: if the batch lacks what the method reads, naming what is there.
        """
        read = self.fields(config)
        names = fields.arrays(read)
        missing = [name for name in names if name not in batch]
        if missing:
            raise ValueError(f"the method reads {', '.join(missing)}; the batch has {', '.join(sorted(batch))}")
        if not names:
            return {"videos": {}, "maps": {}}
        clips = {name: jnp.asarray(batch[name]) for name in names}
        clips |= {name: jnp.asarray(batch[name]) for name in fields.optional(read) if name in batch}
        count = next(iter(clips.values())).shape[0]
        return jax.vmap(lambda k, clip: self.draw(k, clip, config))(jax.random.split(key, count), clips)


def available() -> tuple[str, ...]:
    """List the methods of this package and those that were registered."""
    own = (module.name for module in pkgutil.iter_modules(__path__) if module.name != "fields")
    return tuple(sorted({*own, *_REGISTERED}))


def register(name: str, method: Method) -> None:
    """Make a method available to configs under a name. Raises ValueError if this package has one of that name."""
    if name in available() and name not in _REGISTERED:
        raise ValueError(f"the method {name!r} exists already")
    _REGISTERED[name] = method


def get(name: str) -> Method:
    """Return a method by name. Raises ValueError listing what is available."""
    if name in _REGISTERED:
        return _REGISTERED[name]
    if name not in available():
        raise ValueError(f"unknown method {name!r}; available: {', '.join(available())}")
    return importlib.import_module(f"motionv2v.methods.{name}").METHOD


def layouts() -> tuple[Layout, ...]:
    """List the layouts of all methods' published weights."""
    return tuple(layout for name in available() for layout in get(name).layouts)

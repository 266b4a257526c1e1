"""Generate the video between two frames: `load(name)(first, last, "a dog turns around", num_frames=49, seed=0)`.

The models are those of `methods.interpolation`: trained by this project, or CogVideoX-I2V, which takes the first frame
and was never shown a last one. An `Interpolator` is a plain function of arrays, which is how the recipes for
counterfactual pairs (MotionV2V, arXiv 2511.20640, section 3.2) call it.

The frames keep their size and their number is free, as far as the model goes: T = 4k + 1, and height and width that
divide into the transformer's patches. What comes back has passed through the autoencoder, the given frames too.
"""

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from motionv2v import checkpoints, methods, sections
from motionv2v.convert import checked, generators, pipeline
from motionv2v.data import tokenizer
from motionv2v.editing import loaded_model
from motionv2v.models.vae.autoencoder import check_video_shape
from motionv2v.typing import AnyArray, Bool, Int, Key, PyTree, UInt8


class Read(NamedTuple):
    """A generator's parts, whose weights are still the host's; the tokenizer is None where the folder's own serves."""

    config: ConfigDict
    params: PyTree
    folder: Path
    tokenizer: tokenizer.Tokenizer | None


def load(name_or_folder: str | os.PathLike) -> "Interpolator":
    """Load a generator, ready to be used; arguments and errors as `read`."""
    found = read(name_or_folder)
    return Interpolator(found.config, found.params, found.folder, tokenizer=found.tokenizer)


def read(name_or_folder: str | os.PathLike) -> Read:
    """Read a generator, and check it.

    Args:
        name_or_folder: a model folder or training work dir of configs/interpolation_*.py; or CogVideoX-I2V (5B-I2V,
            1.5-5B-I2V or any of their shape), as the folder that diffusers saved or as launch/convert.py made it.

    Raises:
        checkpoints.CheckpointError, convert.ConvertError: a one-line reason if there is no such model or it is damaged.
        ValueError: if the model has no input channels for given frames.
    """
    folder = Path(name_or_folder)
    if (folder / pipeline.INDEX).is_file():
        found = pipeline.stored(folder)
        config, params, own = found.config, found.params, found.tokenizer
        image_scale: float | None = found.image_scale
    else:
        config, params = checked.read(folder)
        folder, own, image_scale = checkpoints.resolve(folder), None, None
    if "method" not in config:
        config = generators.as_generator(config, folder, image_scale)
    elif not _fills_between(config):
        raise ValueError(
            f"{folder} is a model of {config.method.name} ({config.name}); interpolation needs one of "
            "configs/interpolation_*.py, or CogVideoX-I2V"
        )
    sections.require(config, loaded_model.NEEDED, "to interpolate", str(name_or_folder))
    checked.check(config, params, str(name_or_folder))
    return Read(config, params, folder, own)


def _fills_between(config: Any) -> bool:
    """Tell whether a config's method takes a clip's two ends."""
    return methods.get(config.method.name).continues()


class Interpolator(loaded_model.LoadedModel):
    """A model ready to generate, with its compiled function; built as `loaded_model.LoadedModel`."""

    def __call__(
        self,
        first: AnyArray,
        last: AnyArray | None,
        prompt: str = tokenizer.NULL_PROMPT,
        num_frames: int | None = None,
        seed: int = 0,
        *,
        num_steps: int | None = None,
        guidance: float | None = None,
        notify: Callable[[str], None] = warnings.warn,
    ) -> UInt8[np.ndarray, "T H W 3"]:
        """Generate a video that starts with one frame and ends with another.

        Args:
            first: its first frame, uint8 [H W 3].
            last: its last frame, of the same shape, or None to leave the end open (image-to-video).
            prompt: what happens in between.
            num_frames: T, 4k + 1; None takes the model's own.
            seed: same seed, same video.
            num_steps: denoising steps; None takes the config's.
            guidance: classifier-free guidance scale on the text; None takes the config's, 1 switches it off.
            notify: called with a sentence when the clip has another shape than the model was made for, or the prompt
                is cut.

        Raises:
            ValueError: for frames or a number of frames that the model cannot take, naming the nearest that it can.
        """
        num_frames = self.num_frames if num_frames is None else num_frames
        first, last = np.asarray(first), None if last is None else np.asarray(last)
        self._check(first, last, num_frames)
        if (num_frames, *first.shape[:2]) != (self.num_frames, *self.size):
            notify(
                f"the model was made for {_shape(self.num_frames, self.size)} and generates "
                f"{_shape(num_frames, first.shape[:2])}"
            )
        ends = np.stack([first, np.zeros_like(first) if last is None else last])
        return np.asarray(
            self.generate(
                jax.random.key(seed),
                ends[None],
                np.array([last is not None]),
                self.tokenizer.encode([prompt], notify),
                num_frames=num_frames,
                num_steps=num_steps,
                guidance=guidance,
            )
        )[0]

    def continued(
        self,
        first: UInt8[np.ndarray, "H W 3"],
        prompts: Sequence[str],
        num_frames: int | None = None,
        seed: int = 0,
        num_steps: int | None = None,
        guidance: float | None = None,
        notify: Callable[[str], None] = warnings.warn,
    ) -> UInt8[np.ndarray, "B T H W 3"]:
        """Generate a video for each of some prompts that all start with one frame; arguments as in `__call__`."""
        self._check(first, None, self.num_frames if num_frames is None else num_frames)
        count = len(prompts)
        ends = np.broadcast_to(np.stack([first, np.zeros_like(first)]), (count, 2, *first.shape))
        options = {"num_frames": num_frames, "num_steps": num_steps, "guidance": guidance}
        tokens = self.tokenizer.encode(list(prompts), notify)
        return np.asarray(self.generate(jax.random.key(seed), ends, np.zeros(count, bool), tokens, **options))

    def _check(self, first: np.ndarray, last: np.ndarray | None, num_frames: int) -> None:
        """Check what a person gives, in terms of pixels and frames."""
        for name, frame in (("first", first), ("last", first if last is None else last)):
            if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
                raise ValueError(f"the {name} frame must be uint8 [H W 3]; got {frame.dtype} {list(frame.shape)}")
        if last is not None and first.shape != last.shape:
            raise ValueError(
                f"first and last frame must have one shape; got {list(first.shape)} and {list(last.shape)}"
            )
        dit, vae = self.model.denoiser.dit, self.model.vae
        if num_frames < vae.temporal_compression + 1:
            raise ValueError(f"num_frames is {num_frames}; interpolation makes 4k + 1 frames, at least 5")
        unit = vae.spatial_compression * dit.patch_size
        check_video_shape(num_frames, unit, unit)
        if any(side % unit for side in first.shape[:2]):
            nearest = [max(1, round(side / unit)) * unit for side in first.shape[:2]]
            raise ValueError(
                f"the frames are {_size(first.shape)}; this model takes widths and heights in multiples of {unit}, "
                f"such as {_size(nearest)}"
            )
        if dit.positions == "rope+learned":
            own = tuple(side * vae.spatial_compression for side in dit.sample_size[1:])
            if first.shape[:2] != own:
                raise ValueError(
                    f"the frames are {_size(first.shape)}; this model's learned positions are for {_size(own)} only"
                )

    def generate(
        self,
        key: Key,
        ends: UInt8[AnyArray, "B 2 H W 3"],
        has_last: Bool[AnyArray, "B"],
        tokens: Int[AnyArray, "B L"],
        *,
        num_frames: int | None = None,
        num_steps: int | None = None,
        guidance: float | None = None,
    ) -> UInt8[AnyArray, "B T H W 3"]:
        """Generate a batch; one compiled call from pixels to pixels.

        Args:
            key: of the noise. ends: first and last frames. has_last: whether the last one is given.
            tokens: of the prompts. num_frames, num_steps, guidance: as in `__call__`.

        Raises:
            loaded_model.SampleError: for a sample that is not finite.
        """
        num_frames = int(num_frames or self.num_frames)
        shape = (num_frames, *ends.shape[2:4])
        longer, _ = self.longer(shape)
        # Frames between the ends are not read.
        video = np.zeros((len(ends), *longer, 3), np.uint8)
        video[:, 0], video[:, -1] = np.asarray(ends[:, 0]), np.asarray(ends[:, 1])
        batch = {"target": video, "has_last": jnp.asarray(has_last, bool)}
        return self.sample(key, batch, tokens, self.settings(num_steps, guidance), shape=shape)


def _size(size: Sequence[int]) -> str:
    return f"{size[1]}x{size[0]}"


def _shape(num_frames: int, size: Sequence[int]) -> str:
    return f"{num_frames} frames of {_size(size)}"

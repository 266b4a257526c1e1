"""CLIP's networks of pictures and of texts (Radford et al. 2021), at its sizes B/32, B/16 and L/14.

Both are transformers whose blocks normalise first. The one of pictures reads patches and a token of its own, from which
the features come; the one of texts reads `byte_pairs` from left to right, and the features come from the first end of
the text. A projection takes both to one space, in which a picture and a text are compared by their cosine.

OpenAI's weights take `quick_gelu`, x sigmoid(1.702 x), and so do open_clip's models of that name; others `gelu`, the
exact one. Names and shapes are the same, and with the wrong one everything works and the numbers are wrong.

Parameters are as transformers names parts, with the blocks stacked: "vision/blocks/q/kernel" [depth, in, out].
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import cv2
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from PIL import Image

from motionv2v.models import layers
from motionv2v.models.features import byte_pairs
from motionv2v.typing import AnyArray, Bool, Float, Int, Num, PyTree, UInt8

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Pictures in [0, 1] become (x - MEAN) / STD."""
HEAD_DIM = 64
ACTIVATIONS: dict[str, Callable[[AnyArray], AnyArray]] = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu": functools.partial(nn.gelu, approximate=False),
}
"""Between the layers of the MLPs, by the names of transformers' configs."""
_EPSILON, _PRECISION = 1e-5, jax.lax.Precision.HIGHEST


class Sizes(NamedTuple):
    """A network's sizes: `patch` and `side` in pixels, `width` and `depth` of the transformers, `features` of both."""

    patch: int
    width: int
    depth: int
    text_width: int
    text_depth: int
    features: int
    side: int = 224
    vocabulary: int = byte_pairs.VOCABULARY

    @property
    def tokens(self) -> int:
        """Count the tokens of a picture: its patches and one."""
        return (self.side // self.patch) ** 2 + 1


NETS = {
    "ViT-B/32": Sizes(32, 768, 12, 512, 12, 512),
    "ViT-B/16": Sizes(16, 768, 12, 512, 12, 512),
    "ViT-L/14": Sizes(14, 1024, 24, 768, 12, 768),
}


class Clip(nn.Module):
    """Give pictures and texts features of one space.

    Attributes:
        sizes: one of `NETS`. activation: one of `ACTIVATIONS`, as the weights were trained with.
    """

    sizes: Sizes
    activation: str

    def setup(self) -> None:
        """Declare both networks."""
        self.vision, self.text = Vision(self.sizes, self.activation), Text(self.sizes, self.activation)

    def __call__(
        self, pictures: UInt8[AnyArray, "B H W 3"], tokens: Int[AnyArray, "B 77"]
    ) -> tuple[Float[AnyArray, "B F"], Float[AnyArray, "B F"]]:
        """Return the features of both, of no particular length."""
        return self.vision(pictures), self.text(tokens)


class Vision(nn.Module):
    """CLIP's network of pictures; attributes as of `Clip`."""

    sizes: Sizes
    activation: str

    @nn.compact
    def __call__(self, pictures: UInt8[AnyArray, "B H W 3"]) -> Float[AnyArray, "B F"]:
        """Return the features of pictures of `sizes.side` pixels each way."""
        sizes = self.sizes
        x = (pictures.astype(jnp.float32) / 255 - jnp.array(MEAN)) / jnp.array(STD)
        patch = (sizes.patch,) * 2
        x = nn.Conv(sizes.width, patch, patch, "VALID", use_bias=False, precision=_PRECISION, name="patch_embed")(x)
        x = x.reshape(len(x), -1, sizes.width)  # [B h w D] -> [B n D]
        own = self.param("class_embed", nn.initializers.normal(0.02), (sizes.width,))
        places = self.param("position_embed", nn.initializers.normal(0.02), (sizes.tokens, sizes.width))
        x = jnp.concatenate([jnp.broadcast_to(own, (len(x), 1, sizes.width)), x], axis=1) + places
        x = layers.layer_norm("pre_norm", jnp.float32, _EPSILON)(x)
        x = _run_blocks(self, x, sizes.depth, None)
        x = layers.layer_norm("post_norm", jnp.float32, _EPSILON)(x[:, 0])
        return nn.Dense(sizes.features, use_bias=False, precision=_PRECISION, name="projection")(x)


class Text(nn.Module):
    """CLIP's network of texts; attributes as of `Clip`."""

    sizes: Sizes
    activation: str

    @nn.compact
    def __call__(self, tokens: Int[AnyArray, "B 77"]) -> Float[AnyArray, "B F"]:
        """Return the features of texts as `byte_pairs.BytePairs` gives them."""
        sizes, length = self.sizes, tokens.shape[1]
        shape = (sizes.vocabulary, sizes.text_width)
        x = jnp.take(self.param("token_embed", nn.initializers.normal(0.02), shape), tokens, axis=0, mode="fill")
        shape = (byte_pairs.LENGTH, sizes.text_width)
        x = x + self.param("position_embed", nn.initializers.normal(0.01), shape)[:length]
        x = _run_blocks(self, x, sizes.text_depth, jnp.tri(length, dtype=bool))
        x = layers.layer_norm("final_norm", jnp.float32, _EPSILON)(x)
        # The end is the last token of the vocabulary, and the first of several equal maxima is taken.
        x = x[jnp.arange(len(x)), tokens.argmax(axis=1)]
        return nn.Dense(sizes.features, use_bias=False, precision=_PRECISION, name="projection")(x)


class Block(nn.Module):
    """Update tokens by attention and by an MLP of four times the width, each after a norm."""

    activation: str

    @nn.compact
    def __call__(
        self, x: Float[AnyArray, "B S D"], mask: Bool[AnyArray, "S S"] | None = None
    ) -> Float[AnyArray, "B S D"]:
        """Return the updated tokens; where `mask` [query, key] is False a token does not see the other."""
        width = x.shape[-1]

        def dense(name, features):
            return nn.Dense(features, precision=_PRECISION, name=name)

        def heads(name):
            return dense(name, width)(y).reshape(*x.shape[:2], width // HEAD_DIM, HEAD_DIM)  # [B S K d]

        y = layers.layer_norm("attention_norm", jnp.float32, _EPSILON)(x)
        query, key, value = heads("q"), heads("k"), heads("v")
        logits = jnp.einsum("BSKd,BMKd->BKSM", query, key, precision=_PRECISION) * HEAD_DIM**-0.5
        logits = logits if mask is None else jnp.where(mask, logits, -jnp.inf)
        y = jnp.einsum("BKSM,BMKd->BSKd", jax.nn.softmax(logits), value, precision=_PRECISION)
        x = x + dense("o", width)(y.reshape(x.shape))
        y = layers.layer_norm("mlp_norm", jnp.float32, _EPSILON)(x)
        return x + dense("mlp_down", width)(ACTIVATIONS[self.activation](dense("mlp_up", 4 * width)(y)))


def picture_features(
    module: Clip, params: PyTree, pictures: Num[np.ndarray, "T H W 3"], chunk: int = 8
) -> Float[np.ndarray, "T F"]:
    """Return the features of pictures, such as `shorter_side` or `vbench` prepares; of no particular length.

    Args:
        module, params: as `convert.contrastive.load` returns them. chunk: pictures that are on the device at once.

    Raises:
        ValueError: for what are not uint8 pictures of the network's size.
    """
    side, pictures = module.sizes.side, np.asarray(pictures)
    if pictures.dtype != np.uint8 or pictures.shape[1:] != (side, side, 3) or not len(pictures):
        raise ValueError(
            f"CLIP reads uint8 pictures [T {side} {side} 3], given {pictures.dtype} {list(pictures.shape)}"
        )
    chunk, found = max(1, min(chunk, len(pictures))), []
    for first in range(0, len(pictures), chunk):
        # The last chunk goes back over pictures that were seen, so that one program of one size serves all.
        start = min(first, len(pictures) - chunk)
        found.append(np.asarray(_see(module, params, pictures[start : start + chunk]))[first - start :])
    return np.concatenate(found)


def text_features(module: Clip, params: PyTree, tokens: Int[np.ndarray, "B 77"]) -> Float[np.ndarray, "B F"]:
    """Return the features of texts as `byte_pairs.BytePairs` gives them; of no particular length."""
    return np.asarray(_read(module, params, tokens))


def shorter_side(frames: UInt8[np.ndarray, "T H W 3"], side: int = 224) -> UInt8[np.ndarray, "T s s 3"]:
    """Make pictures as CLIP was given them: the shorter side `side` pixels, by Pillow's cubic, and the middle of them.

    Pillow's goes over all the pixels that shrink into one, and rounds between its two passes. The sides of wide frames
    are not seen.
    """
    size = _size(frames.shape[1:3], side)
    resized = [np.asarray(Image.fromarray(frame).resize(size[::-1], Image.Resampling.BICUBIC)) for frame in frames]
    return _middle(np.stack(resized), side)


def vbench(frames: UInt8[np.ndarray, "T H W 3"], side: int = 224) -> UInt8[np.ndarray, "T s s 3"]:
    """Make pictures as VBench gives them to CLIP: torch's cubic (a = -0.75), which skips pixels when it shrinks."""
    size = _size(frames.shape[1:3], side)
    resized = [cv2.resize(frame.astype(np.float32), size[::-1], interpolation=cv2.INTER_CUBIC) for frame in frames]
    return _middle(np.rint(np.clip(resized, 0, 255)).astype(np.uint8), side)


@functools.cache
def parameter_shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Return the shape of each parameter by its path, such as "text/token_embed", computing nothing."""
    pictures = jax.ShapeDtypeStruct((1, sizes.side, sizes.side, 3), jnp.uint8)
    tokens = jax.ShapeDtypeStruct((1, byte_pairs.LENGTH), jnp.int32)
    tree = jax.eval_shape(Clip(sizes, "gelu").init, jax.random.key(0), pictures, tokens)["params"]
    return {path: leaf.shape for path, leaf in flatten_dict(tree, sep="/").items()}


@functools.partial(jax.jit, static_argnums=0)
def _see(module: Clip, params: PyTree, pictures: AnyArray) -> AnyArray:
    return module.apply({"params": params}, pictures, method=lambda clip, x: clip.vision(x))


@functools.partial(jax.jit, static_argnums=0)
def _read(module: Clip, params: PyTree, tokens: AnyArray) -> AnyArray:
    return module.apply({"params": params}, tokens, method=lambda clip, x: clip.text(x))


def _run_blocks(module: nn.Module, x: AnyArray, depth: int, mask: AnyArray | None) -> AnyArray:
    """Run the stack of blocks of a compact module."""
    block = Block(module.activation, parent=None)

    def one(key):
        return block.init(key, jnp.zeros((1, 1, x.shape[-1])))["params"]

    stack = module.param("blocks", lambda key: layers.init_stack(key, one, depth))
    return layers.scan_stack(lambda x, layer: block.apply({"params": layer}, x, mask), x, stack)


def _size(size: tuple[int, ...], side: int) -> tuple[int, int]:
    """Return rows and columns of which the fewer are `side`; the others are rounded down."""
    height, width = size
    return (side, int(side * width / height)) if height <= width else (int(side * height / width), side)


def _middle(frames: UInt8[np.ndarray, "T H W 3"], side: int) -> UInt8[np.ndarray, "T s s 3"]:
    """Cut the middle out; halves go to the even number, as in torchvision."""
    top, left = (round((size - side) / 2) for size in frames.shape[1:3])
    return frames[:, top : top + side, left : left + side]

"""CogVideoX's diffusion transformer at any size, with an optional control branch, and the seam every method plugs into.

A block (CogVideoX as released) attends over text and video tokens together; its two norms are shifted, scaled and gated
by the time embedding, separately for video and text. All blocks have one shape, so their parameters are stacked under
`blocks` with the layer on the first axis and applied in a loop.

The control branch (MotionV2V, section 3.3) is a copy of the first `control_depth` blocks which runs beside them:

    k = zero_in(h0 + k0)                      h0 the embedded latents, k0 = Control.tokens
    for each main block i:
        h, e = main_i(h, e)
        k = control_i(k, e)                   the main branch's text; the copy's own text output is dropped
        side:     h = h + zero_out_i(k)
        chained:  k = zero_out_i(k); h = h + k

`zero_in` and `zero_out` are Linear layers that start at zero, so that a new branch leaves the model unchanged. `side`
is the wiring of the paper's figure. `chained`, where the stream itself passes through every zero layer, is how the
released Diffusion-as-Shader weights were trained; there k0 comes from `Control.latents`. The branch's parameters live
under the one key `control`; the rest of the tree is that of a model without a branch.

Settings of the published models, besides the sizes: 2B positions="sincos"; 5B "rope"; 5B-I2V "rope+learned" and 32
input channels; 1.5-5B "rope" and patch_size_t=2; 1.5-5B-I2V the same, 32 input channels and ofs_embed_dim=512. The
image of an I2V model enters as `Control.concat`. `convert.transformer.from_config` reads them from a config.json.

Further parts that a model may have, each of which leaves it unchanged when new: `axes` ("hw", "t") attends within
frames, then along time, as the networks did on which Motion Inversion and ReVideo are defined; `lora_rank` adds
low-rank updates to the main blocks' Linear layers, under the key `lora` (`models.lora`); `Control.motion` adds
embeddings to what the main blocks' attention reads (Motion Inversion, equation 3). What is different in each layer is
scanned beside the layers' parameters.
"""

import functools
import math
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from motionv2v.models import layers, lora, patches, positions
from motionv2v.models.activations import constrain
from motionv2v.typing import AnyArray, Float, Num, PyTree


class Control(NamedTuple):
    """What a method gives the transformer besides latents, time and text; None leaves a part out.

    `tokens` [B n D] enter the control branch, one per video patch; of two branches [B n 2D], the first's before the
    second's. `concat` [B t h w C] are further latent channels,
    put after those of xt before the patches are embedded. `latents` [B t h w zin] take the place of tokens: they enter
    the branch through the model's own patch embedding, positions included, as in Diffusion-as-Shader. `motion` are
    embeddings for each main block, of the whole batch: "qk" for queries and keys, "v" for values, [depth t D] or
    [depth t h w D] on any grid of frames and places (`layers.LayerInputs`); either may be left out. `estimate`
    [B t h w z] is a first answer, clean latents, which the transformer only has to put right: `denoiser.Denoiser` adds
    it to the prediction, no block sees it. `known` [B t h w z] are clean latents which are the answer wherever
    `is_known` [B t h w 1] is not 0: there the transformer is not asked.
    """

    tokens: Float[AnyArray, "B n D"] | None = None
    concat: Float[AnyArray, "B t h w C"] | None = None
    latents: Float[AnyArray, "B t h w zin"] | None = None
    motion: dict[str, Float[AnyArray, "depth ..."]] | None = None
    estimate: Float[AnyArray, "B t h w z"] | None = None
    known: Float[AnyArray, "B t h w z"] | None = None
    is_known: Float[AnyArray, "B t h w 1"] | None = None


class Conditioner(Protocol):
    """The linen module with which a method turns its condition latents into a `Control`.

    `conditions` is a dict of dicts, for example {"videos": {name: [B t h w z]}}: videos arrive as latents of the
    frozen VAE. `time` [B] is the diffusion time in [0, 1], 1 = noise.
    """

    def __call__(self, conditions: dict, time: Float[AnyArray, "B"]) -> Control:
        """Turn condition latents into a `Control`."""
        ...


class DiT(nn.Module):
    """Predict from noisy latents, time and text, as CogVideoX's transformer does.

    Attributes:
        num_layers: main blocks (5B: 42, 2B: 30).
        num_heads: heads; the width D is num_heads * head_dim.
        head_dim: features per head, 64 in CogVideoX.
        in_channels: channels entering the patch embedding, those of `Control.concat` included.
        out_channels: channels of the prediction.
        text_dim: width of the text encoder's output.
        text_length: most text tokens accepted; with learned positions the only number accepted.
        patch_size: side of a patch in latent pixels.
        patch_size_t: latent frames of a patch, 2 in CogVideoX 1.5, None for 1. `positions.extra_frames` says how clips
            of other lengths are sampled.
        time_embed_dim: width of the time embedding.
        ofs_embed_dim: width of the embedding of `ofs`, added to that of time (1.5-5B-I2V); None for none.
        positions: `rope`, `sincos` or `rope+learned`, see `models.positions`.
        sample_size: latent frames, height and width of the clips a published model was made for, see
            `models.positions`; None for a model of no such size.
        spatial_interpolation_scale: sin-cos patch positions are divided by this.
        temporal_interpolation_scale: sin-cos frame positions are divided by this.
        mlp_ratio: hidden width of the MLP over D.
        control_depth: blocks of the control branch, 0 for none.
        control_branches: 1, or 2 branches beside one another, each with tokens of its own (see `Control`).
        control_wiring: `side` or `chained`, see the module's docstring.
        control_start: how zero_in starts. `zero` as released; `identity` shows the copies, from the first step, the
            activations they were copied for. Either way a new branch changes nothing, because zero_out is zero.
        zero_init_modulation: start the main blocks as the identity and the prediction at zero (adaLN-Zero), for
            training from scratch. The control blocks always start with open gates: behind zero_in and zero_out, closed
            gates would never receive a gradient.
        axes: along what each block attends, in turn: ("thw",) as CogVideoX, or ("hw", "t"), see `layers.Block`.
        lora_rank: of the main blocks' low-rank updates, 0 for none.
        lora_targets: the Linear layers that have one, by their paths in a block.
        lora_in_branch: whether the control branch's blocks have such updates too.
        attention_implementation: see `attention.dispatch.IMPLEMENTATIONS`.
        remat: see `layers.scan_stack`.
        scan_unroll: see `layers.scan_stack`.
        dtype: of the computation; parameters are float32.
    """

    num_layers: int = 30
    num_heads: int = 30
    head_dim: int = 64
    in_channels: int = 16
    out_channels: int = 16
    text_dim: int = 4096
    text_length: int = 226
    patch_size: int = 2
    patch_size_t: int | None = None
    time_embed_dim: int = 512
    ofs_embed_dim: int | None = None
    positions: str = "rope"
    sample_size: tuple[int, int, int] | None = None
    spatial_interpolation_scale: float = 1.875
    temporal_interpolation_scale: float = 1.0
    mlp_ratio: int = 4
    control_depth: int = 0
    control_branches: int = 1
    control_wiring: str = "side"
    control_start: str = "zero"
    zero_init_modulation: bool = True
    axes: tuple[str, ...] = ("thw",)
    lora_rank: int = 0
    lora_targets: tuple[str, ...] = ("attention/k", "attention/v")
    lora_in_branch: bool = False
    attention_implementation: str = "auto"
    remat: str | bool = "none"
    scan_unroll: int | bool = 1
    dtype: Any = jnp.float32

    @property
    def width(self) -> int:
        """Return D, the features of a token."""
        return self.num_heads * self.head_dim

    @property
    def patch(self) -> tuple[int, int, int]:
        """Return the latent frames, rows and columns of a patch."""
        return (self.patch_size_t or 1, self.patch_size, self.patch_size)

    @nn.compact
    def __call__(
        self,
        xt: Float[AnyArray, "B t h w zin"],
        timestep: Num[AnyArray, "B"],
        text: Float[AnyArray, "B L C"],
        control: Control | None = None,
        ofs: float = 2.0,
        modulations: PyTree | None = None,
    ) -> Float[AnyArray, "B t h w zout"]:
        """Predict, in the training schedule's terms (CogVideoX: v), for one batch of noisy latents.

        Args:
            xt: noisy latents; t, h and w must be multiples of `patch`.
            timestep: in the schedule's units, 0..999 for CogVideoX; unused with `modulations`.
            text: the text encoder's output, at most `text_length` tokens, used without a padding mask.
            control: a method's extra inputs. Without `tokens` or `latents` the control branch is not run.
            ofs: the second number that 1.5-5B-I2V is conditioned on; its pipeline always gives 2.
            modulations: what the layers that read the time would return at this timestep, a row of
                `models.time_tables`; the parameters then need not have these layers.

        Raises:
            ValueError: for settings or sizes that do not fit, naming both sides.
        """
        self.check_settings()
        control = Control() if control is None else control
        if control.concat is not None:
            xt = jnp.concatenate([xt, control.concat.astype(xt.dtype)], axis=-1)
        self._check_inputs(xt, text, control)
        grid = tuple(length // side for length, side in zip(xt.shape[1:4], self.patch, strict=True))

        time = self._embed_time(timestep, ofs) if modulations is None else None
        rope = None
        if self.positions != "sincos":
            rope = positions.rope(grid, self.head_dim, text.shape[1], self.patch, self.sample_size)
        video, text, tokens = self._embed(xt, text, control, grid)

        video = self._run_blocks(video, text, time, modulations, rope, grid, tokens, control.motion)

        if modulations is None:
            read_time = layers.modulation(2 * self.width, self.zero_init_modulation, self.dtype, "out_modulation")
            shift_and_scale = read_time(nn.silu(time))
        else:
            shift_and_scale = modulations["out_modulation"]
        shift, scale = jnp.split(shift_and_scale[:, None], 2, -1)  # [B 1 D] each
        video = layers.layer_norm("final_norm", self.dtype)(video)
        video = layers.layer_norm("out_norm", self.dtype)(video) * (1 + scale) + shift
        kernel_init = nn.initializers.zeros if self.zero_init_modulation else nn.initializers.lecun_normal()
        features = self.out_channels * math.prod(self.patch)
        video = nn.Dense(features, dtype=self.dtype, kernel_init=kernel_init, name="out")(video)  # [B n F]
        return constrain(patches.unpatchify(video, grid, self.patch_size, self.patch[0]), "latents")

    def _embed_time(self, timestep, ofs):
        time = self._embed_number("time", timestep, self.width, self.time_embed_dim)
        if self.ofs_embed_dim is not None:
            time = time + self._embed_number("ofs", jnp.full((1,), ofs), self.ofs_embed_dim, self.ofs_embed_dim)
        return time

    def _embed_number(self, name, number, width, features):
        """Embed one number per sample as sines, then by two Linear layers."""
        x = layers.timestep_embedding(number, width).astype(self.dtype)
        x = nn.Dense(features, dtype=self.dtype, name=f"{name}_in")(x)
        return nn.Dense(features, dtype=self.dtype, name=f"{name}_out")(nn.silu(x))

    def _embed(self, xt, text, control, grid):
        """Turn latents, text and `Control.latents` into tokens, and add the positions that are not rotations."""
        embed = nn.Dense(self.width, dtype=self.dtype, name="patch_embed")
        video = constrain(embed(patches.patchify(xt, self.patch_size, self.patch[0])), "tokens")
        text = constrain(nn.Dense(self.width, dtype=self.dtype, name="text_embed")(text), "batch")
        tokens = control.tokens
        if control.latents is not None:
            tokens = embed(patches.patchify(control.latents, self.patch_size, self.patch[0]))
        if self.positions == "rope":
            return video, text, tokens
        scales = (self.spatial_interpolation_scale, self.temporal_interpolation_scale)
        sincos = functools.partial(positions.sincos_with_text, self.text_length, self.width, scales)
        table = sincos(grid)
        if self.positions == "rope+learned":
            whole = tuple(length // side for length, side in zip(self.sample_size, self.patch, strict=True))
            learned = self.param("position_table", lambda _: sincos(whole))
            # For another number of frames diffusers leaves the learned table out and computes one.
            table = learned if grid == whole else table
            text = text + table[: self.text_length].astype(text.dtype)
        rows = table[self.text_length :]
        video = video + rows.astype(video.dtype)
        if control.latents is not None:
            tokens = tokens + rows.astype(tokens.dtype)
        return video, text, tokens

    def _run_blocks(self, video, text, time, modulations, rope, grid, tokens, motion):
        """Run the main blocks, and the control branch beside the first `control_depth` of them."""
        block = self._block()
        reads_time = modulations is None
        blocks = self.param("blocks", self._init_blocks, self.num_layers, self.zero_init_modulation, reads_time)
        branch = self.param("control", self._init_control, reads_time) if self.control_depth else None
        updates = self.param("lora", self._init_lora, self.num_layers) if self.lora_rank else None
        has_both = self.lora_rank and self.lora_in_branch and self.control_depth
        of_branch = self.param("lora_branch", self._init_lora, self.control_depth) if has_both else None
        settings = {"remat": self.remat, "unroll": self.scan_unroll}
        length, is_chained = text.shape[1], self.control_wiring == "chained"
        # What differs from layer to layer, with the layers on the first axis.
        main = {
            "params": blocks,
            "modulations": None if reads_time else modulations["blocks"],
            "inputs": layers.LayerInputs(**(motion or {}), lora=updates),
        }

        def join(tokens):
            # Text and video are one sequence in all blocks, text first: see `layers._per_stream`.
            return constrain(jnp.concatenate([text, tokens], axis=1), "tokens")

        def run_block(x, layer):
            variables, of_layer = {"params": layer["params"]}, layer["modulations"]
            if of_layer is None:
                of_layer = block.apply(variables, time, method="read_time")
            return block.apply(variables, x, length, of_layer, rope, grid, layer["inputs"])

        def run_main_block(x, index):
            # Taken from the whole stack by number: `blocks[:depth]` and `blocks[depth:]` as inputs of the two loops
            # would hold a second copy of all main blocks in memory (11 GB of bfloat16 in the 5B model).
            take = functools.partial(jax.lax.dynamic_index_in_dim, index=index, keepdims=False)
            return run_block(x, jax.tree.map(take, main))

        def run_both(carry, layer):
            x, streams = carry
            x = run_main_block(x, layer["index"])
            # The branch has no text of its own: it reads the main blocks', and adds nothing to it.
            is_text = jnp.arange(x.shape[1])[:, None] < length
            both = list(zip(streams, layer["branches"], strict=True))
            streams = tuple(run_block(jnp.where(is_text, x, stream), own) for stream, own in both)
            outs = tuple(_linear(own["zero_out"], stream) for stream, (_, own) in zip(streams, both, strict=True))
            x = x + jnp.where(is_text, 0, functools.reduce(jnp.add, outs))
            return constrain(x, "tokens"), outs if is_chained else streams

        x = join(video)
        if tokens is None or not self.control_depth:
            return layers.scan_stack(run_block, x, main, **settings)[:, length:]
        depth, branches = self.control_depth, self._each_branch(branch)
        of_time = self._each_branch({"second": {}} if reads_time else modulations["control"])
        both = {
            "index": jnp.arange(depth),
            "branches": tuple(
                {
                    "params": own["blocks"],
                    "modulations": of_own.get("blocks"),
                    "inputs": layers.LayerInputs(lora=of_branch),
                    "zero_out": own["zero_out"],
                }
                for own, of_own in zip(branches, of_time, strict=True)
            ),
        }
        given = jnp.split(tokens.astype(video.dtype), len(branches), axis=-1)
        streams = tuple(join(_linear(own["zero_in"], video + x)) for own, x in zip(branches, given, strict=True))
        x, _ = layers.scan_stack(run_both, (x, streams), both, **settings)
        if depth < self.num_layers:
            x = layers.scan_stack(run_main_block, x, jnp.arange(depth, self.num_layers), **settings)
        return x[:, length:]

    def _each_branch(self, tree):
        """Return what `tree` holds of each branch: the second's stands within the first's."""
        return (tree, tree["second"]) if self.control_branches == 2 else (tree,)

    def _block(self, zero_init=False):
        # Detached (parent=None): its parameters are slices of the stack, passed to `apply` by hand.
        sizes = (self.num_heads, self.head_dim, self.mlp_ratio)
        return layers.Block(*sizes, self.attention_implementation, zero_init, self.axes, self.dtype, parent=None)

    def _init_blocks(self, key, depth, zero_init, reads_time=True):
        # One token of text and one of video are enough to learn the shapes, and `xla` runs everywhere.
        block = self._block(zero_init).clone(attention_implementation="xla")
        tokens, time = jnp.zeros((1, 2, self.width), self.dtype), jnp.zeros((1, self.time_embed_dim), self.dtype)
        nothing = dict.fromkeys((f"{name}_modulation" for name in block.step_names), jnp.zeros((1, 6 * self.width)))

        def run(block):
            return block(tokens, 1, block.read_time(time) if reads_time else nothing, grid=(1, 1, 1))

        return layers.init_stack(key, lambda one: block.init(one, method=run)["params"], depth)

    def _init_control(self, key, reads_time):
        square = (self.width, self.width)
        start = jnp.eye(self.width) if self.control_start == "identity" else jnp.zeros(square)
        if self.control_branches == 2:
            keys = jax.random.split(key)
            alone = self.clone(control_branches=1, parent=None)
            first, second = (alone._init_control(each, reads_time) for each in keys)
            return {**first, "second": second}
        return {
            "zero_in": {"kernel": start, "bias": jnp.zeros(self.width)},
            "blocks": self._init_blocks(key, self.control_depth, False, reads_time),
            "zero_out": {
                "kernel": jnp.zeros((self.control_depth, *square)),
                "bias": jnp.zeros((self.control_depth, self.width)),
            },
        }

    def _init_lora(self, key, depth):
        kernels = jax.eval_shape(lambda: self._init_blocks(jax.random.key(0), depth, False))
        return lora.init(key, kernels, self.lora_targets, self.lora_rank)

    def check_settings(self) -> None:
        """Check the settings that have few choices or depend on each other.

        Raises:
            ValueError: naming the setting, its value and what is possible.
        """
        positions.check(self.positions, self.patch, self.sample_size)
        if self.ofs_embed_dim not in (None, self.time_embed_dim):
            raise ValueError(
                f"ofs_embed_dim={self.ofs_embed_dim} must be None or equal time_embed_dim={self.time_embed_dim}."
            )
        _check_choice("control_wiring", self.control_wiring, ("side", "chained"))
        _check_choice("control_start", self.control_start, ("zero", "identity"))
        _check_choice("control_branches", self.control_branches, (1, 2))
        if self.control_branches == 2 and self.lora_in_branch:
            raise ValueError("lora_in_branch=True is for one branch, and control_branches=2.")
        _check_choice("axes", tuple(self.axes), (("thw",), ("hw", "t")))
        if not 0 <= self.control_depth <= self.num_layers:
            raise ValueError(f"control_depth={self.control_depth} must lie in 0..num_layers={self.num_layers}.")

    def _check_inputs(self, xt, text, control):
        channels = xt.shape[-1]
        if channels != self.in_channels:
            raise ValueError(
                f"latents have {channels} channels, those of Control.concat included; in_channels={self.in_channels}."
            )
        positions.check_size(xt.shape[1:4], self.patch)
        if text.shape[1] > self.text_length or text.shape[2] != self.text_dim:
            raise ValueError(
                f"text of {text.shape[1]} tokens, {text.shape[2]} wide, does not fit: at most "
                f"text_length={self.text_length} tokens, text_dim={self.text_dim} wide."
            )
        if self.positions == "rope+learned":
            positions.check_table(xt.shape[1:4], text.shape[1], self.sample_size, self.text_length)
        self._check_control(control, xt.shape)

    def _check_control(self, control, shape):
        for name, embedding in (control.motion or {}).items():
            _check_choice("Control.motion", name, ("qk", "v", "qk_same"))
            depth, *middle, width = embedding.shape
            if (depth, width) != (self.num_layers, self.width) or len(middle) not in (1, 3):
                raise ValueError(
                    f"Control.motion[{name!r}] has shape {embedding.shape}, expected ({self.num_layers}, t, "
                    f"{self.width}) or ({self.num_layers}, t, h, w, {self.width})."
                )
        if control.tokens is None and control.latents is None:
            return
        name = "tokens" if control.latents is None else "latents"
        if not self.control_depth:
            raise ValueError(f"Control.{name} were given, but the model has no control branch (control_depth=0).")
        if control.tokens is not None and control.latents is not None:
            raise ValueError("Control.tokens and Control.latents were given; the control branch takes one of them.")
        num_tokens = math.prod(shape[1:4]) // math.prod(self.patch)
        expected = shape if name == "latents" else (shape[0], num_tokens, self.control_branches * self.width)
        if self.control_branches == 2 and name == "latents":
            raise ValueError("Control.latents were given, and control_branches=2 reads tokens alone.")
        if getattr(control, name).shape != expected:
            raise ValueError(f"Control.{name} have shape {getattr(control, name).shape}, expected {expected}.")


ADDITIONS = ("control", "lora", "lora_branch")
"""Parts of a DiT's tree that a model may have beside its base; leaves of further attentions are found by name."""


def is_addition(path: str) -> bool:
    """Tell whether a parameter, by its path in a DiT's tree, is of a part that a base may lack: such parts start fresh.

    These are the control branch, low-rank updates, and every block's attentions after the first.
    """
    return path.startswith(tuple(f"{name}/" for name in ADDITIONS)) or path.startswith("blocks/attention_t")


def base_params(params: PyTree) -> PyTree:
    """Return a DiT's parameters without what a base lacks: the tree of the same DiT without branch and updates."""
    return {name: value for name, value in params.items() if name not in ADDITIONS}


def init_control_from_base(params: PyTree) -> PyTree:
    """Copy the first main blocks into the control branch; the zero layers stay as they are.

    Args:
        params: the tree of a DiT that has a branch.

    Returns:
        A new tree whose other arrays are shared with `params`.

    Raises:
        ValueError: when the tree has no control branch.
    """
    if "control" not in params:
        raise ValueError(f"the parameters have no control branch; their keys are {', '.join(sorted(params))}.")
    depth = params["control"]["zero_out"]["bias"].shape[0]
    copies = {"blocks": jax.tree.map(lambda leaf: leaf[:depth], params["blocks"])}
    control = {**params["control"], **copies}
    if "second" in control:
        control["second"] = {**control["second"], **copies}
    return {**params, "control": control}


def _linear(params, x):
    return x @ params["kernel"].astype(x.dtype) + params["bias"].astype(x.dtype)


def _check_choice(name, value, choices):
    if value not in choices:
        raise ValueError(f"{name}={value!r} is unknown; available: {', '.join(map(str, choices))}.")

"""TAPNext against a slow loop in numpy, its names against the published file's, and what a causal network must keep."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_tapnext
from jax.scipy.ndimage import map_coordinates

from motionv2v.models.tapnext import network
from motionv2v.models.tapnext.network import TapNext

TINY = TapNext(**tiny_tapnext.SIZES)
QUERIES = np.array([[0, 3.2, 5.1], [2, 30.9, 0.2], [0, 16.5, 31.7], [4, 8.0, 8.0], [2, 12.3, 20.9]], np.float32)


@pytest.fixture(scope="module")
def params():
    return tiny_tapnext.weights(0, TINY)


@pytest.fixture(scope="module")
def frames():
    return np.random.default_rng(1).integers(0, 256, (6, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def result(params, frames):
    return run(params, frames, QUERIES)


_follow = jax.jit(network.follow, static_argnums=0)


def run(params, frames, queries, step=0, states=None, module=TINY):
    """Run `follow` and return (yx, visible, certainty) as numpy and the states."""
    states = module.initial_states(1, len(queries)) if states is None else states
    *out, states = _follow(module, tiny_tapnext.tree(params), frames, queries, jnp.int32(step), states)
    return [np.asarray(x) for x in out], states


# ---- the slow loop: float64, one frame, one token, one head at a time, straight from the flat names of the file


def gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    weights = np.exp(x - x.max())
    return weights / weights.sum()


class Loop:
    """One network with its memory; call it frame by frame."""

    def __init__(self, params, sizes):
        self.params = {name: value.astype(np.float64) for name, value in params.items()}
        self.sizes, self.past, self.hidden, self.step = sizes, {}, {}, 0

    def linear(self, name, x):
        return x @ self.params[f"{name}/kernel"] + self.params[f"{name}/bias"]

    def layer_norm(self, name, x):
        normal = (x - x.mean()) / math.sqrt(x.var() + 1e-6)
        return normal * self.params[f"{name}/scale"] + self.params[f"{name}/bias"]

    def rms_norm(self, name, x):
        return x / math.sqrt((x**2).mean() + 1e-6) * (1 + self.params[f"{name}/scale"])

    def gate(self, name, x):
        w, b = self.params[f"{name}/w"], self.params[f"{name}/b"]
        size = w.shape[-1]
        return sigmoid(np.concatenate([x[k * size : (k + 1) * size] @ w[k] + b[k] for k in range(len(w))]))

    def temporal(self, name, x, token):
        """One token of one frame through the recurrent block and the gated MLP."""
        block = f"{name}/recurrent_block"
        normal = self.rms_norm(f"{name}/temporal_pre_norm", x)
        taps = self.past.setdefault((name, token), [])
        taps.append(self.linear(f"{block}/linear_x", normal))
        kernel = self.params[f"{block}/conv_1d/w"]
        y = self.params[f"{block}/conv_1d/b"].copy()
        for age in range(min(len(kernel), len(taps))):
            y += kernel[-1 - age] * taps[-1 - age]
        new = self.gate(f"{block}/rg_lru/input_gate", y) * y
        if self.step:
            softplus = np.log1p(np.exp(self.params[f"{block}/rg_lru/a_param"]))
            a = np.exp(-8 * self.gate(f"{block}/rg_lru/a_gate", y) * softplus)
            new = a * self.hidden[name, token] + np.sqrt(1 - a**2) * new
        self.hidden[name, token] = new
        x = x + self.linear(f"{block}/linear_out", new * gelu(self.linear(f"{block}/linear_y", normal)))
        w, b = self.params[f"{name}/mlp_block/ffw_up/w"], self.params[f"{name}/mlp_block/ffw_up/b"][:, 0, 0]
        normal = self.rms_norm(f"{name}/channel_pre_norm", x)
        return x + self.linear(f"{name}/mlp_block/ffw_down", gelu(normal @ w[0] + b[0]) * (normal @ w[1] + b[1]))

    def spatial(self, name, tokens):
        """All tokens of one frame through attention and MLP."""
        normal = [self.layer_norm(f"{name}/LayerNorm_0", x) for x in tokens]
        attention = f"{name}/MultiHeadDotProductAttention_0"

        def project(part, x, head):
            kernel, bias = self.params[f"{attention}/{part}/kernel"], self.params[f"{attention}/{part}/bias"]
            return x @ kernel[:, head] + bias[head]

        out = [self.params[f"{attention}/out/bias"] for _ in tokens]
        for head in range(self.sizes["num_heads"]):
            key, value = (np.stack([project(part, x, head) for x in normal]) for part in ("key", "value"))
            for i, x in enumerate(normal):
                weights = softmax(key @ project("query", x, head) / math.sqrt(key.shape[-1]))
                out[i] = out[i] + weights @ value @ self.params[f"{attention}/out/kernel"][head]
        tokens = [x + y for x, y in zip(tokens, out, strict=True)]
        for i, x in enumerate(tokens):
            hidden = gelu(self.linear(f"{name}/MlpBlock_0/Dense_0", self.layer_norm(f"{name}/LayerNorm_1", x)))
            tokens[i] = x + self.linear(f"{name}/MlpBlock_0/Dense_1", hidden)
        return tokens

    def query_token(self, query):
        t, y, x = query
        if self.step < t:
            return self.params["backbone/unknown_token"][0, 0]
        if self.step > t:
            return self.params["backbone/mask_token"][0, 0, 0]
        return self.params["backbone/point_query_token"][0, 0, 0] + table_at(self.sizes, y, x)

    def head(self, name, x):
        for index in (0, 3):
            x = gelu(self.layer_norm(f"{name}/layers_{index + 1}", self.linear(f"{name}/layers_{index}", x)))
        return self.linear(f"{name}/layers_6", x)

    def __call__(self, frame, queries):
        """Return (yx, probability of being visible, certainty) of every query in the next frame."""
        picture, patch, tokens = frame / 127.5 - 1, self.sizes["patch_size"], []
        for row in range(0, self.sizes["image_size"], patch):
            for column in range(0, self.sizes["image_size"], patch):
                part = picture[row : row + patch, column : column + patch]
                token = np.tensordot(part, self.params["backbone/embedding/kernel"][0], 3)
                place = self.params["backbone/pos_embedding"][0, len(tokens)]
                tokens.append(token + self.params["backbone/embedding/bias"] + place)
        tokens += [self.query_token(query) for query in queries]
        for index in range(self.sizes["depth"]):
            name = f"backbone/Transformer/encoderblock_{index}"
            tokens = [self.temporal(f"{name}/ssm_block", x, token) for token, x in enumerate(tokens)]
            tokens = self.spatial(f"{name}/vit_block", tokens)
        self.step += 1
        read = [self.layer_norm("backbone/Transformer/encoder_norm", x) for x in tokens[-len(queries) :]]
        visible = [sigmoid(self.head("visible_head", x)[0]) for x in read]
        positions = [slow_decode(self.head("coordinate_head", x)) for x in read]
        return [np.array(x) for x in ([p[0] for p in positions], visible, [p[1] for p in positions])]


def table_at(sizes, y, x):
    """Bilinear interpolation in the whole table of sines and cosines."""
    size, count = sizes["image_size"], sizes["width"] // 4
    frequency = 1 / 10_000 ** np.linspace(0, 1, count)
    rows, columns = np.mgrid[:size, :size][..., None] * frequency
    table = np.concatenate([np.sin(columns), np.cos(columns), np.sin(rows), np.cos(rows)], axis=-1)
    at = np.array([y, x]) - 0.5
    return np.array([float(map_coordinates(table[..., c], at, order=1, mode="nearest")) for c in range(4 * count)])


def slow_decode(logits):
    """Position and certainty by looking at every pixel."""
    halves = np.split(logits, 2)
    yx = []
    for half in halves:
        top = int(half.argmax())
        weight = softmax(0.5 * half)
        near = [i for i in range(len(half)) if abs(i - top) <= 20]
        yx.append(sum(weight[i] * (i + 0.5) for i in near) / sum(weight[i] for i in near))
    rows, columns = (softmax(half) for half in halves)
    certainty = 0.0
    for i in range(len(rows)):
        for j in range(len(columns)):
            if (i + 0.5 - yx[0]) ** 2 + (j + 0.5 - yx[1]) ** 2 <= 36:
                certainty += rows[i] * columns[j]
    return yx, certainty


# ---- tests


def test_network_matches_loop(params, frames, result):
    (yx, visible, certainty), _ = result
    loop = Loop(params, tiny_tapnext.SIZES)
    for t, frame in enumerate(frames):
        expected = loop(frame, QUERIES)
        # float32 against float64: the largest differences met were 5e-6 pixels and 6e-7.
        np.testing.assert_allclose(yx[t], expected[0], atol=1e-4)
        np.testing.assert_allclose(visible[t], expected[1], atol=1e-5)
        np.testing.assert_allclose(certainty[t], expected[2], atol=1e-5)
    # The comparison would be idle if all points lay in one place and in sight.
    asked = QUERIES[:, 0] <= np.arange(len(frames))[:, None]
    assert yx[asked].std(axis=0).min() > 2 and 0.2 < (visible[asked] > 0.5).mean() < 0.8


def test_decode_matches_loop():
    """Peaks in the corners, two peaks, and flat logits included."""
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(40, 512)).astype(np.float32) * rng.choice([0.1, 2, 6], size=(40, 1))
    for row, peaks in enumerate([(0, 255), (255, 0), (3, 252), (249, 249), (6, 250)]):
        logits[row] = 0.1 * rng.normal(size=512)
        logits[row, [peaks[0], 256 + peaks[1]]] += 12
    logits[10, [20, 200]] += 9
    yx, certainty = network.decode(jnp.asarray(logits.astype(np.float32)))
    expected = [slow_decode(row.astype(np.float64)) for row in logits.astype(np.float32)]
    np.testing.assert_allclose(yx, [e[0] for e in expected], atol=1e-3)  # pixels; float32 sums of indices up to 255
    np.testing.assert_allclose(certainty, [e[1] for e in expected], atol=1e-5)
    assert certainty[:5].min() > 0.5


@pytest.mark.parametrize("width", [24, 768])
def test_position_embedding_is_bilinear_in_the_table(width):
    yx = np.array([[0, 0], [0.5, 0.5], [31.9, 0.2], [32, 32], [7.25, 19.75], [16.5, 3.0]], np.float32)
    out = network.position_embedding(jnp.asarray(yx), (32, 32), width)
    expected = [table_at(dict(image_size=32, width=width), *point) for point in yx]
    np.testing.assert_allclose(out, expected, atol=1e-5)  # sines of angles up to 31 in float32


def published_shapes():
    """The tree of the published files, written from its description."""
    d, k, h = 768, 12, 3072
    norm, rms = {"scale": (d,), "bias": (d,)}, {"scale": (d,)}
    dense = lambda *shape: {"kernel": shape, "bias": shape[-1:]}  # noqa: E731
    gate = {"w": (k, 64, 64), "b": (k, 64)}
    names = {"backbone/embedding": dense(1, 8, 8, 3, d), "backbone/Transformer/encoder_norm": norm}
    names["backbone"] = {
        "pos_embedding": (1, 1024, d),
        "mask_token": (1, 1, 1, d),
        "point_query_token": (1, 1, 1, d),
        "unknown_token": (1, 1, d),
    }
    for index in range(12):
        block = f"backbone/Transformer/encoderblock_{index}"
        ssm, vit = f"{block}/ssm_block", f"{block}/vit_block"
        names |= {f"{ssm}/{n}_pre_norm": rms for n in ("temporal", "channel")}
        names |= {f"{ssm}/recurrent_block/linear_{n}": dense(d, d) for n in ("x", "y", "out")}
        names[f"{ssm}/recurrent_block/conv_1d"] = {"w": (4, d), "b": (d,)}
        names[f"{ssm}/recurrent_block/rg_lru"] = {"a_param": (d,)}
        names |= {f"{ssm}/recurrent_block/rg_lru/{n}_gate": gate for n in ("a", "input")}
        names[f"{ssm}/mlp_block/ffw_up"] = {"w": (2, d, h), "b": (2, 1, 1, h)}
        names[f"{ssm}/mlp_block/ffw_down"] = dense(h, d)
        names |= {f"{vit}/LayerNorm_{n}": norm for n in (0, 1)}
        names |= {f"{vit}/MlpBlock_0/Dense_0": dense(d, h), f"{vit}/MlpBlock_0/Dense_1": dense(h, d)}
        attention = f"{vit}/MultiHeadDotProductAttention_0"
        names |= {f"{attention}/{n}": {"kernel": (d, k, 64), "bias": (k, 64)} for n in ("query", "key", "value")}
        names[f"{attention}/out"] = {"kernel": (k, 64, d), "bias": (d,)}
    for head, features in (("visible_head", 1), ("coordinate_head", 512)):
        sizes = {0: (d, 256), 3: (256, 256), 6: (256, features)}
        names |= {f"{head}/layers_{n}": dense(*shape) for n, shape in sizes.items()}
        names |= {f"{head}/layers_{n}": {"scale": (256,), "bias": (256,)} for n in (1, 4)}
    return {f"{folder}/{name}": shape for folder, leaves in names.items() for name, shape in leaves.items()}


def test_parameters_are_the_published_ones():
    shapes = network.parameter_shapes(TapNext())
    assert shapes == published_shapes()
    assert len(shapes) == 448
    assert round(sum(math.prod(shape) for shape in shapes.values()) / 1e6, 2) == 194.20


def test_frames_in_parts_give_the_whole(params, frames, result):
    """The state carries everything that later frames need."""
    (whole, *_), last = result
    parts, states = [], None
    for start, stop in ((0, 1), (1, 4), (4, 6)):
        (yx, *_), states = run(params, frames[start:stop], QUERIES, start, states)
        parts.append(yx)
    # Other programs, the same sums: XLA may fuse them differently.
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), states, last)


def test_no_frame_sees_a_later_one(params, frames, result):
    changed = frames.copy()
    changed[4:] = 255 - changed[4:]
    out, _ = run(params, changed, QUERIES)
    for before, after in zip(result[0], out, strict=True):
        np.testing.assert_array_equal(before[:4], after[:4])
        assert np.abs(before[4:] - after[4:]).max() > 1e-3


def test_every_frame_counts_for_the_later_ones(params, frames, result):
    changed = frames.copy()
    changed[0] = 255 - changed[0]
    out, _ = run(params, changed, QUERIES)
    assert all(np.abs(result[0][0][t] - out[0][t]).max() > 1e-3 for t in range(6))


def test_order_of_the_queries_does_not_matter(params, frames, result):
    order = np.array([3, 0, 4, 2, 1])
    out, _ = run(params, frames, QUERIES[order])
    for one, other in zip(result[0], out, strict=True):
        np.testing.assert_allclose(one[:, order], other, atol=1e-4)  # attention sums in another order


def test_a_query_is_unknown_before_its_frame(params, frames, result):
    """Where a point will be asked for cannot matter before its frame, and must matter from then on."""
    moved = QUERIES.copy()
    moved[3, 1:] = 25.0, 2.0
    out, _ = run(params, frames, moved)
    np.testing.assert_array_equal(result[0][0][:4], out[0][:4])
    assert np.abs(result[0][0][4:, 3] - out[0][4:, 3]).max() > 0.1


def test_bfloat16_is_close_and_keeps_float32_where_it_counts(params, frames, result):
    half = TapNext(**tiny_tapnext.SIZES, dtype=jnp.bfloat16)
    out, states = run(params, frames, QUERIES, module=half)
    assert out[0].dtype == np.float32
    assert all(state.hidden.dtype == jnp.float32 and state.window.dtype == jnp.bfloat16 for state in states)
    asked = QUERIES[:, 0] <= np.arange(6)[:, None]
    # bfloat16 has 8 bits and this network's random logits are steep, so only the bulk can agree.
    assert np.median(np.abs(out[0] - result[0][0])[asked]) < 1.0


def test_many_frames_take_no_more_memory_than_few(params):
    """What the compiled program holds besides its inputs and outputs does not depend on the number of frames."""
    held = []
    for num_frames in (4, 40):
        frames = jnp.zeros((num_frames, 32, 32, 3), jnp.uint8)
        states = TINY.initial_states(1, len(QUERIES))
        lowered = _follow.lower(TINY, tiny_tapnext.tree(params), frames, QUERIES, jnp.int32(0), states)
        held.append(lowered.compile().memory_analysis().temp_size_in_bytes)
    # Some hundred bytes per frame for reading the frames and writing the results; one frame's tokens are 2 kB a layer.
    assert held[1] - held[0] < 36 * (32 * 32 * 3 + 500)

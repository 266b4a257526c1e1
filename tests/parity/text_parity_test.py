"""The text encoder against transformers' T5EncoderModel, and the tokenizer against its ByT5Tokenizer."""

import numpy as np
import pytest

from motionv2v.convert import text_encoder
from motionv2v.data.tokenizer import ByteTokenizer
from motionv2v.models import text

torch = pytest.importorskip("torch", reason="needs torch: pip install -e .[parity]")
pytest.importorskip("transformers", reason="needs transformers: pip install -e .[parity]")

from dit_parity_test import arrays, load  # noqa: E402
from transformers import ByT5Tokenizer, T5Config, T5EncoderModel  # noqa: E402
from transformers.models.t5.modeling_t5 import T5Attention  # noqa: E402

# 30 times float32's spacing: three blocks of differently ordered sums.
TOLERANCE = 1e-5


@pytest.mark.parametrize("shape", [(1, 226), (2, 11), (3, 1)])
def test_encoder_matches_transformers(shape):
    """Without a mask, heads * head_dim != width, lengths beyond the last position bucket included."""
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=100,
        d_model=24,
        d_kv=8,
        d_ff=40,
        num_layers=3,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
    )
    theirs = T5EncoderModel(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    ours = text.T5Encoder(vocab_size=100, width=24, num_layers=3, num_heads=4, head_dim=8, mlp_dim=40)
    params = load(text_encoder.rules(ours), arrays(theirs))
    tokens = np.random.default_rng(0).integers(0, 100, size=shape)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(tokens)).last_hidden_state.numpy()
    out = np.asarray(ours.apply({"params": params}, tokens.astype(np.int32)))
    assert np.linalg.norm(out - expected) / np.linalg.norm(expected) <= TOLERANCE


@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (16, 100), (64, 512)])
def test_position_buckets_match_transformers(num_buckets, max_distance):
    position = torch.arange(600)[None] - torch.arange(600)[:, None]
    expected = T5Attention._relative_position_bucket(position, True, num_buckets, max_distance).numpy()
    np.testing.assert_array_equal(text.position_buckets(600, num_buckets, max_distance), expected)


def test_tokenizer_matches_byt5():
    captions = ["a dog runs", "", "café 走る", "a caption that is far too long for the table"]
    expected = ByT5Tokenizer()(captions, max_length=16, padding="max_length", truncation=True)["input_ids"]
    np.testing.assert_array_equal(ByteTokenizer(16).encode(captions), expected)

"""Folders that transformers saved of T5's encoder and tokenizer: the same embeddings, ids and weights."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sentencepiece

from motionv2v import convert
from motionv2v.convert import ConvertError, spiece
from motionv2v.data.tokenizer import SentencePieceTokenizer

torch = pytest.importorskip("torch", reason="needs torch: pip install -e .[parity]")
transformers = pytest.importorskip("transformers", reason="needs transformers: pip install -e .[parity]")

# 30 times float32's spacing: three blocks of differently ordered sums.
TOLERANCE = 1e-5
SIZES = {"vocab_size": 100, "d_model": 24, "d_kv": 8, "d_ff": 40, "num_layers": 3, "num_heads": 4}
CAPTIONS = [
    "a dog runs along the beach, its ears flapping",
    "",
    "  leading and  double   spaces ",
    "café, naïve, re\u0301sume\u0301: 走る",
    "tab\tnew\nline\u00a0nbsp\u3000ideographic\u2028separator\x85next",
    "\ufb01 ligature ① Ⅳ \uff46\uff55ll width",
    "emoji 😀 and zero\u200bwidth\u200d and control \x01\x7f",
    "A <extra_id_0> thing </s> and <pad> more <unk> end</s>",
    "<extra_id_99><extra_id_100>",
    "don't stop, it's “quoted”… 12,345.67%",
    "word " * 60,
]


@functools.cache
def t5(**settings):
    torch.manual_seed(0)
    config = transformers.T5Config(**SIZES, **{"feed_forward_proj": "gated-gelu", "dropout_rate": 0.0, **settings})
    theirs = transformers.T5EncoderModel(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return theirs


def embed(theirs, tokens):
    with torch.no_grad():
        return theirs(torch.from_numpy(tokens)).last_hidden_state.float().numpy()


def draw(shape):
    return np.random.default_rng(0).integers(0, SIZES["vocab_size"], size=shape)


def relative_error(actual, expected):
    return np.linalg.norm(np.asarray(actual, np.float32) - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize("shard_size", ["5GB", "8KB"])
@pytest.mark.parametrize("settings", [(), (("relative_attention_num_buckets", 16), ("layer_norm_epsilon", 1e-5))])
def test_loaded_encoder_matches(settings, shard_size, tmp_path):
    theirs = t5(**dict(settings))
    theirs.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard_size == "8KB")
    module, params = convert.from_diffusers(tmp_path)
    for shape in ((1, 226), (2, 11), (3, 1)):
        tokens = draw(shape)
        out = module.apply({"params": params}, tokens.astype(np.int32))
        assert relative_error(out, embed(theirs, tokens)) <= TOLERANCE


def test_written_encoder_loads_in_transformers(tmp_path):
    t5().save_pretrained(tmp_path / "in")
    module, params = convert.from_diffusers(tmp_path / "in")
    for dtype in ("float32", "bfloat16"):
        convert.to_diffusers(module, params, tmp_path / "out", dtype=dtype, shard_size="8KB")
        again, info = transformers.T5EncoderModel.from_pretrained(
            tmp_path / "out", output_loading_info=True, dtype="auto"
        )
        assert not info["missing_keys"] and not info["unexpected_keys"]
        assert str(again.dtype) == f"torch.{dtype}"
        expected = copy.deepcopy(t5()).to(again.dtype).state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in again.state_dict().items())
        if dtype == "float32":
            assert relative_error(embed(again.eval(), draw((2, 9))), embed(t5(), draw((2, 9)))) <= 1e-6


def test_bfloat16_is_as_good_as_transformers(tmp_path):
    """Against float32 ours may err twice as much as transformers' bfloat16: both round, in other places."""
    rounded = copy.deepcopy(t5()).to(torch.bfloat16)
    rounded.save_pretrained(tmp_path)
    module, params = convert.from_diffusers(tmp_path, dtype="stored")
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(jnp.bfloat16)}
    tokens = draw((2, 40))
    out = module.clone(dtype=jnp.bfloat16).apply({"params": params}, tokens.astype(np.int32))
    exact = embed(t5(), tokens)
    assert 0 < relative_error(out, exact) <= 2 * relative_error(embed(rounded, tokens), exact)


def test_other_kinds_of_t5_are_refused(tmp_path):
    t5(feed_forward_proj="relu").save_pretrained(tmp_path / "old")
    with pytest.raises(ConvertError, match="feed_forward_proj is 'relu'; supported: 'gated-gelu'"):
        convert.from_diffusers(tmp_path / "old")
    whole = transformers.T5ForConditionalGeneration(transformers.T5Config(**SIZES, feed_forward_proj="gated-gelu"))
    whole.save_pretrained(tmp_path / "whole")
    with pytest.raises(ConvertError, match=r"is of class T5ForConditionalGeneration; supported: .*T5EncoderModel"):
        convert.from_diffusers(tmp_path / "whole")


@pytest.fixture(scope="module", params=["trained here", "T5's own"])
def vocabulary(request, tmp_path_factory, repository):
    """The folder of a spiece.model."""
    folder = tmp_path_factory.mktemp("spiece")
    if request.param == "T5's own":
        path = repository.parent / "shared" / "tokenizer" / "spiece.model"
        if not path.is_file():
            pytest.skip(f"needs T5's vocabulary at {path}; put folder shared/tokenizer beside the repository")
        (folder / "spiece.model").write_bytes(path.read_bytes())
        return folder
    (folder / "text.txt").write_text("\n".join(CAPTIONS * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"), model_prefix=str(folder / "spiece"), vocab_size=200, bos_id=-1, pad_id=0,
        eos_id=1, unk_id=2, pad_piece="<pad>", hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    return folder


def test_tokenizer_matches_t5_tokenizer(vocabulary, tmp_path):
    """Ids, padding, truncation, the end token, special tokens in the text, odd spaces and characters."""
    theirs = transformers.T5Tokenizer.from_pretrained(vocabulary)
    theirs.save_pretrained(tmp_path)
    saved = (tmp_path / "tokenizer.json").read_bytes()
    for length in (226, 24, 2, 1):
        expected = theirs(CAPTIONS, max_length=length, padding="max_length", truncation=True)["input_ids"]
        ours = SentencePieceTokenizer(vocabulary / "spiece.model", length)
        np.testing.assert_array_equal(ours.encode(CAPTIONS), expected)
        # transformers saves the vocabulary in another container only.
        np.testing.assert_array_equal(
            SentencePieceTokenizer(spiece.from_json(saved), length).encode(CAPTIONS), expected
        )
    assert ours.vocab_size == len(theirs)


def test_tokenizer_matches_on_random_text(vocabulary):
    """Latin, Greek, Cyrillic, punctuation and symbols at random, spaces and special tokens between them."""
    theirs = transformers.T5Tokenizer.from_pretrained(vocabulary)
    ours = SentencePieceTokenizer(vocabulary / "spiece.model", 64)
    rng = np.random.default_rng(0)
    letters = [chr(i) for i in (*range(32, 127), *range(0xA0, 0x180), *range(0x391, 0x450), *range(0x2010, 0x2040))]
    letters += [" "] * 60 + ["<extra_id_7>", "</s>", "<pad>"]
    captions = ["".join(rng.choice(letters, rng.integers(1, 60))) for _ in range(500)]
    expected = theirs(captions, max_length=64, padding="max_length", truncation=True)["input_ids"]
    differ = (ours.encode(captions) != expected).any(axis=1)
    # sentencepiece adds scores in float32 and transformers in float64: where two orders of the same pieces have equal
    # scores ("...." is "..." and ".", or "." and "..."), rounding decides, in dense punctuation as here.
    np.testing.assert_array_equal(np.sort(ours.encode(captions)[differ]), np.sort(np.array(expected)[differ]))
    assert differ.mean() <= 0.01

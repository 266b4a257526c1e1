"""CLIP's preparation of pictures, its tokens, and what its networks see, without transformers."""

import jax
import numpy as np
import pytest
from clip_files import TINY, vocabulary
from PIL import Image

from motionv2v.models.features import byte_pairs, clip


@pytest.fixture(scope="module")
def network():
    module = clip.Clip(TINY, "quick_gelu")
    pictures, tokens = np.zeros((1, 32, 32, 3), np.uint8), np.zeros((1, 77), np.int32)
    return module, jax.jit(module.init)(jax.random.key(0), pictures, tokens)["params"]


def test_tokens_are_the_published_ones(weights):
    text = byte_pairs.load(weights / "bpe_simple_vocab_16e6.txt.gz")
    assert (text.start, text.end) == (49406, 49407)
    assert text.encode("a dog running") == [320, 1929, 2761]
    (tokens,) = text(["  A   Dog, running! "])
    assert tokens[:8].tolist() == [49406, 320, 1929, 267, 2761, 256, 49407, 49407] and tokens.shape == (77,)
    (long,) = text(["dog " * 100])
    assert long[0] == 49406 and (long[1:76] == 1929).all() and long[76] == 49407
    # Every byte there is can be said.
    assert text.encode("".join(map(chr, range(0x3000, 0x3100))))
    with pytest.raises(ValueError, match="3 pairs, expected CLIP's 48,894"):
        byte_pairs.BytePairs([("a", "b")] * 3)


def test_words_end_where_their_kind_does():
    text = byte_pairs.clean("  It's  &amp;lt;b&amp;gt; 2026: caf\u0065\u0301s'll x_y!? \n don't")
    assert text == "it's <b> 2026: cafés'll x_y!? don't"
    assert list(byte_pairs.words(text)) == [
        *("it", "'s", "<", "b", ">", "2", "0", "2", "6", ":", "cafés", "'ll", "x", "_", "y", "!?", "don", "'t")
    ]
    # An ending counts only where a word begins.
    assert list(byte_pairs.words("!'s ''s <|endoftext|>a")) == ["!'", "s", "''", "s", "<|endoftext|>", "a"]


def test_pairs_are_joined_in_the_order_of_the_vocabulary():
    """Not from left to right, and all places of a pair at once."""
    merges = [("b", "c"), ("a", "b"), ("a", "bc"), ("abc", "abc"), ("d", "d</w>")]
    text = byte_pairs.BytePairs(merges + [(f"\u2603{i}", "x") for i in range(48_894 - len(merges))])
    names = {token: name for name, token in text._ids.items()}
    said = lambda word: [names[token] for token in text.encode(word)]  # noqa: E731
    assert said("abcabcx") == ["abcabc", "x</w>"] and said("abab") == ["ab", "a", "b</w>"]
    assert said("ddd") == ["d", "dd</w>"] and said("bc") == ["b", "c</w>"]


def test_pictures_are_the_middle_at_the_shorter_side():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 50, 101, 3), np.uint8)
    found = clip.shorter_side(frames, 30)
    assert found.shape == (2, 30, 30, 3) and found.dtype == np.uint8
    whole = np.asarray(Image.fromarray(frames[1]).resize((60, 30), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(found[1], whole[:, 15:45])
    tall = clip.shorter_side(frames.swapaxes(1, 2), 30).swapaxes(1, 2).astype(int)
    assert tall.shape == found.shape and np.abs(tall - found).mean() < 0.5  # which pass is rounded first differs
    same = rng.integers(0, 256, (1, 30, 33, 3), np.uint8)
    np.testing.assert_array_equal(clip.shorter_side(same, 30), same[:, :, 2:32])  # 1.5 columns: to the even number
    np.testing.assert_array_equal(clip.vbench(same, 30), same[:, :, 2:32])


def test_vbenchs_pictures_skip_pixels_and_clips_do_not():
    """Stripes as fine as the pixels that shrink into one turn grey, or are gone."""
    frames = np.zeros((1, 128, 128, 3), np.uint8)
    frames[:, :, ::4] = 255
    smooth, skipped = (make(frames, 32)[:, 4:-4, 4:-4] for make in (clip.shorter_side, clip.vbench))
    assert 60 < smooth.min() <= smooth.max() < 68 and skipped.max() == 0


def test_features_do_not_depend_on_chunks_and_what_is_wrong_is_refused(network):
    pictures = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    whole = clip.picture_features(*network, pictures, chunk=5)
    assert whole.shape == (5, 32) and whole.dtype == np.float32
    for chunk in (1, 2, 100):
        np.testing.assert_allclose(clip.picture_features(*network, pictures, chunk=chunk), whole, rtol=0, atol=1e-5)
    for wrong in (pictures / 255, pictures[:, :30], pictures[:0]):
        with pytest.raises(ValueError, match=r"CLIP reads uint8 pictures \[T 32 32 3\]"):
            clip.picture_features(*network, wrong)


def test_a_text_is_read_up_to_its_first_end(network):
    text = vocabulary()
    tokens = text(["a dog", "a dog", "a cat"])
    tokens[1, 8:] = 7  # after its end
    found = clip.text_features(*network, tokens)
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=1e-5)
    assert np.abs(found[2] - found[0]).max() > 0.01

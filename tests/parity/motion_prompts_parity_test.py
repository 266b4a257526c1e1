"""Prompts written by a language model that transformers saved: one made here, with random weights."""

import json

import numpy as np
import pytest

from motionv2v.data.videos import generator_prompts

torch = pytest.importorskip("torch", reason="needs torch: pip install -e .[parity]")
transformers = pytest.importorskip("transformers", reason="needs transformers: pip install -e .[parity]")
tokenizers = pytest.importorskip("tokenizers", reason="needs tokenizers: pip install -e .[parity]")


def tiny_model(folder, chat):
    """A tiny random GPT-2, with a tokenizer of whole words, as transformers saves them."""
    words = sorted(set(" ".join([generator_prompts.INSTRUCTION, "a dog runs user spins slowly . , with the"]).split()))
    vocabulary = {word: index for index, word in enumerate(["<unk>", "<end>", *words])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<end>")
    if chat:
        fast.chat_template = "{% for message in messages %}{{ message['role'] }} {{ message['content'] }}{% endfor %}"
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = dict(vocab_size=len(vocabulary), n_positions=128, n_embd=16, n_layer=1, n_head=2)
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, eos_token_id=1)).save_pretrained(folder)


@pytest.mark.parametrize("chat", [False, True])
def test_prompts_from_a_language_model(tmp_path, chat):
    tiny_model(tmp_path, chat)
    write = generator_prompts.get(tmp_path)
    prompts = [write(np.random.default_rng(seed), "a dog runs") for seed in (0, 0, 1, 2, 3)]
    assert prompts[0] == prompts[1] and all(prompt and "\n" not in prompt for prompt in prompts)
    # The model answers in its own words, not in the grammar's.
    known = set(json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"])
    assert set(" ".join(prompts).split()) <= {word.strip(" \"'") for word in known} | known


def test_other_folders_are_not_language_models(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "nothing"}')
    with pytest.raises(ValueError, match="not a language model that transformers can load"):
        generator_prompts.get(tmp_path)

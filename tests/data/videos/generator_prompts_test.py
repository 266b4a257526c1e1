"""Prompts: whom a caption is about, what the grammar asks for, and files of prompts."""

import sys

import numpy as np
import pytest

from motionv2v.data.videos import generator_prompts


@pytest.mark.parametrize(
    ("caption", "subject"),
    [
        ("a dog runs on grass", "the dog"),
        ("two brown dogs running in snow", "the two brown dogs"),
        ("The man in a hat walks", "the man"),
        ("a white car drives through a parking lot", "the white car"),
        ("red disk, blue star, teal", "the red disk"),
        ("Big Buck Bunny looks around.", "Big Buck Bunny"),
        ("flower opening", "the flower"),
        ("juggle", "the juggle"),
        ("", "the subject"),
        ("on a sunny day", "the subject"),
        ("once upon midnight dreary pondered weak weary", "the subject"),
    ],
)
def test_subjects_of_captions(caption, subject):
    assert generator_prompts.subject(caption) == subject


def test_prompts_keep_the_caption_and_ask_for_many_motions():
    rng = np.random.default_rng(0)
    prompts = [generator_prompts.rewrite(rng, " a dog runs\n on grass. ") for _ in range(500)]
    assert all(prompt.startswith(("a dog runs on grass, with the dog ", "a dog runs on grass, while the camera "))
               for prompt in prompts)  # fmt: skip
    assert len(set(prompts)) > 200
    for motion in [
        *generator_prompts.CAMERA,
        *(text for group in generator_prompts.MOTIONS.values() for text in group),
    ]:
        assert any(motion in prompt for prompt in prompts), motion
    bare = [generator_prompts.rewrite(rng, "") for _ in range(50)]
    assert all(prompt.startswith(("the subject ", "the camera ")) for prompt in bare)


def test_same_rng_same_prompt():
    first, second = (generator_prompts.rewrite(np.random.default_rng(3), "a dog") for _ in range(2))
    assert first == second


def test_prompts_from_a_file(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("# motions\n\n{caption}, twirling\nmake him jump\n", encoding="utf-8")
    write = generator_prompts.get(path)
    drawn = {write(np.random.default_rng(seed), "a man {x}") for seed in range(20)}
    assert drawn == {"a man {x}, twirling", "make him jump"}


def test_sources_of_prompts_that_do_not_work_are_explained(tmp_path):
    assert generator_prompts.get() is generator_prompts.rewrite
    empty, binary = tmp_path / "empty.txt", tmp_path / "binary.txt"
    empty.write_text("# nothing\n")
    binary.write_bytes(b"\xff\xfe\x00\xd8\x81")
    with pytest.raises(ValueError, match="holds no prompts"):
        generator_prompts.get(empty)
    with pytest.raises(ValueError, match="not a readable text file"):
        generator_prompts.get(binary)
    with pytest.raises(ValueError, match="'grammar'"):
        generator_prompts.get(tmp_path / "nowhere.txt")
    with pytest.raises(ValueError, match=r"no config\.json"):
        generator_prompts.get(tmp_path)


def test_without_transformers_the_way_out_is_named(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match="pip install transformers torch"):
        generator_prompts.get(tmp_path)

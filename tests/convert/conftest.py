"""What several tests of published weights share."""

import pytest
import sentencepiece


@pytest.fixture(scope="session")
def spiece(tmp_path_factory):
    """A small vocabulary in T5's form, trained on a few lines."""
    folder = tmp_path_factory.mktemp("spiece")
    lines = [f"{size} {color} disk moves {way}" for size in ("a", "one") for color in ("red", "blue") for way in "lr"]
    (folder / "text.txt").write_text("\n".join(lines * 5))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"), model_prefix=str(folder / "spiece"), vocab_size=40, bos_id=-1, pad_id=0,
        eos_id=1, unk_id=2, hard_vocab_limit=False, pad_piece="<pad>", minloglevel=2,
    )  # fmt: skip
    return (folder / "spiece.model").read_bytes()

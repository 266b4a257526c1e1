"""Prompts for generated counterfactuals: the caption of a clip with another motion asked for.

The paper lets a language model write them ("make him twirl", section 3.2). Here a prompt writer is any function
(rng, caption) -> prompt; three are given: a grammar of motions that needs nothing (`rewrite`), the lines of a file
(`from_file`), and an instruction model on disk (`from_model`). `get` chooses one by a path. The caption is kept in the
prompt, because a video model needs to hear what there is to see.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from motionv2v.data.videos import captions

PromptWriter = Callable[[np.random.Generator, str], str]
"""(rng, caption) -> prompt."""

MOTIONS: dict[str, tuple[str, ...]] = {
    "travel": (
        "moving to the left",
        "moving to the right",
        "moving towards the camera",
        "moving away from the camera",
        "rising slowly upwards",
        "sinking downwards",
        "crossing the picture from one side to the other",
        "moving along a curve",
    ),
    "turn": (
        "turning around",
        "spinning on the spot",
        "twirling",
        "tilting to one side and back",
        "rolling over",
        "leaning forwards and straightening up again",
    ),
    "pace": (
        "stopping and standing still",
        "starting to move all of a sudden",
        "speeding up",
        "slowing down",
        "going back the way it came",
        "swaying from side to side",
        "jumping up and landing again",
        "shaking",
    ),
}
"""What the subject does, as participles: they agree with one and with many."""

CAMERA = (
    "the camera pans to the left",
    "the camera pans to the right",
    "the camera moves closer",
    "the camera moves back",
    "the camera circles around",
    "the camera rises",
    "the camera tilts down",
)

MANNERS = ("slowly", "quickly", "smoothly", "with a start", "again and again", "in one movement")

_ARTICLES = {"a", "an", "the", "this", "that", "these", "those", "some", "one", "two", "three", "several", "many"}
_ENDS_SUBJECT = set(
    "is are was were be being has have with without on in at of off over under by near next to from into onto along "
    "across through behind above below against around towards up down out and or but while as that which who whose "
    "where when then there".split()
)
_VERBS = set(
    "run walk jump stand sit lie lay play move turn spin drive fly swim ride roll fall climb dance swing wave talk "
    "look smile open close grow rotate travel cross pass float drift chase hold throw catch juggle eat drink sleep "
    "lean hang slide bounce flow burn shine rise sink wait work cook cut push pull carry race skate surf ski".split()
)


def rewrite(rng: np.random.Generator, caption: str) -> str:
    """Writes a prompt that keeps the caption and asks for another motion of its subject, of the camera, or of both.

    "a dog runs on grass" -> "a dog runs on grass, with the dog turning around slowly". Without a caption the prompt
    speaks of the subject.
    """
    caption = " ".join(caption.split()).rstrip(" .,;:!")
    motion = _motion(rng, caption)
    return f"{caption}, {motion}" if caption else motion.removeprefix("with ").removeprefix("while ")


def subject(caption: str) -> str:
    """Names whom a caption is about, with "the": its first words up to the first verb, preposition or comma.

    "two brown dogs running in snow" -> "the two brown dogs"; "the subject" where there is no such beginning.
    """
    first = re.split(r"[,.;:!?()\"]", caption.strip(), maxsplit=1)[0]
    words: list[str] = []
    for word in first.split():
        if words and _ends_subject(word.lower()):
            break
        words.append(word)
    while words and words[0].lower() in _ARTICLES - {"one", "two", "three", "several", "many"}:
        words.pop(0)
    nouns = [word for word in words if word.lower() not in _ARTICLES | _ENDS_SUBJECT]
    # A long beginning without an end is no noun phrase but a sentence that these lists do not know.
    if not nouns or len(words) > 5 or words[0].lower() in _ENDS_SUBJECT:
        return "the subject"
    if len(words) > 1 and all(word.istitle() for word in words):
        return " ".join(words)  # a name
    return "the " + " ".join([words[0].lower() if words[0].istitle() else words[0], *words[1:]])


def from_file(path: str | os.PathLike) -> PromptWriter:
    """Returns a writer that draws a line of a text file; `{caption}` in a line stands for the clip's caption.

    Empty lines and lines that begin with # are left out. Raises ValueError for a file without prompts, or one that is
    not text.
    """
    path = Path(path)
    try:
        lines = [line.strip() for line in captions.read(path)[0].splitlines()]
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not a readable text file of prompts ({error})") from None
    prompts = [line for line in lines if line and not line.startswith("#")]
    if not prompts:
        raise ValueError(f"{path}: holds no prompts; one a line is expected")
    return lambda rng, caption: prompts[rng.integers(len(prompts))].replace("{caption}", caption)


INSTRUCTION = (
    "A video shows: {caption}\n"
    "Write one sentence that describes the same scene with another motion: {motion}. Answer with that sentence only."
)
"""What an instruction model is asked; the motion is drawn from the grammar, so that answers differ."""


def from_model(path: str | os.PathLike, max_tokens: int = 60) -> PromptWriter:
    """Returns a writer that asks a local instruction model, a folder as transformers saves them.

    The model runs on the CPU, or where transformers puts it, and answers greedily: the same (rng, caption) gives the
    same prompt. An empty answer becomes the grammar's prompt. Raises ValueError for a folder that is no such model and
    where transformers is not installed.
    """
    path = Path(path)
    if not (path / "config.json").is_file():
        raise ValueError(f"{path}: not a folder of a transformers model (it has no config.json)")
    try:
        import transformers
    except ImportError:
        raise ValueError(f"{path}: prompts by a language model need `pip install transformers torch`") from None
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
        model = transformers.AutoModelForCausalLM.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(f"{path}: not a language model that transformers can load ({error})") from None

    def write(rng: np.random.Generator, caption: str) -> str:
        motion = _motion(rng, caption)
        asked = INSTRUCTION.format(caption=caption or "an unknown scene", motion=motion)
        if tokenizer.chat_template:
            message = [{"role": "user", "content": asked}]
            options = dict(add_generation_prompt=True, return_dict=True, return_tensors="pt")
            tokens = tokenizer.apply_chat_template(message, **options)
        else:
            tokens = tokenizer(asked, return_tensors="pt")
        inputs = {name: tokens[name] for name in ("input_ids", "attention_mask")}
        answer = model.generate(**inputs, max_new_tokens=max_tokens, do_sample=False)
        text = tokenizer.decode(answer[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return _first_sentence(text) or f"{caption}, {motion}".removeprefix(", ")

    return write


def get(source: str | os.PathLike = "grammar") -> PromptWriter:
    """Returns the prompt writer of a name or path: "grammar", a text file of prompts, a folder of a language model.

    Raises ValueError for anything else.
    """
    if str(source) == "grammar":
        return rewrite
    path = Path(source)
    if path.is_dir():
        return from_model(path)
    if path.is_file():
        return from_file(path)
    raise ValueError(f"no prompts at {path}: give a text file, a folder of a language model, or 'grammar'")


def _motion(rng: np.random.Generator, caption: str) -> str:
    """Draws a motion as a clause: "with the dog turning around, while the camera rises"."""
    action = f"{subject(caption)} {rng.choice(MOTIONS[str(rng.choice(list(MOTIONS)))])}"
    if rng.random() < 0.5:
        action += f" {rng.choice(MANNERS)}"
    camera, draw = str(rng.choice(CAMERA)), rng.random()
    if draw < 0.6:
        return f"with {action}"
    return f"while {camera}" if draw < 0.75 else f"with {action}, while {camera}"


def _ends_subject(word: str) -> bool:
    """Says whether a word cannot belong to a noun phrase any more: a verb form, a preposition, a conjunction."""
    stems = {word, word.removesuffix("s"), word.removesuffix("es"), word.removesuffix("ies") + "y"}
    return word in _ENDS_SUBJECT or bool(stems & _VERBS) or (word.endswith("ing") and len(word) > 5)


def _first_sentence(text: str) -> str:
    """Returns the first sentence of a model's answer, without quotation marks."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return re.split(r"(?<=[.!?])\s", line, maxsplit=1)[0].strip(" \"'")

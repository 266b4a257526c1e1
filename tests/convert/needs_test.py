"""What each kind of published model needs, told before its weights are read: memory, operations, seconds at a peak."""

import json

import moving_square
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from stream_test import make_pipeline, save_as_trained
from tiny_modules import CHAINED, MODULES

from motionv2v import convert, video
from motionv2v.convert import networks
from motionv2v.devices import fit, memory
from motionv2v.editing import animated, estimates, files, kinds, opening, refine

KINDS = ("text to video", "image to video", "Diffusion-as-Shader", "MotionV2V")


class Touched(Exception):
    """Weights were read."""


@pytest.fixture(scope="module")
def folders(spiece, tmp_path_factory):
    """A small folder of each kind, as diffusers or MotionV2V's code saves it."""
    place = tmp_path_factory.mktemp("published")
    made = {
        "text to video": make_pipeline(spiece),
        "image to video": make_pipeline(spiece, dit=MODULES["learned"]),
        "Diffusion-as-Shader": make_pipeline(spiece, dit=CHAINED.clone(in_channels=8)),
        "MotionV2V": make_pipeline(spiece, control=True, first_frames=True),
    }
    found = {kind: convert.pipeline_to_diffusers(each, place / kind.split()[0]) for kind, each in made.items()}
    save_as_trained(found["MotionV2V"])
    return {kind: str(folder) for kind, folder in found.items()}


@pytest.fixture
def edit(tmp_path, monkeypatch):
    """Start edits and animations from files; the weights end them with `Touched`."""
    video.write(tmp_path / "clip.mp4", moving_square.draw(), fps=8, crf=4)
    x, y = (float(side) + 10 for side in moving_square.corners()[0])
    drag = {"op": "drag", "points": [0], "start": [x, y], "end": [x + 9, y]}
    (tmp_path / "edit.json").write_text(json.dumps({"queries": [[0, x, y]], "operations": [drag]}))
    Image.fromarray(moving_square.draw()[0]).save(tmp_path / "photo.png")
    moves = {"motions": [{"type": "drag", "path": [[x, y], [x + 9, y]], "grid": 2, "spacing": 4}]}
    (tmp_path / "motion.json").write_text(json.dumps(moves))

    def touch(*rest, **named):
        raise Touched

    monkeypatch.setattr(networks, "load", touch)

    def start(folder, animates=False, **options):
        said = []
        given = ("photo.png", "motion.json") if animates else ("clip.mp4", "edit.json")
        run = animated.run if animates else files.run
        with pytest.raises((Touched, ValueError)) as error:
            run(
                *(tmp_path / name for name in given),
                checkpoint=folder,
                out=tmp_path / "out",
                say=said.append,
                **options,
            )
        return said, error.value

    return start


@pytest.mark.parametrize(("kind", "animates"), [*((kind, False) for kind in KINDS), ("Diffusion-as-Shader", True)])
def test_an_edit_says_what_it_needs_before_weights_are_read(folders, edit, kind, animates, monkeypatch):
    said, error = edit(folders[kind], animates, num_steps=4, guidance=3.0)
    assert isinstance(error, Touched), error
    told = [
        line for line in said if line.startswith(("memory  for sample: ", "memory  for the weights", "cost    of "))
    ]
    assert len(told) == 3 and " calls of the transformer, " in told[2] and " TFLOP/s, stated for " in told[2]
    # What does not fit is one line, and nothing is read either.
    for name, broken in (("weights_bytes", lambda *rest: 1e15), ("capacity", lambda device=None: 1e5)):
        with monkeypatch.context() as patch:
            patch.setattr(fit, name, broken)
            _, error = edit(folders[kind], animates)
        assert isinstance(error, ValueError) and "need" in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("kind", KINDS)
def test_needs_are_those_of_what_the_model_does(folders, kind):
    found = estimates.needs(folders[kind], 5)
    is_base = opening.refines(folders[kind])
    config = refine.described(folders[kind])[0] if is_base else kinds.as_method(*kinds.described(folders[kind]))
    weights = memory.stored_bytes(memory.sampling_shapes(config), memory.abstract_mesh({}))
    assert found["fits"] and found["needed"] > 0 and found["host"] * 2**30 > weights
    assert found["cost"].startswith(f"{found['calls']} calls of the transformer, ") and found["least"] > 0
    assert 0 < estimates.needs(folders[kind], 5, 10)["calls"] < found["calls"]  # what is asked for, in place of its own
    twice = estimates.needs(folders[kind], 5 * found["frames"])
    assert twice["operations"] == pytest.approx(found["operations"] * twice["windows"]) and twice["windows"] > 1
    if kind == "image to video":  # a draft at a tenth of the signal is some steps on its way
        whole = estimates.needs(folders[kind], 5, refines=False)
        assert whole["calls"] > found["calls"] and whole["needed"] == found["needed"]


def test_updates_kept_apart_are_part_of_it(folders, tmp_path):
    name, width = "transformer_blocks.0.attn1.to_q", MODULES["learned"].num_heads * MODULES["learned"].head_dim
    for rank in (2, 3):
        halves = {"lora_A": np.ones((rank, width)), "lora_B": np.ones((width, rank))}
        halves = {f"transformer.{name}.{half}.weight": value.astype(np.float32) for half, value in halves.items()}
        save_file(halves, tmp_path / f"{rank}.safetensors")
    loras = [str(tmp_path / "2.safetensors"), f"{tmp_path / '3.safetensors'}:0.5"]
    plain, apart = (estimates.needs(folders["image to video"], 5, loras=each) for each in ([], loras))
    numbers = MODULES["learned"].num_layers * 2 * width * 5  # of both together the rank is five, in every block
    assert apart["host"] - plain["host"] == pytest.approx(4 * numbers / 2**30)
    tokens = (apart["operations"] - plain["operations"]) / plain["calls"] / 2 / numbers
    assert tokens == pytest.approx(round(tokens)) and tokens > MODULES["learned"].text_length

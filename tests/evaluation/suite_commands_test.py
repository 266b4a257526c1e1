"""What launch/evaluate.py does with its commands on suites: the page's own, and those that are refused."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import tiny_model
from launching import launch
from suite_test import STEPS, draw

from motionv2v import video

PAGE = Path(__file__).parents[2] / "motionv2v" / "evaluation" / "suite.md"
SHORT = ["--num_frames=5", "--size=64x96", "--tracker=lk"]
"""What is added to a command so that it takes seconds."""


def commands():
    """List the words of the page's commands."""
    (block,) = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return [shlex.split(line)[2:] for line in block.splitlines()]


def run(folder, *words):
    return launch("evaluate", *words, cwd=folder, MOTIONV2V_CACHE="off")


def test_the_commands_of_the_page(tmp_path):
    for name, step in STEPS.items():
        video.write(tmp_path / "my_videos" / f"{name}.mp4", draw(step), fps=8, lossless=True)
    (tmp_path / "my_videos" / "broken.mp4").write_bytes(b"no video at all")
    listing, build, make, export, score, ask, count, compare = commands()
    done = run(tmp_path, *listing)
    assert done.returncode == 0, done.stderr
    assert re.search(r"follow_epe +mean distance", done.stdout)
    assert re.search(r"--weights \(not here: .*alexnet-owt-7be5be79.pth.*:\n  lpips +LPIPS v0.1", done.stdout)
    assert re.search(r"--weights \(not here: .*ViT-B-32.pt.*:\n  clip_text +mean cosine", done.stdout)
    assert re.search(r"\(not here: I3D needs its file: put i3d_torchscript.pt .*\):\n  fvd_tf +FVD", done.stdout)
    assert re.search(r"\(not here: Inception .* pt_inception-2015-12-05.*\):\n  fid_pytorch +FID", done.stdout)
    assert "  --benchmark=synthetic|motionv2v|" in done.stdout and "|motion_inversion\n" in done.stdout
    done = run(tmp_path, *build, *SHORT)
    assert done.returncode == 0, done.stderr
    assert "3 items in suites/mine, 1 videos left out:\n  broken: " in done.stdout
    item = tmp_path / "suites" / "mine" / "items" / "left"
    target = video.read(item / "target.mp4")
    video.write(tmp_path / "outputs" / "mine" / "left.mp4", target)
    assert json.loads((item.parents[1] / "manifest.json").read_text())["min_hidden"] == 0
    tiny_model.save(tmp_path / "my_model", num_frames=5, size=(64, 96))
    done = run(tmp_path, *make[:-1], "--checkpoint=my_model", "--num_steps=1", "--views=1")
    assert done.returncode == 0 and "3 videos made in outputs/my_model\n" in done.stdout, done.stderr
    assert len(list((tmp_path / "outputs" / "my_model" / "right").iterdir())) == 5
    done = run(tmp_path, *export)
    assert done.returncode == 0 and "3 items in for_wan_move for wan_move" in done.stdout, done.stderr
    assert len(list((tmp_path / "for_wan_move" / "MoveBench" / "en" / "track" / "single").iterdir())) == 2 * 3
    done = run(tmp_path, *score, "--json=all.json", "--metrics=psnr,follow_epe")
    assert done.returncode == 0, done.stderr
    assert "| | psnr (dB) ↑ | follow_epe (px) ↓ |" in done.stdout
    assert "\n| mine | " in done.stdout and "\n| my_model | " in done.stdout
    assert "Of 3 items of the suite, 1 are scored" in done.stdout
    assert "wrote outputs/scores/scores.html, .md, .csv and .json" in done.stdout
    content = json.loads((tmp_path / "all.json").read_text())
    assert content == json.loads((tmp_path / "outputs" / "scores" / "scores.json").read_text())
    (psnr,) = (e["value"] for e in content["scores"] if (e["row"], e["metric"]) == ("mine", "psnr"))
    assert 20 < psnr < 60
    video.write(tmp_path / "outputs" / "other" / "left.mp4", target.frames // 2, fps=8)
    done = run(tmp_path, *ask)
    assert done.returncode == 0, done.stderr
    assert "1 pairs: hand out study/sheet, open its index.html; keep study/key.json" in done.stdout
    key = json.loads((tmp_path / "study" / "key.json").read_text())["pairs"]["p001"]
    side = "left" if key["left"] == "mine" else "right"
    empty = (tmp_path / "study" / "sheet" / "answers.csv").read_text()
    (tmp_path / "ann.csv").write_text(empty.replace("content,", f"content,{side}"))
    (tmp_path / "bob.csv").write_text(empty.replace("motion,", f"motion,{side}"))
    done = run(tmp_path, *count)
    assert "| content | mine | other | 100% | 21% to 100% | 1 |" in done.stdout, done.stderr
    own = ["--outputs=outputs/mine", "--outputs=outputs/other", "--metric=psnr", "--nodraft"]
    done = run(tmp_path, *score[:-1], *own)
    assert done.returncode == 0 and "wrote outputs/scores/scores.html" in done.stdout, done.stderr
    assert "\n| mine | " in done.stdout and "\n| other | " in done.stdout and "my_model" not in done.stdout
    (tmp_path / "empty").mkdir()
    done = run(tmp_path, *score[:-1], "--outputs=empty")
    assert (
        done.returncode == 2 and "empty: no method has a folder there; expected such as METHOD/down.mp4" in done.stderr
    )
    rng = np.random.default_rng(0)
    for name in ("made", "true"):
        np.save(tmp_path / f"{name}.npy", rng.normal(size=(16, 4)))
    done = run(tmp_path, *compare)
    assert done.returncode == 0 and re.search(r"mmd_poly +[\d.]+", done.stdout), done.stderr
    done = run(tmp_path, *build, *SHORT[:1], "--size=32x48")
    assert done.returncode == 2 and "was built with size [64, 96], now [32, 48]" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["scor"], "unexpected argument 'scor'; available: build, make, score, export, study, features, list"),
        (["score", "list"], "unexpected argument 'list'; available: build, make, score, export, study, features, list"),
        (["score", "--suite=."], "evaluate: --outputs is missing"),
        (["build", "--videos=."], "evaluate: --out is missing"),
        (["build", "--videos=.", "--suite=s", "--out=t"], "evaluate: --suite and --out both name the suite's folder"),
        (["score", "--checkpoint=tiny"], "evaluate: score takes no --checkpoint, which would do nothing; its flags"),
        (["list", "--benchmark=tapvid"], "evaluate: list takes no --benchmark, which"),
        (["--benchmark=tapvid", "--jitter=1"], "evaluate: --benchmark=tapvid takes no --jitter, which"),
        (["make", "--suite=.", "--outputs=a", "--outputs=b"], "evaluate: make takes one folder for the folders of all"),
        (["export", "--suite=."], "evaluate: --format is missing"),
        (["study", "--suite=.", "--out=s", "--outputs=a"], "evaluate: . holds no manifest.json"),
        (["score", "--suite=.", "--outputs=a", "--outputs=b"], "evaluate: . holds no manifest.json"),
        (
            ["build", "--videos=.", "--suite=s", "--size=64"],
            "evaluate: --size is HEIGHTxWIDTH, such as 480x720, given 64",
        ),
        (["score", "--suite=.", "--outputs=."], "evaluate: . holds no manifest.json"),
    ],
)
def test_a_wrong_command_is_told_in_a_line(tmp_path, words, message):
    done = run(tmp_path, *words)
    assert done.returncode != 0 and message in done.stdout + done.stderr
    assert "Traceback" not in done.stderr and not list(tmp_path.iterdir())

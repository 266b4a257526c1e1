"""Every page: its commands are run here or say what they need, its links lead somewhere, and none is long.

What stands before a fenced block of bash or Python, as a comment that readers of the page do not see, says what becomes
of it here:

    nothing                            run in every run of the tests
    <!-- slow -->                      run with -m slow, after the blocks above it on its page
    <!-- needs: WHAT -->               not run; WHAT is missing where tests run: weights, a GPU, an hour
    <!-- run by: tests/x_test.py -->   run by that test, which names the same scripts
    <!-- tests -->, <!-- parity -->    run by .ci/run

Blocks run as they stand, in a folder where `.venv/bin/python` is this Python, which adds options that keep a command
short, and where the files lie that the pages speak of. Programs, flags and fields of configs that the pages name must
exist, also where nothing is run.
"""

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest

from motionv2v import video
from motionv2v.edits import document

ROOT = Path(__file__).parents[1]
FOLDERS = ("motionv2v", "launch", "configs", "benchmarks", "colab", "tests")
PAGES = [ROOT / "README.md", *sorted(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))]
CHECKED_FLAGS = ("launch", "benchmarks")

SHORT = {
    "edit.py": "--views=1",
    "evaluate.py": "--num_pairs=2 --views=1",
    "prepare.py": "--num_workers=1 --num_samples=2",
    "train.py": "--config.train.steps=1 --config.train.batch_size=2 --config.train.probe_every=0",
}
"""What is added to a command so that it takes seconds; the last flag of a name counts."""

WRAPPER = """#!/usr/bin/env bash
[ "$1 $2" = "-m venv" ] && exit
case "$1" in
{cases}
esac
exec {python} "$@"
"""


class Block(NamedTuple):
    """A fenced block: its page, the line it begins in, its language, its text, and the comment before it."""

    page: Path
    line: int
    language: str
    text: str
    mark: str

    def __str__(self):
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@cache
def blocks(page):
    found, opened, before = [], None, ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = re.match(r"\s*```(\w*)\s*$", line)
        if fence and opened is None:
            mark = re.search(r"<!-- (.*?) -->\s*$", before)
            opened = (number, fence[1], [], mark[1] if mark else "")
        elif fence:
            start, language, lines, mark = opened
            found.append(Block(page, start, language, "\n".join(lines) + "\n", mark))
            opened, before = None, ""
        elif opened is not None:
            opened[2].append(line)
        elif line.strip():
            before = line
    assert opened is None, f"{page}: a block is not closed"
    return found


ALL = [block for page in PAGES for block in blocks(page)]
COMMANDS = [block for block in ALL if block.language in ("bash", "sh", "shell", "python")]


def is_indented_sketch(block):
    """A method's record within a list of steps is no command; tests/throwaway_method.py is such a method."""
    return block.text.startswith("   ")


def commands(text):
    """List the commands of a text that start one of this project's programs, each as its words."""
    found = []
    for part in re.findall(
        rf"(?:\S*python3? )?(?:{'|'.join(CHECKED_FLAGS)})/\w+\.py[^\n|&`]*", text.replace("\\\n", " ")
    ):
        words = shlex.split(part.split("  #")[0])
        while not words[0].endswith(".py"):
            words.pop(0)
        found.append(words)
    return found


def inline_code(page):
    """Yield what stands between backticks outside blocks; a line may break in it."""
    text = re.sub(r"^\s*```.*?^\s*```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for code in re.findall(r"`([^`]+)`", text):
        yield " ".join(code.split())


@cache
def flags(script):
    text = (ROOT / script).read_text(encoding="utf-8")
    if script.startswith("benchmarks/"):  # they share their options
        text += "".join(path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").glob("*.py"))
    elsewhere = {"launch/evaluate.py": "evaluation/commands.py", "launch/edit.py": "editing/options.py"}
    if script in elsewhere:
        text += (ROOT / "motionv2v" / elsewhere[script]).read_text(encoding="utf-8")
    return set(re.findall(r"(?:DEFINE_\w+|add_argument)\(\s*\"(?:--)?([\w-]+)\"", text)) | {"verbosity", "help"}


def has_field(config, path):
    for name in path:
        if name not in config:
            return False
        config = config[name]
    return True


def check_command(words):
    """Say what is wrong with a command that starts one of the project's programs; "" if nothing is."""
    script, *options = words
    if not (ROOT / script).is_file():
        return f"there is no {script}"
    given = [word.lstrip("-").split("=")[0] for word in options if word.startswith("--")]
    config = next((word.split("=")[1] for word in options if word.startswith("--config=")), "")
    for name in given:
        if name.startswith("config."):
            if config:
                made = importlib.import_module(config.removesuffix(".py").replace("/", ".")).get_config()
                if not has_field(made, name.split(".")[1:]):
                    return f"{config} has no field {name.removeprefix('config.')}"
        elif name not in flags(script):
            return f"{script} has no flag --{name}"
    return ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_programs_flags_and_fields_exist(page, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    texts = [block.text for block in blocks(page) if block.language != "json"] + list(inline_code(page))
    found = [(command, wrong) for text in texts for command in commands(text) if (wrong := check_command(command))]
    assert found == []


def unknown_fields(config):
    """List the fields that a config file's own docstring sets on the command line, and that a flag cannot set."""
    module = importlib.import_module(f"configs.{config}")
    named = re.findall(r"--config\.([a-z_0-9.]+)", module.__doc__)
    return [name for name in named if not has_field(module.get_config(), name.strip(".").split("."))]


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda path: path.stem)
def test_what_a_config_tells_to_set_can_be_set(path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    assert path.stem == "common" or unknown_fields(path.stem) == []


def test_a_wrong_command_is_seen(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    (words,) = commands(".venv/bin/python launch/edit.py --vido=a.mp4  # a clip\n")
    assert words == ["launch/edit.py", "--vido=a.mp4"] and check_command(words) == "launch/edit.py has no flag --vido"
    assert check_command(["launch/redit.py"]) == "there is no launch/redit.py"
    typo = ["launch/train.py", "--config=configs/vae_tiny.py", "--config.train.step=3"]
    assert check_command(typo) == "configs/vae_tiny.py has no field train.step"


@pytest.mark.parametrize("block", COMMANDS, ids=str)
def test_a_block_is_run_or_says_what_it_needs(block):
    kind, _, rest = block.mark.partition(": ")
    assert kind in ("", "slow", "needs", "run by", "tests", "parity"), f"{block} is marked {block.mark!r}"
    if kind == "needs":
        assert rest.strip(), f"{block}: of what?"
    elif kind == "run by":
        test = (ROOT / rest).read_text(encoding="utf-8")
        scripts = {Path(words[0]).name for words in commands(block.text)}
        assert scripts and all(name in test for name in scripts), f"{rest} does not run {scripts}"
    elif kind in ("tests", "parity"):
        assert f"<!-- {kind} -->" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_snippets_in_sentences_are_written_as_blocks(page):
    """Only blocks are run."""
    assert [code for code in inline_code(page) if " -c " in code] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert [link for link in links if not (page.parent / link.split("#")[0]).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_pages_name_exist(page):
    """`motionv2v/x.py` or `tests/x_test.py` in a sentence is a path from the root."""
    named = {re.match(rf"(?:{'|'.join(FOLDERS)})/[\w/.]*\w(?=$| )", code) for code in inline_code(page)} - {None}
    named = {found[0] for found in named if "." in Path(found[0]).name and "NAME" not in found[0]}
    assert sorted(name for name in named if not (ROOT / name).exists()) == []


def test_pages_are_short():
    """A page of the package: tests/conventions_test.py."""
    lines = {
        page: len(page.read_text(encoding="utf-8").splitlines())
        for page in (ROOT / "README.md", ROOT / "launch/README.md")
    }
    assert lines[ROOT / "README.md"] <= 150 and lines[ROOT / "launch/README.md"] <= 60


def test_front_page_leads_to_every_page():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rooms = [page for page in PAGES[1:] if len(page.relative_to(ROOT).parts) <= 3]
    assert [str(page.relative_to(ROOT)) for page in rooms if f"({page.relative_to(ROOT).as_posix()})" not in text] == []


def film(path, seed, num_frames=60, size=(272, 480)):
    """Write a film of a smooth picture in which a textured square wanders, panned by a camera."""
    rng = np.random.default_rng(seed)
    height, width = size
    wide = cv2.resize(rng.integers(0, 256, (24, 48, 3), np.uint8), (2 * width, height), interpolation=cv2.INTER_CUBIC)
    patch = cv2.resize(rng.integers(0, 256, (12, 12, 3), np.uint8), (96, 96), interpolation=cv2.INTER_CUBIC)
    frames = []
    for t in range(num_frames):
        frame = wide[:, 2 * t : 2 * t + width].copy()
        y, x = int(88 + 60 * np.sin(t / 9)), int(192 + 120 * np.cos(t / 13))
        frame[y : y + 96, x : x + 96] = patch
        frames.append(frame)
    video.write(path, np.stack(frames), fps=12)


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """Return a function that runs blocks as a reader does who has cloned the repository and has some clips."""
    for name in (*FOLDERS, "setup.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    cases = "\n".join(f'  */{script} | {script}) set -- "$@" {added} ;;' for script, added in SHORT.items())
    tools = tmp_path / ".venv" / "bin"
    tools.mkdir(parents=True)
    (tools / "python").write_text(WRAPPER.format(cases=cases, python=shlex.quote(sys.executable)))
    (tools / "pip").write_text("#!/bin/sh\n")
    for name in ("python", "pip"):
        (tools / name).chmod(0o755)
    (tools / "python3").symlink_to("python")
    (tmp_path / "my_videos").mkdir()
    (edit,) = (block for block in blocks(ROOT / "README.md") if block.language == "json")
    (tmp_path / "edit.json").write_text(edit.text)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("MOTIONV2V_CACHE", "off")

    def run(chosen):
        printed, text = "", "".join(block.text for block in chosen)
        for seed, name in enumerate(("dog.mp4", "any.mp4", "my_videos/dog.mp4", "my_videos/cat.mp4")):
            if name.split("/")[0] in text:
                film(tmp_path / name, seed)
        for block in chosen:
            script = tmp_path / ("block.py" if block.language == "python" else "block.sh")
            script.write_text(block.text)
            command = [tools / "python", script] if block.language == "python" else ["bash", "-eo", "pipefail", script]
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1800, check=False)
            assert done.returncode == 0, f"{block}: {done.stdout[-2000:]}{done.stderr[-3000:]}"
            printed += done.stdout
        return tmp_path, printed

    return run


QUICK = [block for block in COMMANDS if block.mark == "" and not is_indented_sketch(block)]
SLOW = {
    page: [block for block in blocks(page) if block in COMMANDS and block.mark in ("", "slow")]
    for page in PAGES
    if any(block.mark == "slow" for block in blocks(page))
}


@pytest.mark.parametrize("block", QUICK, ids=str)
def test_block_runs(block, reader):
    folder, printed = reader([block])
    assert printed.strip()
    if "launch/edit.py" in block.text:
        made = {path.name for path in (folder / "outputs").iterdir()}
        assert made == {"edited.mp4", "record.json", "comparison.mp4", "contact_sheet.png"}
        assert "follow_epe" in printed


@pytest.mark.slow
@pytest.mark.parametrize("page", SLOW, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_runs_from_its_first_block_to_its_last(page, reader):
    _, printed = reader(SLOW[page])
    assert printed.strip()


def test_the_edit_of_the_front_page_is_an_edit():
    (block,) = (block for block in blocks(ROOT / "README.md") if block.language == "json")
    assert len(document.parse(json.loads(block.text)).queries) == 2

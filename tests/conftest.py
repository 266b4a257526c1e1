"""Check shapes and types of the package's annotations while the tests run, and find the real clips."""

import functools
import importlib
import os
import shutil
import tempfile
from pathlib import Path

import compiling
import pytest
from jaxtyping import install_import_hook

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", compiling.flags())
install_import_hook("motionv2v", "beartype.beartype")

REPOSITORY = Path(__file__).parents[1]
CACHE = "JAX_COMPILATION_CACHE_DIR"


def pytest_configure(config: pytest.Config) -> None:
    """Let what one test compiled serve the others, in all processes of the run; workers find the folder as we do."""
    if CACHE not in os.environ:
        config.add_cleanup(functools.partial(shutil.rmtree, folder := tempfile.mkdtemp(), ignore_errors=True))
        os.environ |= {CACHE: folder, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3"}


@pytest.fixture
def repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the same pictures be written as the same videos, as x264 does not of itself."""
    monkeypatch.setattr(importlib.import_module("motionv2v.video"), "X264", ("mbtree=0",))


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def clips() -> Path:
    folder = REPOSITORY.parent / "shared" / "clips"
    if not folder.is_dir():
        pytest.skip(f"needs the real clips in {folder}; put folder shared/clips beside the repository to run it")
    return folder


@pytest.fixture(scope="session")
def weights() -> Path:
    folder = REPOSITORY.parent / "shared" / "weights"
    if not folder.is_dir():
        pytest.skip(
            f"needs the published weights in {folder}; put folder shared/weights beside the repository to run it"
        )
    return folder

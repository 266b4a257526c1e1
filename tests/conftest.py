"""Check shapes and types of the package's annotations while the tests run, and find the real clips."""

import functools
import os
import shutil
import tempfile
from importlib import metadata
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Two cores, many small programs: optimising code that runs once would be half of the suite's time. The older emitters of
# fused operations write code that is no slower at these sizes, and take a third of the time to write it. A flag that XLA
# does not know ends the process, so the one that may go is given only to the versions that were seen to have it.
OLDER_EMITTERS = " --xla_cpu_use_fusion_emitters=false" if metadata.version("jaxlib").startswith("0.10.") else ""
os.environ.setdefault(
    "XLA_FLAGS", f"--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true{OLDER_EMITTERS}"
)

import pytest
from jaxtyping import install_import_hook

install_import_hook("motionv2v", "beartype.beartype")

REPOSITORY = Path(__file__).parents[1]
CACHE = "JAX_COMPILATION_CACHE_DIR"


def pytest_configure(config: pytest.Config) -> None:
    """Let what one test compiled serve the others, in all processes of the run; workers find the folder as we do."""
    if CACHE not in os.environ:
        config.add_cleanup(functools.partial(shutil.rmtree, folder := tempfile.mkdtemp(), ignore_errors=True))
        os.environ |= {CACHE: folder, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3"}


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def clips() -> Path:
    folder = REPOSITORY.parent / "shared" / "clips"
    if not folder.is_dir():
        pytest.skip(f"needs the real clips in {folder}; put folder shared/clips beside the repository to run it")
    return folder

"""Launchers as a person starts them, without the seconds that each fresh Python takes to import jax and its kin.

One process per worker of the tests has imported them and waits; a start is a fork of it, with its own arguments,
folder, environment and output. Nothing of the package is imported beforehand, and no device is looked for.
"""

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]

SERVER = """
import json, os, runpy, sys
import cv2, flax.linen, grain, jax, ml_collections, optax, orbax.checkpoint  # without a thread of their own

for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child == 0:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()
for number, path in enumerate((os.devnull, job["stdout"], job["stderr"])):
    os.dup2(os.open(path, os.O_RDWR), number)
os.chdir(job["cwd"])
os.environ.update(job["env"])
sys.argv, sys.path[0] = job["argv"], os.path.dirname(job["argv"][0])
runpy.run_path(job["argv"][0], run_name="__main__")
"""


@functools.cache
def _server() -> subprocess.Popen:
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "JAX_PLATFORMS": "cpu"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    server = subprocess.Popen([sys.executable, "-c", SERVER], env=env, **pipes)
    atexit.register(server.kill)
    return server


def launch(name: str, *arguments: object, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess:
    """Run launch/NAME.py with its arguments in a folder; return exit code and what it printed."""
    argv = [str(ROOT / "launch" / f"{name}.py"), *map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        paths = {said: Path(folder) / said for said in ("stdout", "stderr")}
        for path in paths.values():
            path.touch()
        job = {"argv": argv, "cwd": str(cwd), "env": env} | {said: str(path) for said, path in paths.items()}
        print(json.dumps(job), file=_server().stdin, flush=True)
        code = int(_server().stdout.readline())
        return subprocess.CompletedProcess(argv, code, *(path.read_text() for path in paths.values()))

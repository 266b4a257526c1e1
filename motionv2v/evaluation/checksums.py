"""Checksums of files that are read once: a hundred videos without loss are gigabytes, and seconds of every run."""

import json
import time
from pathlib import Path

from motionv2v import files

SETTLED = 2.0
"""Seconds after which a file that was written is taken to be whole: within a file system's tick it may change again."""


class Checksums:
    """SHA-256 of files, kept in a file from run to run, for as long as their place, size and time of change stay."""

    def __init__(self, path: Path):
        """Take the file that they are kept in; where it is not there or not whole, nothing is known."""
        self._path, self._found = path, {}
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = {}
        self._known = known if isinstance(known, dict) else {}

    def of(self, path: str | Path) -> str:
        """Return the SHA-256 of a file. Raises OSError where it cannot be read."""
        place, told = str(Path(path).resolve()), Path(path).stat()
        stamp = [told.st_size, told.st_mtime_ns, told.st_ino]
        known = self._known.get(place)
        if isinstance(known, list) and known[:-1] == stamp:
            self._found[place] = known
            return known[-1]
        # Before it is read: what is written meanwhile, within a tick of the stamp, goes unseen for ever.
        is_settled = time.time() - told.st_mtime > SETTLED
        digest = files.sha256(path)
        if is_settled:
            self._found[place] = [*stamp, digest]
        return digest

    def save(self) -> None:
        """Keep those that were asked for since the file was read, and no others."""
        files.write(self._path, json.dumps(self._found))

"""The editor: `editing.load(name)` gives one, which edits clips; from files to files is `files.run`."""

from motionv2v.editing.editor import MAX_ADVISED_POINTS, Editor, check_config, check_tracks, load

__all__ = ["MAX_ADVISED_POINTS", "Editor", "check_config", "check_tracks", "load"]

"""The editor: `editing.load(name)` gives one, which edits clips; from files to files is `files.run`."""

from typing import Any

__all__ = ["MAX_ADVISED_POINTS", "Editor", "check_config", "check_tracks", "load"]


def __getattr__(name: str) -> Any:
    """Load the editor, and jax with it, when it is first asked for: drafts and previews need neither."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from motionv2v.editing import editor

    return getattr(editor, name)

"""The draft: an edit drawn from the clip's own pixels, without a network, in seconds.

`render` is the entry. `Prepared` keeps what does not depend on the edit.
"""

from motionv2v.draft.clip import Prepared
from motionv2v.draft.compose import Draft, render

__all__ = ["Draft", "Prepared", "render"]

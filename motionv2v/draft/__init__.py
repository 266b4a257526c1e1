"""The draft: an edit drawn from the clip's own pixels, without a network, in seconds.

`render` is the entry; `plan` draws frames when they are asked for. `Prepared` keeps what does not depend on the edit. A
`Hint` is what a person says of where a thing is.
"""

from motionv2v.draft.clip import Prepared
from motionv2v.draft.compose import Draft, Drawing, find_masks, of_sample, plan, render
from motionv2v.draft.given import Hint, Stroke

__all__ = ["Draft", "Drawing", "Hint", "Prepared", "Stroke", "find_masks", "of_sample", "plan", "render"]

"""Flags of launch/edit.py that say how a model edits; the draft has none of them."""

from typing import Any

from absl import flags

STEPS = flags.DEFINE_integer("num_steps", None, "denoising steps; default: model's", lower_bound=1, upper_bound=1000)
GUIDANCE = flags.DEFINE_float("guidance", None, "text guidance scale, 1 is off; default: the model's", lower_bound=0.0)
CACHE = flags.DEFINE_float("step_cache", None, "skip steps that change less, such as 0.1; 0 is off", lower_bound=0.0)
VIEWS = flags.DEFINE_enum("views", None, ["1", "2", "4", "8"], "average that many views of a clip; default: model's")
CLOCKS = flags.DEFINE_string("clocks", None, "of a base that refines the draft: weak,strong shares of signal")
LORA = flags.DEFINE_multi_string("lora", [], "merged into a base that refines the draft: FILE or FILE:weight")
WARPED = flags.DEFINE_float("warped_noise", None, "of such a base: noise that moves as the draft; share of fresh, 0.5")
SIGNALS = flags.DEFINE_string(
    "time_to_move", None, "of such a base, in place of --video: folder of first_frame.png, motion_signal.mp4, mask.mp4"
)
DEPTH = flags.DEFINE_string("depth", None, "of the clip, for Diffusion-as-Shader: .npy, or the folder of a depth model")
INVERSE = flags.DEFINE_bool("inverse_depth", False, "the array of --depth holds inverse depths")
DEVICES = flags.DEFINE_integer("devices", 1, "how many share one edit, where a model is too big for one; -1: all")
SEED = flags.DEFINE_integer("seed", None, "random seed; default: the edit's", lower_bound=0)


_OF_MODELS = [STEPS, GUIDANCE, CACHE, VIEWS, CLOCKS, LORA, WARPED, DEPTH, INVERSE, DEVICES, SEED]
_UNREAD = {"points": ("edit", "masks", "box", "checkpoint"), "preview": ("checkpoint",)}


def given() -> dict[str, Any]:
    """Return the flags' values as arguments of `files.run`.

    Raises ValueError where two of them name what is edited, or what is done, and for flags that nothing would read.
    """
    if SIGNALS.value and (
        others := [name for name in ("video", "batch", "preview", "points") if flags.FLAGS[name].value]
    ):
        raise ValueError(f"--time_to_move names the clip itself: leave --{others[0]} out")
    looks = [name for name in _UNREAD if flags.FLAGS[name].value]
    if len(looks) > 1:
        raise ValueError("--points and --preview do one thing each: choose one")
    for look in looks:
        names = [name for name in (*_UNREAD[look], *(flag.name for flag in _OF_MODELS)) if flags.FLAGS[name].present]
        if names:
            raise ValueError(f"--{look} does not read --{names[0]}: leave it out")
    views = VIEWS.value and int(VIEWS.value)
    found = {"num_steps": STEPS.value, "guidance": GUIDANCE.value, "cache": CACHE.value, "num_views": views}
    found |= {"warped": WARPED.value}
    found |= {"depth": DEPTH.value, "inverse_depth": INVERSE.value or None}
    return found | {"clocks": CLOCKS.value, "loras": LORA.value, "devices": DEVICES.value, "seed": SEED.value}

"""Cut latents into patches, and put patches back in place."""

import einops

from motionv2v.typing import AnyArray, Float


def patchify(x: Float[AnyArray, "B t h w C"], patch_size: int, patch_size_t: int = 1) -> Float[AnyArray, "B n F"]:
    """Cut latents into patches and flatten each patch in the order (frame, row, column, channel).

    Args:
        x: latents, channels last.
        patch_size: side of a patch in latent pixels.
        patch_size_t: latent frames of a patch.

    Returns:
        One row per patch, in the order frame, row, column: n = (t / patch_size_t) * (h / patch_size) * (w / patch_size)
        and F = patch_size_t * patch_size^2 * C.

    Raises:
        ValueError: when the size is not a multiple of the patch's.
    """
    _, frames, height, width, _ = x.shape
    if height % patch_size or width % patch_size:
        raise ValueError(
            f"latents of height {height} and width {width} do not divide into patches of {patch_size}; "
            f"both must be multiples of {patch_size}."
        )
    if frames % patch_size_t:
        raise ValueError(f"{frames} latent frames do not divide into patches of {patch_size_t} frames.")
    sides = {"pt": patch_size_t, "ph": patch_size, "pw": patch_size}
    return einops.rearrange(x, "B (t pt) (h ph) (w pw) C -> B (t h w) (pt ph pw C)", **sides)


def unpatchify(
    tokens: Float[AnyArray, "B n F"], grid: tuple[int, int, int], patch_size: int, patch_size_t: int = 1
) -> Float[AnyArray, "B t h w C"]:
    """Put output patches back in place; each patch is flattened in the order (channel, frame, row, column).

    CogVideoX's output projection is channel-major although its input patches are not read that way here, so this is
    not the inverse of `patchify`.

    Args:
        tokens: one row per patch, F = C * patch_size_t * patch_size^2.
        grid: frames, rows and columns counted in patches; their product is n.
        patch_size: side of a patch in latent pixels.
        patch_size_t: latent frames of a patch.
    """
    sides = dict(zip("thw", grid, strict=True)) | {"pt": patch_size_t, "ph": patch_size, "pw": patch_size}
    return einops.rearrange(tokens, "B (t h w) (C pt ph pw) -> B (t pt) (h ph) (w pw) C", **sides)

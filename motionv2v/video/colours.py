"""Colours of decoded pictures: from YUV of any matrix, range and depth to 8-bit RGB for a BT.709 display, and back.

FFmpeg's swscale does the arithmetic, but on whole colours: its quick ways between RGB and pictures with fewer colours
than grey values (4:2:0) lose up to 1.5 grey levels at every conversion. Here such a picture's colours are repeated over
the pixels that share them, as players do, and averaged over them on the way back, so that writing and reading again
changes nothing but by rounding.

High dynamic range becomes standard range: signal -> light (BT.2100: the PQ curve, or HLG's with its system gamma for
a display of 1000 cd/m2) -> primaries of BT.709 -> highlights compressed -> BT.1886's gamma of 2.4. White of standard
range is 203 cd/m2 (BT.2408). Light up to 0.8 of that stays as it is; what is above approaches white:

    y = x                         x <= k = 0.8
    y = k + (1 - k) u / (1 + u)   u = (x - k) / (1 - k)

where x is the largest of a pixel's three lights, and all three are scaled alike, so that hues stay.
"""

import functools

import av
import cv2
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter

from motionv2v.typing import Float, Num, UInt8

KNEE = 0.8
"""Share of white up to which light of high dynamic range is left as it is."""

WHITE = 203.0
"""Light of standard range's white in a picture of high dynamic range, in cd/m2 (BT.2408)."""

_ACCURATE_ROUNDING = 0x40000  # swscale's flag; PyAV names it from 18.1 on
_GAMMA = 2.4  # BT.1886
_ROWS = 64  # converted at a time: what lies between fits the processor's cache, at any size of picture

# AVColorSpace -> swscale's matrix; numbers that are not here are guessed from the size.
_MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
_OTHER_MATRICES = {8: "YCgCo", 11: "SMPTE 2085", 14: "ICtCp", 15: "IPT-C2", 16: "YCgCo-Re", 17: "YCgCo-Ro"}
_HIGH_RANGE = {ColorTrc.SMPTE2084: "PQ", ColorTrc.ARIB_STD_B67: "HLG"}
_WIDE = {ColorPrimaries.BT2020: "BT.2020", ColorPrimaries.SMPTE431: "P3", ColorPrimaries.SMPTE432: "P3"}
_BT2020_TRANSFERS = (14, 15)  # AVColorTransferCharacteristic: the curve of BT.709, in 10 and 12 bits
_BT2020_MATRICES = (9, 10)  # AVColorSpace
_LAYOUTS = {(1, 1): "444", (2, 2): "420", (2, 1): "422", (1, 2): "440", (4, 1): "411", (4, 4): "410"}
"""Pixels across and down that share a colour -> FFmpeg's name for that."""

_D65 = (0.3127, 0.3290)
_CHROMATICITIES = {  # x, y of red, green and blue; all with the white of D65
    "BT.709": ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),
    "BT.2020": ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    "P3": ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}


def matrix_for(height: int, width: int) -> Colorspace:
    """Return the YUV matrix of files that name none: BT.709 from 720 lines (or 1280 columns) on, else BT.601."""
    return Colorspace.ITU709 if height >= 720 or width >= 1280 else Colorspace.ITU601


def describe(picture: av.VideoFrame) -> tuple[str, str]:
    """Name the transfer ("PQ", "HLG" or "SDR") and the primaries ("BT.2020", "P3" or "BT.709") of a decoded picture.

    Primaries of standard definition (SMPTE C, EBU) count as BT.709, from which they differ little. Where none are named
    the transfer or the matrix tells of BT.2020, as it does to players.
    """
    transfer = _HIGH_RANGE.get(picture.color_trc, "SDR")
    unnamed = picture.color_primaries in (0, ColorPrimaries.UNSPECIFIED)
    is_wide = transfer != "SDR" or picture.color_trc in _BT2020_TRANSFERS or picture.colorspace in _BT2020_MATRICES
    primaries = "BT.2020" if unnamed and is_wide else _WIDE.get(picture.color_primaries, "BT.709")
    return transfer, primaries


def notice(picture: av.VideoFrame) -> str:
    """Say what is done about the colours of a picture that are not those of common videos; "" where nothing is."""
    transfer, primaries = describe(picture)
    if picture.colorspace in _OTHER_MATRICES and not picture.format.is_rgb:
        return f"colours coded as {_OTHER_MATRICES[picture.colorspace]} cannot be converted and are read as plain YUV"
    if transfer != "SDR":
        return f"high dynamic range ({transfer}, {primaries}) tone-mapped to standard range (BT.709)"
    return f"wide colours ({primaries}) converted to those of BT.709" if primaries != "BT.709" else ""


class Converter:
    """Convert pictures from and to RGB, one after the other; keeps what FFmpeg sets up for a kind of picture."""

    def __init__(self, threads: int = 0):
        """Set up nothing yet; `threads` is how many convert, 0 for all cores."""
        self._threads = threads
        self._main, self._other = VideoReformatter(), VideoReformatter()
        self._whole: dict[tuple, av.VideoFrame] = {}

    def to_rgb(self, picture: av.VideoFrame, out: UInt8[np.ndarray, "H W 3"]) -> None:
        """Convert a decoded picture to RGB of BT.709, scaled to the size of `out` as `resize` does, and write it there.

        `out` may be a turned or mirrored view of an array. Planes are scaled before they become RGB, so that of large
        pictures that shall be small no large copy is made.
        """
        height, width = out.shape[:2]
        transfer, primaries = describe(picture)
        plain = transfer == "SDR" and primaries == "BT.709"
        kind = picture.format
        bits = kind.components[0].bits if kind.components else 8
        is_deep = (kind.is_rgb or len(kind.components) < 3) and 8 < bits <= 16
        converted = self._main.reformat(
            self._repeat_colours(picture, height, width),
            format="gbrp" if plain and not is_deep else "gbrp16le",
            src_colorspace=_matrix(picture),
            interpolation=int(Interpolation.BICUBIC) | _ACCURATE_ROUNDING,
            dst_color_range=ColorRange.JPEG,
            threads=self._threads,
        )
        green, blue, red = (_pixels(plane, 1 if plain and not is_deep else 2) for plane in converted.planes)
        if is_deep:
            # swscale shifts RGB and grey of more bits: white would be 255 * 4 of 1023. Here it is 255, or 255 * 256.
            share = np.float32(255 * (1 if plain else 256) / ((2**bits - 1) << (16 - bits)))
            green, blue, red = (
                np.round(plane * share).astype(np.uint8 if plain else np.uint16) for plane in (green, blue, red)
            )
        if plain and green.shape == (height, width) and out.flags.c_contiguous:
            cv2.merge([red, green, blue], dst=out)
        else:
            rgb = resize(cv2.merge([red, green, blue]), height, width)
            out[...] = rgb if plain else _to_standard(rgb, transfer, primaries)

    def to_yuv(self, frame: UInt8[np.ndarray, "H W 3"]) -> av.VideoFrame:
        """Convert RGB of BT.709, of even sizes, for encoders: yuv420p of limited range by the matrix of `matrix_for`.

        A colour is the average of the four pixels that share it and lies in their middle (chroma location "center").
        """
        height, width = frame.shape[:2]
        whole = self._main.reformat(
            av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24"),
            format="yuv444p",
            dst_colorspace=matrix_for(height, width),
            dst_color_range=ColorRange.MPEG,
            threads=self._threads,
        )
        picture = av.VideoFrame(width, height, "yuv420p")
        picture.colorspace, picture.color_range = whole.colorspace, whole.color_range
        for source, target in zip(whole.planes, picture.planes, strict=True):
            size = (target.width, target.height)
            _pixels(target)[:] = cv2.resize(_pixels(source), size, interpolation=cv2.INTER_AREA)
        return picture

    def _repeat_colours(self, picture: av.VideoFrame, height: int, width: int) -> av.VideoFrame:
        """Return a YUV picture of that size with a colour for each pixel; others as they are.

        At the stored size, colours that several pixels share are repeated over them.
        """
        kind = picture.format
        if kind.is_rgb or kind.has_palette or len(kind.components) < 3:
            return picture
        bits, limits = kind.components[0].bits, picture.color_range
        full = kind.name.startswith("yuvj") or limits == ColorRange.JPEG
        shares = tuple(
            round(side / of(side))
            for side, of in ((picture.width, kind.chroma_width), (picture.height, kind.chroma_height))
        )
        if shares not in _LAYOUTS:
            return self._main.reformat(picture, format="gbrp", src_colorspace=_matrix(picture))
        depth, size = ("", 1) if bits == 8 else (f"{bits}le", 2)
        planar = f"yuv{_LAYOUTS[shares]}p{depth}"
        if kind.name not in (planar, planar.replace("yuv", "yuva"), planar.replace("yuv", "yuvj")):
            # The same numbers in another order, such as nv12.
            picture = self._other.reformat(picture, format=planar, src_color_range=limits, dst_color_range=limits)
        same = (height, width) == (picture.height, picture.width)
        key = (height, width, depth)
        if key not in self._whole:
            self._whole[key] = av.VideoFrame(width, height, f"yuv444p{depth}")
        whole = self._whole[key]
        whole.colorspace, whole.color_range = picture.colorspace, ColorRange.JPEG if full else ColorRange.MPEG
        for index, (source, target) in enumerate(zip(picture.planes[:3], whole.planes, strict=True)):
            values, place = _pixels(source, size), _pixels(target, size)
            if not same:
                values = resize(values, height, width)
            if full and bits > 8:  # to swscale, 10 bits of full range end at 255 * 4, not at 1023
                share, middle = 255 / (256 - 2 ** (8 - bits)), 2 ** (bits - 1) if index else 0
                values = np.round(middle + (values - np.float32(middle)) * share).astype(np.uint16)
            across, down = shares if index and same else (1, 1)
            # Channels lie side by side in memory: to interleave a plane with itself repeats each of its numbers.
            wide = cv2.merge([values] * across).reshape(len(values), -1)[:, :width] if across > 1 else values
            for row in range(down):
                place[row::down] = wide[: len(place[row::down])]
            if bits > 8 and not same:
                np.minimum(place, 2**bits - 1, out=place)  # cubic interpolation overshoots
        return whole


def resize(picture: Num[np.ndarray, "H W ..."], height: int, width: int) -> Num[np.ndarray, "h w ..."]:
    """Resize one picture or plane: average over areas where an axis shrinks, interpolate cubically where one grows."""
    old_height, old_width = picture.shape[:2]
    # cv2 has one interpolation for both axes: average the axes that shrink first, then interpolate the ones that grow.
    middle = (min(width, old_width), min(height, old_height))
    if middle != (old_width, old_height):
        picture = cv2.resize(picture, middle, interpolation=cv2.INTER_AREA)
    if middle != (width, height):
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_CUBIC)
    return picture


def _matrix(picture: av.VideoFrame) -> Colorspace:
    """Return the matrix that a picture names, or the one that its kind goes by where it names none."""
    if picture.colorspace in _MATRICES:
        return _MATRICES[picture.colorspace]
    if picture.color_trc in _HIGH_RANGE:
        return Colorspace.BT2020
    return matrix_for(picture.height, picture.width)


def _pixels(plane: av.video.plane.VideoPlane, size: int = 1) -> Num[np.ndarray, "H W"]:
    """Return a view of a plane's numbers, of so many bytes each, without the padding of its rows."""
    values = np.frombuffer(plane, np.uint8 if size == 1 else np.uint16)
    return values.reshape(plane.height, plane.line_size // size)[:, : plane.width]


def _to_standard(rgb: Num[np.ndarray, "H W 3"], transfer: str, primaries: str) -> UInt8[np.ndarray, "H W 3"]:
    """Turn a signal of another transfer or other primaries into that of BT.709, a few rows at a time."""
    light, signal, matrix = _light(transfer), _signal(), _to_bt709(primaries)
    out = np.empty(rgb.shape, np.uint8)
    for row in range(0, len(rgb), _ROWS):
        linear = light[rgb[row : row + _ROWS]]
        if transfer == "HLG":  # the system gamma of 1.2 acts on the luminance of the whole pixel
            luminance = linear @ _luminance(primaries)
            linear *= cv2.pow(luminance, 0.2)[..., None] * np.float32(1000 / WHITE)
        linear = np.maximum(cv2.transform(linear, matrix), 0)
        if transfer != "SDR":
            linear *= _compression(linear.max(-1, keepdims=True))
        # The table is even in the square root of light: fine enough in the dark, where eyes and gamma are.
        index = np.sqrt(np.minimum(linear, 1)) * (len(signal) - 1)
        out[row : row + _ROWS] = signal[index.astype(np.uint16)]
    return out


def _compression(peak: Float[np.ndarray, "H W 1"]) -> Float[np.ndarray, "H W 1"]:
    """Return what light is multiplied by, given the largest of each pixel's three lights."""
    above = np.maximum(peak - KNEE, 0) / (1 - KNEE)
    return (np.minimum(peak, KNEE) + (1 - KNEE) * above / (1 + above)) / np.maximum(peak, 1e-6)


@functools.cache
def _light(transfer: str) -> Float[np.ndarray, "65536"]:
    """Tabulate the light of each 16-bit signal: 1 is white of standard range; for HLG the scene's light, 0 to 1."""
    x = np.minimum(np.arange(65536) / (255 * 256), 1.0)  # swscale widens 8 bits by a shift: white is 255 * 256
    if transfer == "PQ":
        root = x ** (32 / 2523)
        light = 10_000 / WHITE * (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (16384 / 2610)
    elif transfer == "HLG":
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(x <= 0.5, x**2 / 3, (np.exp((x - c) / a) + b) / 12)
    else:
        light = x**_GAMMA
    return light.astype(np.float32)


@functools.cache
def _signal() -> UInt8[np.ndarray, "16384"]:
    """Tabulate the 8-bit signal of light 0 to 1, in even steps of its square root."""
    root = (np.arange(2**14) + 0.5) / 2**14
    return np.round(255 * root ** (2 / _GAMMA)).astype(np.uint8)


def _xyz(primaries: str) -> Float[np.ndarray, "3 3"]:
    """Return the matrix from linear RGB to CIE XYZ: its columns are the primaries, scaled so that white is D65."""
    columns = np.array([(x / y, 1, (1 - x - y) / y) for x, y in (*_CHROMATICITIES[primaries], _D65)]).T
    return columns[:, :3] * np.linalg.solve(columns[:, :3], columns[:, 3])


@functools.cache
def _to_bt709(primaries: str) -> Float[np.ndarray, "3 3"]:
    return np.linalg.solve(_xyz("BT.709"), _xyz(primaries)).astype(np.float32)


@functools.cache
def _luminance(primaries: str) -> Float[np.ndarray, "3"]:
    return _xyz(primaries)[1].astype(np.float32)

"""What synthetic scenes are made of: sprite outlines, sprite patterns and backgrounds, as functions of coordinates.

A shape lives in unit coordinates: its outline lies within a radius of about one around (0, 0). `inside` is a signed
distance-like function, positive inside, in the same unit. Colours are RGB in [0, 1].
"""

from dataclasses import dataclass

import numpy as np

from motionv2v.typing import AnyArray, Float

SPRITE_COLORS = {
    "red": (0.90, 0.12, 0.12),
    "green": (0.10, 0.72, 0.18),
    "blue": (0.12, 0.25, 0.92),
    "yellow": (0.95, 0.88, 0.10),
    "purple": (0.62, 0.12, 0.80),
    "cyan": (0.10, 0.85, 0.88),
    "white": (0.96, 0.96, 0.96),
    "black": (0.05, 0.05, 0.06),
}
BACKGROUND_COLORS = {
    "gray": (0.50, 0.50, 0.52),
    "teal": (0.28, 0.50, 0.48),
    "brown": (0.50, 0.38, 0.28),
    "olive": (0.46, 0.48, 0.26),
    "rose": (0.66, 0.44, 0.48),
    "slate": (0.34, 0.40, 0.54),
}
_SPRITE_WAVE = np.float32(3.5)  # radians per unit: 1.1 periods across a sprite
SHAPES = ("disk", "square", "cross", "wedge", "star")
BACKGROUNDS = ("dunes", "hills")


def inside(shape: str, u: AnyArray, v: AnyArray) -> AnyArray:
    """Measure how far (u, v) lies inside a shape's outline: positive inside, negative outside, about unit slope.

    Raises:
        ValueError: for an unknown shape.
    """
    if shape == "disk":
        return 0.95 - np.sqrt(u * u + v * v)
    if shape == "square":
        return 0.8 - np.maximum(np.abs(u), np.abs(v))
    if shape == "cross":
        a, b = np.abs(u), np.abs(v)
        return np.maximum(np.minimum(0.95 - a, 0.38 - b), np.minimum(0.95 - b, 0.38 - a))
    if shape == "wedge":  # a triangle with its tip up
        return np.minimum(0.6 - v, 0.48 + 0.5 * v - 0.87 * np.abs(u))
    if shape == "star":  # four soft points
        radius = np.sqrt(u * u + v * v) + 1e-6
        return (0.72 + 0.26 * (((u * u - v * v) / (radius * radius)) ** 2 * 2 - 1)) - radius
    raise ValueError(f"unknown shape {shape!r}; available: {', '.join(SHAPES)}")


def random_inside(rng: np.random.Generator, shape: str) -> Float[np.ndarray, "2"]:
    """Draw a point inside a shape, by rejection; 0.15 or more from the outline, so that its pixel is the sprite's."""
    while True:
        candidates = rng.uniform(-1, 1, (16, 2))
        good = np.flatnonzero(inside(shape, candidates[:, 0], candidates[:, 1]) > 0.15)
        if good.size:
            return candidates[good[0]]


@dataclass(frozen=True)
class Sprite:
    """One thing in a scene. `radius` in frame heights.

    Its pattern is two tones of a colour mixed by two crossing waves, about one period across the sprite: smooth enough
    for a small model to draw, and different in every direction, so that turning shows and any point of it can be
    tracked.
    """

    shape: str
    color_name: str
    radius: float
    dark: tuple[float, float, float]
    light: tuple[float, float, float]
    angle: float
    phase: tuple[float, float]

    @property
    def name(self) -> str:
        """Name the sprite by colour and shape."""
        return f"{self.color_name} {self.shape}"

    def paint(self, u: AnyArray, v: AnyArray) -> Float[AnyArray, "*S 3"]:
        """Colour the sprite at unit coordinates."""
        c, s = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        a = np.sin(_SPRITE_WAVE * (c * u + s * v) + np.float32(self.phase[0]))
        b = np.sin(_SPRITE_WAVE * (c * v - s * u) + np.float32(self.phase[1]))
        mix = (0.5 + 0.25 * (a + b))[..., None]
        dark = np.asarray(self.dark, np.float32)
        return dark + mix * (np.asarray(self.light, np.float32) - dark)


def random_sprite(rng: np.random.Generator, color: int, radius: tuple[float, float]) -> Sprite:
    """Draw a sprite of the given colour index of `SPRITE_COLORS`, radius uniform in the range (frame heights)."""
    name = list(SPRITE_COLORS)[color]
    base = np.asarray(SPRITE_COLORS[name])
    light = base + (1 - base) * 0.6 if base.max() > 0.3 else base + 0.45
    dark = base * 0.55
    shape = SHAPES[int(rng.integers(len(SHAPES)))]
    size, angle, *phase = rng.uniform((radius[0], 0, 0, 0), (radius[1], *[2 * np.pi] * 3))
    return Sprite(shape, name, float(size), tuple(dark), tuple(light), float(angle), tuple(phase))


@dataclass(frozen=True)
class Background:
    """A smooth endless texture in world coordinates: two tones of one colour mixed by low-frequency waves."""

    style: str
    color_name: str
    dark: tuple[float, float, float]
    light: tuple[float, float, float]
    frequency: tuple[float, float]
    phase: tuple[float, float]
    angle: float

    @property
    def name(self) -> str:
        """Name the background by colour and texture."""
        return f"{self.color_name} {self.style}"

    def paint(self, x: AnyArray, y: AnyArray) -> Float[AnyArray, "*S 3"]:
        """Colour the background at world coordinates (frame heights)."""
        c, s = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        a = np.sin(np.float32(self.frequency[0]) * (c * x + s * y) + np.float32(self.phase[0]))
        b = np.sin(np.float32(self.frequency[1]) * (c * y - s * x) + np.float32(self.phase[1]))
        # Dunes: a product of waves, a soft checkerboard. Hills: their sum.
        level = a * b if self.style == "dunes" else 0.5 * (a + b)
        mix = (0.5 + 0.5 * level)[..., None]
        dark = np.asarray(self.dark, np.float32)
        return dark + mix * (np.asarray(self.light, np.float32) - dark)


def random_background(rng: np.random.Generator) -> Background:
    """Draw a background with 0.8 to 1.5 waves per frame height."""
    name = list(BACKGROUND_COLORS)[int(rng.integers(len(BACKGROUND_COLORS)))]
    base = np.asarray(BACKGROUND_COLORS[name])
    style = BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))]
    frequency = tuple(rng.uniform(0.8, 1.5, 2) * 2 * np.pi)
    phase = tuple(rng.uniform(0, 2 * np.pi, 2))
    light = np.minimum(base * 1.4 + 0.05, 1)
    return Background(style, name, tuple(base * 0.55), tuple(light), frequency, phase, float(rng.uniform(0, np.pi)))

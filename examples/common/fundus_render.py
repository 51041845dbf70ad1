"""Pixels of a fundus photograph from a table of numbers, many at once, in NumPy.

Coordinates: the photograph spans -1 .. 1 in both directions and is lit inside a round aperture. ``u`` points from the
optic disc to the temple (to the macula), ``v`` down. Curves are drawn from approximate distances |F| / |grad F|, blur
and texture are matrix products, so that an image costs a few hundred passes over its pixels and no loop over images.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
CHUNK_PIXELS = 2**18  # of one pass: small enough to stay in the processor's cache

# What `render` needs of every image: (N,) each, unless a second dimension is named.
PARAMETERS = {
    "eye": "0 right, 1 left: the side of the macula",
    "disc_x": "position of the disc, towards the nose",
    "disc_y": "position of the disc, downwards",
    "disc_radius": "vertical radius of the disc",
    "disc_ratio": "horizontal over vertical radius of the disc",
    "vcdr": "vertical cup-to-disc ratio",
    "cup_ratio": "horizontal over vertical cup-to-disc ratio",
    "cup_drop": "the cup's way down inside the disc, as a share of the room it has",
    "pigment": "0 light to 1 dark fundus",
    "contrast": "of cup against rim, and of rim against fundus",
    "pallor": "1: the cup is paler than the rim; negative: it is the darker, greyer part",
    "noise": "standard deviation of the camera's noise",
    "blur": "0 sharp to 1 out of focus",
    "haze": "share of stray light from a clouded lens",
    "tint": "(N, 3) gain of the colour channels",
    "gamma": "of the camera",
    "aperture": "radius of the lit field",
    "light_x": "slope of the lighting",
    "light_y": "slope of the lighting",
    "vessels": "strength of the vessels",
    "atrophy": "0/1: pale crescent beside the disc",
    "haemorrhage": "0/1: splinter haemorrhage at the disc's border",
    "drusen": "0/1: yellow deposits around the macula",
}


def render(
    parameters: dict[str, NDArray[np.floating]], size: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Photographs (N, size, size, 3) and masks (N, size, size): 0 fundus, 1 rim, 2 cup."""
    missing = sorted(set(PARAMETERS) - set(parameters))
    if missing:
        raise ValueError(f"parameters: missing {missing}")
    n = len(parameters["eye"])
    images = np.empty((n, size, size, 3), dtype=np.uint8)
    masks = np.empty((n, size, size), dtype=np.uint8)
    step = max(1, CHUNK_PIXELS // size**2)
    for start in range(0, n, step):
        rows = slice(start, start + step)
        part = {k: np.asarray(parameters[k][rows], dtype=np.float32) for k in PARAMETERS}
        images[rows], masks[rows] = _render_chunk(part, size, rng)
    return images, masks


def _render_chunk(
    p: dict[str, F32], size: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    n = len(p["eye"])
    axis = ((np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1)[None]
    c = {k: v[:, None, None] for k, v in p.items() if v.ndim == 1}
    pixel = np.float32(2 / size)
    side = np.where(p["eye"] > 0.5, 1, -1).astype(np.float32)[:, None]  # a left eye's macula is on the right
    u = (side * axis + p["disc_x"][:, None])[:, None, :]  # (n, 1, size), from the disc's centre
    v = (axis - p["disc_y"][:, None])[:, :, None]  # (n, size, 1)

    # Disc and cup, as 0..1 coverage and as a mask.
    disc_v, disc_u = c["disc_radius"], c["disc_radius"] * c["disc_ratio"]
    disc = _ellipse(u, v, disc_u, disc_v)
    cup_v, cup_u = disc_v * c["vcdr"], disc_u * np.minimum(c["vcdr"] * c["cup_ratio"], 0.95)
    cup_at_v = c["cup_drop"] * (disc_v - cup_v) * 0.6
    cup_at_u = 0.25 * (disc_u - cup_u)
    cup = _ellipse(u - cup_at_u, v - cup_at_v, cup_u, cup_v)
    masks = (disc < 0).astype(np.uint8) + ((cup < 0) & (disc < 0))
    edge = np.maximum(pixel, 0.02)
    disc_cover, cup_cover = _inside(disc, edge), _inside(cup, 1.6 * edge)

    # The fundus: choroid and pigment, uneven texture, macula.
    texture = 0.06 * _texture(n, 5, size, rng) + 0.05 * _texture(n, 14, size, rng) * (1.3 - c["pigment"])
    macula_u, macula_v = u - 1.02, v - 0.10
    macula_distance = macula_u**2 + macula_v**2
    dark = 1 + texture - 0.38 * np.exp(macula_distance / -0.045) - 0.12 * np.exp(macula_distance / -0.2)
    light_fundus, dark_fundus = _colour(0.83, 0.41, 0.21), _colour(0.47, 0.23, 0.13)
    pigment = c["pigment"][:, None]
    image = (light_fundus + (dark_fundus - light_fundus) * pigment) * dark[:, None]

    if p["drusen"].any():
        _draw_drusen(image, p, u, v, rng)
    if p["atrophy"].any():
        rows = p["atrophy"] > 0
        crescent = _ellipse(u[rows] - 0.16 * disc_u[rows], v[rows], disc_u[rows] * 1.12, disc_v[rows] * 1.05)
        _blend(image, rows, _inside(crescent, 2 * edge) * 0.6, _colour(0.90, 0.66, 0.45))

    # Rim and cup: the contrast says how far each stands out from what surrounds it.
    contrast, pallor = c["contrast"][:, None], c["pallor"][:, None]
    rim = image + (_colour(0.93, 0.62, 0.38) * (1 - 0.22 * pigment) - image) * (0.35 + 0.65 * contrast)
    pale = _colour(0.10, 0.27, 0.30) * np.maximum(pallor, 0)
    grey = _colour(-0.26, -0.11, -0.02) * np.maximum(-pallor, 0)
    cup_colour = rim + (pale + grey) * contrast * (1 - 0.15 * pigment)
    image += (rim - image) * disc_cover[:, None]
    image += (cup_colour - image) * (cup_cover * disc_cover)[:, None]

    vessels = _vessels(n, u, v, cup_at_u, edge, rng) * c["vessels"]
    vessels *= 1 - 0.35 * disc_cover * (1 - cup_cover)
    image *= 1 - vessels[:, None] * _colour(0.42, 0.66, 0.62)
    if p["haemorrhage"].any():
        _draw_haemorrhage(image, p, u, v, rng)
    return _camera(image, c, p, axis, size, pixel, rng), masks


def _camera(
    image: F32, c: dict[str, F32], p: dict[str, F32], axis: F32, size: int, pixel: np.float32, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Lighting, clouded lens, focus, colour, noise, aperture; to 8 bits with the channels last."""
    x, y = axis[:, None, :], axis[:, :, None]
    radius = np.sqrt(x**2 + y**2)
    image *= (1.06 - 0.30 * radius**2 + c["light_x"] * x + c["light_y"] * y)[:, None]
    haze = c["haze"][:, None]
    image += (_colour(0.62, 0.52, 0.40) - image) * haze
    if (p["blur"] > 0).any():
        kernel = _gaussian_matrix(size, 0.026 * size)
        image += c["blur"][:, None] * (kernel @ image @ kernel.T - image)
    image *= p["tint"][:, :, None, None]
    np.clip(image, 0, 1, out=image)
    image **= c["gamma"][:, None]
    image += c["noise"][:, None] * rng.standard_normal(image.shape, dtype=np.float32)
    image *= np.clip((c["aperture"] - radius) / (1.5 * pixel) + 0.5, 0, 1)[:, None]
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8).transpose(0, 2, 3, 1)


def _vessels(n: int, u: F32, v: F32, origin_u: F32, edge: np.float32, rng: np.random.Generator) -> F32:
    """Darkness (n, size, size) in 0..1: four arcades of an artery and a vein, their branches, small macular vessels."""
    dark = np.zeros((n, v.shape[1], u.shape[2]), dtype=np.float32)

    def draws(low: float, high: float) -> F32:
        return rng.uniform(low, high, (n, 1, 1)).astype(np.float32)

    def stroke(part: F32, across: F32, slope: F32, width: F32 | float, strength: F32) -> None:
        """A line with slope d across / d way; one thinner than a pixel is drawn a pixel wide and fainter."""
        half = np.maximum(width, 0.55 * edge)
        strength = strength * np.minimum(1, width / (0.55 * edge))
        across = across / (half * np.sqrt(1 + slope**2))
        np.maximum(part, np.exp(-np.square(across, out=across), out=across) * strength, out=part)

    from_origin = u - 0.6 * origin_u
    for direction in (-1, 1):
        rows = (v * direction).max(axis=(0, 2)) > 0  # an arcade stays in its half of the photograph
        part = dark[:, rows]
        way = np.maximum(v[:, rows] * direction, 0)  # along the arcade, away from the disc
        started = np.clip(way / 0.04, 0, 1)
        for bend, width, strength in ((1, 0.030, 0.95), (1, 0.021, 0.75), (-1, 0.022, 0.85), (-1, 0.016, 0.65)):
            # u = k way^2 + wobble: leaves the disc upright and turns to the temple (or, less, to the nose).
            k = draws(0.75, 1.25) * np.float32(1 if bend > 0 else -0.75)
            tilt, phase, swing = draws(-0.16, 0.16) + 0.06 * bend, draws(0, 6.28), draws(0.010, 0.028)
            at = k * way**2 + tilt * way + swing * np.sin(9 * way + phase) * started
            slope = 2 * k * way + tilt + 9 * swing * np.cos(9 * way + phase) * started
            stroke(part, from_origin - at, slope, width * (1 - 0.35 * np.minimum(way, 1)), started * strength)
            # One branch to the inside of the arcade and one to the outside.
            for lean, low, high in ((1, 0.18, 0.42), (-1, 0.3, 0.6)):
                fork = draws(low, high)
                beyond = np.maximum(way - fork, 0)
                grow = draws(0.5, 1.1) * lean * bend
                at = k * fork**2 + tilt * fork + (2 * k * fork + grow) * beyond + 0.5 * grow * beyond**2
                slope = 2 * k * fork + grow * (1 + beyond)
                stroke(part, from_origin - at, slope, 0.6 * width, (beyond > 0) * np.float32(0.7 * strength))
        dark[:, rows] = part
    for towards in (1, -1):  # from the disc straight to the macula, and to the nose
        columns = (u * towards).max(axis=(0, 1)) > 0
        part = dark[:, :, columns]
        way = np.maximum(u[:, :, columns] * towards, 0)
        shown = np.clip(way / 0.05, 0, 1) * np.clip((0.85 - way) / 0.3, 0, 1) * np.float32(0.55)
        for lean in (-1, 1):
            rise, swing, phase = draws(0.05, 0.30) * lean, draws(0.005, 0.02), draws(0, 6.28)
            at = rise * np.sqrt(way + 0.02) + swing * np.sin(11 * way + phase)
            stroke(part, v - at, rise * 0.5 / np.sqrt(way + 0.02), 0.010, shown)
        dark[:, :, columns] = part
    return dark


def _draw_drusen(image: F32, p: dict[str, F32], u: F32, v: F32, rng: np.random.Generator) -> None:
    rows = p["drusen"] > 0
    m = int(rows.sum())
    cover = np.zeros((m, v.shape[1], u.shape[2]), dtype=np.float32)
    for _ in range(9):
        at_u = rng.normal(0.92, 0.17, (m, 1, 1)).astype(np.float32)
        at_v = rng.normal(0.10, 0.20, (m, 1, 1)).astype(np.float32)
        radius = rng.uniform(0.022, 0.05, (m, 1, 1)).astype(np.float32)
        spot = np.exp(-((u[rows] - at_u) ** 2 + (v[rows] - at_v) ** 2) / radius**2)
        np.maximum(cover, spot, out=cover)
    _blend(image, rows, 0.75 * cover, _colour(0.95, 0.80, 0.42))


def _draw_haemorrhage(image: F32, p: dict[str, F32], u: F32, v: F32, rng: np.random.Generator) -> None:
    rows = p["haemorrhage"] > 0
    m = int(rows.sum())
    angle = (rng.choice([-1.0, 1.0], (m, 1, 1)) * rng.uniform(0.6, 1.3, (m, 1, 1))).astype(np.float32)
    radius = p["disc_radius"][rows][:, None, None]
    along = u[rows] * np.cos(angle) + v[rows] * np.sin(angle) - 1.08 * radius
    across = v[rows] * np.cos(angle) - u[rows] * np.sin(angle)
    flame = np.exp(-np.square(along / 0.085) - np.square(across / 0.028))
    _blend(image, rows, 0.9 * flame, _colour(0.38, 0.04, 0.04))


def _blend(image: F32, rows: NDArray[np.bool_], cover: F32, colour: F32) -> None:
    image[rows] += (colour - image[rows]) * cover[:, None]


def _colour(red: float, green: float, blue: float) -> F32:
    return np.array([red, green, blue], dtype=np.float32)[:, None, None]


def _ellipse(u: F32, v: F32, radius_u: F32, radius_v: F32) -> F32:
    """Approximate signed distance to an ellipse, negative inside."""
    return (np.sqrt((u / radius_u) ** 2 + (v / radius_v) ** 2) - 1) * np.sqrt(radius_u * radius_v)


def _inside(distance: F32, edge: float) -> F32:
    return np.clip(0.5 - distance / (2 * edge), 0, 1)


def _texture(n: int, cells: int, size: int, rng: np.random.Generator) -> F32:
    """Smooth noise of unit variance: a grid of random numbers, stretched."""
    stretch = _stretch_matrix(cells, size)
    return stretch @ rng.standard_normal((n, cells + 3, cells + 3), dtype=np.float32) @ stretch.T


@cache
def _stretch_matrix(cells: int, size: int) -> F32:
    """(size, cells + 3) weights of a cubic B-spline, scaled so that the variance of white noise is kept on average."""
    at = np.linspace(0, cells, size, endpoint=False)[:, None] + 1
    t = np.abs(at - np.arange(cells + 3)[None])
    weights = np.where(t < 1, 2 / 3 - t**2 + t**3 / 2, np.where(t < 2, (2 - t) ** 3 / 6, 0))
    return (weights / np.sqrt(np.mean((weights**2).sum(axis=1)))).astype(np.float32)


@cache
def _gaussian_matrix(size: int, sigma: float) -> F32:
    at = np.arange(size)
    weights = np.exp(-np.square((at[:, None] - at[None]) / sigma) / 2)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)

"""Published tables: a printed number stands for the box of numbers that round to it.

A formula reproduces a printed cell if some inputs inside the printed inputs' boxes give an output inside the printed
output's box. Each formula is continuous and each box connected, so it is enough to call the library at the inputs that
give the smallest and the largest output: everything between is reached, too.
"""

from __future__ import annotations

import csv
from decimal import Decimal
from itertools import product
from pathlib import Path

import numpy as np

TABLES = Path(__file__).parents[1] / "data" / "tables"
SLACK = 1e-12  # double rounding; a hundred-millionth of the finest printed digit


def rows(name, **where):
    with (TABLES / f"{name}.csv").open(newline="") as file:
        return [r for r in csv.DictReader(file) if all(r[k] == v for k, v in where.items())]


def box(text, scale=1.0):
    """(low, high) of the numbers that round to ``text``; ties belong to both neighbours."""
    value = Decimal(text)
    half = Decimal(5).scaleb(int(value.as_tuple().exponent) - 1)
    return float(value - half) * scale, float(value + half) * scale


def hits(text, outputs, scale=1.0):
    """Whether the range of the outputs meets the printed box."""
    low, high = box(text, scale)
    return min(outputs) <= high + SLACK * scale and max(outputs) >= low - SLACK * scale


def inside(value, bounds):
    return bounds[0] <= value <= bounds[1]


def spread_points(boxes):
    """Points of the boxes with the smallest and the largest standard deviation, and with the largest range."""
    low, high = np.array(boxes).T
    # Smallest: every value as near as its box allows to the mean of them all, found by bisection (the map is monotone).
    a, b = low.min(), high.max()
    for _ in range(200):
        centre = (a + b) / 2
        a, b = (centre, b) if np.clip(centre, low, high).mean() > centre else (a, centre)
    closest = np.clip((a + b) / 2, low, high)
    # Largest: a convex function is largest at a corner.
    return [closest, *[np.array(corner) for corner in product(*boxes)]]


def gap_points(boxes):
    """Points with the smallest and the largest max - min."""
    low, high = np.array(boxes).T
    # All values lie in, or as near as they can to, the lowest upper end: their range is then max low - min high, or 0.
    points = [np.clip(high.min(), low, high)]
    for i, j in product(range(len(boxes)), repeat=2):
        if i != j:
            point = (low + high) / 2
            point[i], point[j] = high[i], low[j]
            points.append(point)
    return points


def scaled_points(overall, boxes):
    """(overall, values) that make overall / (1 + sum |overall - v|) extreme.

    For a fixed overall value the nearest and the farthest values are extreme; in between the corners where a nearest or
    a farthest value changes, the function of the overall value is linear over linear, hence monotone.
    """
    low, high = np.array(boxes).T
    corners = [*overall, *[c for c in [*low, *high, *((low + high) / 2)] if inside(c, overall)]]
    for a in corners:
        yield a, np.clip(a, low, high)
        yield a, np.where(np.abs(a - low) > np.abs(a - high), low, high)

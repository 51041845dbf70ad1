"""Which group each label is in, one label at a time, as the page on groups says it; None is unknown."""

from __future__ import annotations

MAY_BE_MISSING = ("nan", "none", "<na>", "nat", "na", "n/a", "null", "#n/a")


class Refused(Exception):
    """The labels can be read in two ways."""


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def number(value):
    """The number, also of a text that writes one without leading zeros or exponent; else None."""
    if isinstance(value, str):
        digits = value.strip().removeprefix("-")
        whole, dot, part = digits.partition(".")
        fine = whole.isascii() and whole.isdigit() and (whole == "0" or whole[0] != "0")
        fine = fine and (not dot or (part.isascii() and part.isdigit()))
        return float(value) if fine else None
    return float(value) if is_number(value) else None


def group(value, unknown, known):
    """The label of a group, or None."""
    if any(value == u for u in unknown):
        return None
    if any(value == k for k in known):
        return value
    if value is None or value != value or number(value) == -1:
        return None
    if isinstance(value, str):
        if value.strip().lower() in MAY_BE_MISSING:
            raise Refused(value)
        return value if value.strip() else None
    return value


def band(value, edges):
    return sum(value >= e for e in edges)


def groups(labels, unknown=(), known=(), bins="raise", column=False):
    """The groups of all labels: labels, or the numbers of their bands."""
    found = [group(v, unknown, known) for v in labels]
    free = [v for v in found if v is not None and not any(v == k for k in known)]
    numbers = {number(v) for v in free} - {None}
    negative = [n for n in numbers if n < 0]
    minus_one = any(number(v) == -1 and not any(v == u for u in (*unknown, *known)) for v in labels if v is not None)
    cut = bins not in ("raise", None)
    if negative and (minus_one or not cut):
        raise Refused(min(negative))
    integers = all(isinstance(v, int) or (isinstance(v, str) and "." not in v) for v in free if number(v) is not None)
    if bins == "raise" and len(numbers) > 12 and (column or not integers):
        raise Refused(len(numbers))
    if not cut:
        return found
    if any(number(v) is None for v in found if v is not None):
        raise Refused("no number")
    return [None if v is None else band(number(v), bins) for v in found]

"""What a sentence says of the names in it: affirmed, denied or left open. Plain rules, no model, the standard library alone.

In the spirit of NegEx (Chapman et al., *A Simple Algorithm for Identifying Negated Findings and Diseases in Discharge
Summaries*, 2001): trigger phrases with a direction and a scope that ends with the clause. Longer phrases match before shorter
ones, so that "not only" is no negation and "no glaucoma" may itself be a name. English.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from itertools import takewhile
from typing import NamedTuple

__all__ = ["AFFIRMED", "DENIED", "OPEN", "Reading", "phrase", "read"]

AFFIRMED, DENIED, OPEN = "affirmed", "denied", "open"

# Without a name in their clause these leave everything open that is not named elsewhere.
UNABLE = (
    "not possible to", "not able to", "unable to", "can not tell", "can not say", "can not determine", "can not assess",
    "can not see", "can not exclude", "can not rule out", "do not know", "does not know", "not sure", "unsure",
)  # fmt: skip
UNDECIDED = ("can not be determined", "can not be assessed", "can not be excluded", "can not be ruled out")
UNSURE = (
    "unclear",
    "uncertain",
    "unknown",
    "not certain",
    "not clear",
    "indeterminate",
    "undetermined",
    "ungradable",
    "not gradable",
)

# Kinds: "before" acts on names to its right, "after" to its left; "both" to its left where it ends its part of the clause.
TRIGGERS: dict[tuple[str, str], str] = {
    (DENIED, "before"): "no; without; neither; none of; absence of; lack of; lacks; free of; free from; negative for; "
    "denies; never; rather than; instead of; rules out; excludes; not consistent with; no evidence of; no sign of; "
    "no signs of; false that",
    (DENIED, "after"): "absent; negative; excluded; not seen; not present; not visible; not found; not identified; "
    "not detected; not evident; not there; false",
    (DENIED, "both"): "not; ruled out; no evidence; no sign; no signs",
    (DENIED, "next"): "non",
    (OPEN, "before"): "possible; possibly; maybe; perhaps; suspected; suspicious for; suspicion of; suggestion of; "
    "question of; questionable; rule out; to exclude; may be; may have; may show; might be; might have; might show; "
    "could be; could have; equivocal for; " + "; ".join(UNABLE),
    (OPEN, "after"): "is possible; are possible; is suspected; are suspected; questionable; equivocal; not excluded; "
    "not ruled out; " + "; ".join(UNDECIDED),
    (OPEN, "both"): "unlikely; " + "; ".join(UNSURE),
    ("", "skip"): "not only; not just; no doubt; without doubt; without a doubt; without question; no question; no change in; "
    "no increase in; no progression of; no worsening of",
    ("", "break"): "but; however; although; though; except; except for; yet; while; whereas; apart from; aside from; "
    "other than; besides; is not the only; are not the only",
    ("", "join"): "and; or; nor; as well as",
}  # fmt: skip
# After a name and a colon, dash, bracket or bar; "no" only as the whole entry: "drusen: no, glaucoma: yes".
VERDICTS = {
    **dict.fromkeys(("no", "none", "absent", "negative", "false", "0"), DENIED),
    **dict.fromkeys(("yes", "present", "positive", "true", "1"), AFFIRMED),
    **dict.fromkeys(("unknown", "unclear", "uncertain", "possible", "indeterminate"), OPEN),
}
NEW_START = ("with", "only", "just", "there", "this", "it")  # after a comma they begin another statement
REACH = 5  # words between a name and what is said after it: "drusen in this eye is absent"

_TOKEN = re.compile(r"\d+(?:[.,]\d+)+|[^\W_]+|[.;!?\n)\]]|[:=]|[(\[|]|(?<!\S)[-\u2013\u2014]+(?=\s)|\u2014|,")
_MARKS = {**dict.fromkeys(".;!?\n)]", "break"), ":": "colon", "=": "colon", "(": "dash", "[": "dash", ",": "comma"}


class Reading(NamedTuple):
    """Indices of names by what is said of them, and whether something unnamed is left open ("I cannot tell")."""

    affirmed: frozenset[int]
    denied: frozenset[int]
    open: frozenset[int]
    vague: bool


class _Item(NamedTuple):
    kind: str  # name, before, after, both, next, skip, break, join, comma, colon, dash, word
    text: str
    says: str = ""
    name: int = 0


def _tokens(text: str) -> list[str]:
    plain = unicodedata.normalize("NFKD", text).casefold()
    plain = "".join(c for c in plain if not unicodedata.combining(c)).replace("\u2019", "'")
    plain = re.sub(r"\bcan(?:not|'t)\b", "can not", plain)
    plain = re.sub(r"n't\b", " not", plain)
    return _TOKEN.findall(plain)


def phrase(text: str) -> tuple[str, ...]:
    """Words of a name as they are compared: case, accents, punctuation and hyphens do not count."""
    return tuple(t for t in _tokens(text) if t[0].isalnum())


_TRIGGERS = {
    phrase(words): _Item(direction, " ".join(phrase(words)), says)
    for (says, direction), group in TRIGGERS.items()
    for words in group.split(";")
}


def read(text: str, names: Mapping[tuple[str, ...], int]) -> Reading:
    """What ``text`` says of each name; ``names`` maps phrases (see :func:`phrase`) to integers of the caller's choice.

    Of a name with a negative number a denial outweighs whatever else is said: it may be a heading.
    """
    says: dict[int, set[str]] = {}
    vague, asked = False, []
    for clause, mark in _clauses(_items(_tokens(text), names)):
        if mark == "?":  # a question says nothing, unless it is answered
            asked = [item.name for item in clause if item.kind == "name"]
            continue
        status = _clause(clause)
        stated = [(clause[i].name, what) for i, what in status.items()]
        reply = clause[0].text if clause and (len(clause) == 1 or clause[1].kind in ("comma", "colon", "dash")) else ""
        if reply in ("yes", "no"):
            stated += [(name, VERDICTS[reply]) for name in asked]
        for name, what in stated:
            says.setdefault(name, set()).add(what)
        vague |= not status and any(item.text in (*UNABLE, *UNDECIDED, *UNSURE) for item in clause)
        asked = [] if clause else asked
    for name, said in says.items():
        if name < 0 and DENIED in said:  # "Findings: no finding"
            said.intersection_update({DENIED})
    known = {s: frozenset(n for n, stated in says.items() if stated == {s}) for s in (AFFIRMED, DENIED)}
    # Left open, or said both ways.
    either = frozenset(n for n, stated in says.items() if OPEN in stated or len(stated) > 1)
    return Reading(known[AFFIRMED], known[DENIED], either, vague)


def _items(tokens: list[str], names: Mapping[tuple[str, ...], int]) -> list[_Item]:
    """Tokens with names and triggers put together, the longest first, a name before a trigger of its length."""
    longest = max((len(p) for p in [*names, *_TRIGGERS]), default=1)
    items, i = [], 0
    while i < len(tokens):
        if not tokens[i][0].isalnum():
            items.append(_Item(_MARKS.get(tokens[i], "dash"), tokens[i]))
            i += 1
            continue
        for length in range(min(longest, len(tokens) - i), 0, -1):
            words = tuple(tokens[i : i + length])
            if words in names:
                items.append(_Item("name", " ".join(words), name=names[words]))
                break
            if words in _TRIGGERS:
                items.append(_TRIGGERS[words])
                break
        else:
            length = 1
            items.append(_Item("word", tokens[i]))
        i += length
    return items


def _clauses(items: list[_Item]) -> Iterator[tuple[list[_Item], str]]:
    """Clauses, each with the mark or word that ends it."""
    clause: list[_Item] = []
    for i, item in enumerate(items):
        following = items[i + 1] if i + 1 < len(items) else None
        starts = item.kind == "comma" and following is not None and following.text.split(" ")[0] in NEW_START
        if item.kind == "break" or starts:
            yield clause, item.text
            clause = []
        else:
            clause.append(item)
    yield clause, ""


def _clause(items: list[_Item]) -> dict[int, str]:
    """Position of every name in one clause, and what is said of it."""
    items = list(items)
    status: dict[int, str] = {}
    for i, item in enumerate(items):  # "drusen: no"; "drusen: none detected"; "drusen no, glaucoma yes"
        marked = i >= 2 and items[i - 1].kind in ("colon", "dash")
        of = i - 2 if marked else i - 1
        whole = _ends_part(items, i) or (item.text == "none" and _only_words_follow(items, i))
        if of >= 0 and whole and (item.text in VERDICTS if marked else item.text == "no"):
            for j in _chain(items, of):
                status[j] = VERDICTS[item.text]
            if items[of].kind == "name":
                items[i] = _Item("skip", item.text)
    if len(items) > 1 and items[0].text == "no" and items[1].kind in ("comma", "colon"):
        items[0] = _Item("skip", "no")  # "No, ..." answers the question and denies nothing that follows
    if len(items) > 1 and items[0].kind == "after" and items[1].kind == "colon":
        items[0] = items[0]._replace(kind="before")  # "Absent: drusen, haemorrhage"
    # "glaucoma is unlikely, ..." speaks of what comes before it, "unlikely glaucoma" of what follows.
    for i, item in enumerate(items):
        if item.kind == "both":
            ends = i + 1 == len(items) or items[i + 1].kind in ("comma", "join", "dash")
            items[i] = item._replace(kind="after" if ends and _last_name(items, i) >= 0 else "before")
    for i, item in enumerate(items):
        if item.kind == "name" and i not in status:
            status[i] = _before(items, i)
    for i, item in enumerate(items):
        if item.kind == "after":
            last = _last_name(items, i)
            # "drusen: not seen" denies; in "glaucoma: the disc is not visible" something else may be meant.
            apart = any(it.kind in ("colon", "dash") for it in items[last + 1 : i - 1])
            status.update(dict.fromkeys(_chain(items, last), OPEN if apart else item.says))
        elif item.kind == "before" and i >= 2 and items[i - 1].kind in ("colon", "dash"):
            if _only_words_follow(items, i):  # "drusen: no increase", "drusen: suspected"
                status.update(dict.fromkeys(_chain(items, i - 2), OPEN))
        elif item.text == "present" and item.kind == "word" and _ends_part(items, i):
            last = _last_name(items, i)
            if last > 0 and items[last - 1].kind == "comma":  # "no drusen, glaucoma present"
                status[last] = AFFIRMED
    return status


def _ends_part(items: list[_Item], i: int) -> bool:
    return i + 1 == len(items) or items[i + 1].kind in ("comma", "dash")


def _only_words_follow(items: list[_Item], i: int) -> bool:
    """Whether the rest of the part holds neither names nor triggers."""
    rest = takewhile(lambda item: item.kind not in ("comma", "dash"), items[i + 1 :])
    return all(item.kind == "word" for item in rest)


def _before(items: list[_Item], i: int) -> str:
    """The nearest trigger to the left of the name decides; a dash or bracket ends its scope."""
    for j in range(i - 1, -1, -1):
        item = items[j]
        if item.kind == "dash":
            break
        if item.kind == "before" or (item.kind == "next" and j == i - 1):
            return item.says
        if item.kind == "name" and item.text.startswith(("no ", "not ", "without ")):
            return DENIED  # "no glaucoma or drusen" where "no glaucoma" is a name
    return AFFIRMED


def _last_name(items: list[_Item], i: int) -> int:
    """Position of the name that a trigger at ``i`` comes after, behind a colon or dash or not, or -1."""
    for j in range(i - 1, max(-1, i - 2 - REACH), -1):
        if items[j].kind not in ("word", "colon", "dash"):
            return j if items[j].kind == "name" else -1
    return -1


def _chain(items: list[_Item], i: int) -> Iterator[int]:
    """The name at ``i`` and those joined to it: "drusen, atrophy and haemorrhage"."""
    while i >= 0 and items[i].kind == "name":
        yield i
        i -= 1
        while i >= 0 and items[i].kind in ("comma", "join"):
            i -= 1
        if items[i + 1].kind == "name":  # nothing joins them
            return

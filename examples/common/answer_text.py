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

from .answer_words import (
    AFFIRMED,
    ALTERNATIVES,
    BARE,
    CONTENT,
    DENIED,
    LINKS,
    NEW_START,
    NO_SUBJECT,
    OPEN,
    STATES,
    TIED,
    TRIGGERS,
    UNABLE,
    UNDECIDED,
    UNSURE,
    VERDICTS,
)

REACH = 5  # words between a name and what is said after it: "drusen in this eye is absent"

_TOKEN = re.compile(r"\d+(?:[.,]\d+)+|[^\W_]+|[.;!?\n)\]]|[:=]|[(\[|]|(?<!\S)[-\u2013\u2014]+(?=\s)|\u2014|,")
_MARKS = {**dict.fromkeys(".;!?\n)", "break"), ":": "colon", "=": "colon", ",": "comma"}  # else a dash, "(" or "|"
_SAME = str.maketrans(
    {"\u2019": "'", "[": "(", "]": ")", "\u2212": "-"}
    | dict.fromkeys("\u2717\u2718\u2716\u274c", " no ")
    | dict.fromkeys("\u2713\u2714\u2705", " yes ")
)
_SIGNS = (
    (re.compile(r"\bcan(?:not|'t)\b"), "can not"),
    (re.compile(r"n't\b"), " not"),
    (re.compile(r"\bn/a\b"), "na"),
    (re.compile(r"\bvs\."), "vs "),
    (re.compile(r"\([ \t]*[-\u2013][ \t]*\)"), "(no)"),
    (re.compile(r"\([ \t]*\+[ \t]*\)"), "(yes)"),
    (re.compile(r"(?<=[:=|])[ \t]*-[ \t]*(?=[,;|\n]|$)"), " na "),  # nothing is entered
)


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


def _plain(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text).casefold()
    plain = "".join(c for c in plain if not unicodedata.combining(c)).translate(_SAME)
    for sign, word in _SIGNS:
        plain = sign.sub(word, plain)
    return plain


def _tokens(text: str) -> list[str]:
    return ["-" if t[0] in "-\u2013\u2014" else t for t in _TOKEN.findall(_plain(text))]


def phrase(text: str) -> tuple[str, ...]:
    """Words of a name as they are compared: case, accents, punctuation and hyphens do not count."""
    return tuple(t for t in _tokens(text) if t[0].isalnum())


def marks(text: str) -> tuple[frozenset[str], ...]:
    """The marks that a name of n words may have without ending there: before the first word, between two, behind the last."""
    gaps: list[set[str]] = [set()]
    for token in _tokens(text):
        if token[0].isalnum():
            gaps.append(set())
        else:
            gaps[-1].add(token)
    return tuple(map(frozenset, gaps))


def list_parts(text: str) -> tuple[str, ...]:
    """What stands between commas, as it is compared with what was written."""
    return tuple(" ".join(part.split()) for part in _plain(text).split(","))


_TRIGGERS = {
    phrase(words): _Item(direction, " ".join(phrase(words)), says)
    for (says, direction), group in TRIGGERS.items()
    for words in group.split(";")
}


def read(
    text: str, names: Mapping[tuple[str, ...], int], own: Mapping[tuple[str, ...], tuple[frozenset[str], ...]]
) -> Reading:
    """What ``text`` says of each name; ``names`` maps phrases (see :func:`phrase`) to integers of the caller's choice, ``own``
    those with punctuation to its :func:`marks`.

    Of a name with a negative number a denial outweighs whatever else is said: it may be a heading.
    """
    says: dict[int, set[str]] = {}
    vague, asked = False, []
    for clause, mark in _clauses(_items(_tokens(text), names, own)):
        if mark == "?":  # a question says nothing, unless it is answered
            asked = [item.name for item in clause if item.kind == "name"]
            continue
        status = _clause(clause)
        stated = [(clause[i].name, what) for i, what in status.items()]
        reply = clause[0].text if clause and (len(clause) == 1 or clause[1].kind in ("comma", "colon", "dash")) else ""
        if reply in ("yes", "y", "no", "n"):
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


def _items(
    tokens: list[str], names: Mapping[tuple[str, ...], int], own: Mapping[tuple[str, ...], tuple[frozenset[str], ...]]
) -> list[_Item]:
    """Tokens with names and triggers put together, the longest first, a name before a trigger of its length."""
    longest = max((len(p) for p in [*names, *_TRIGGERS]), default=1)
    inside = frozenset().union(*(gap for gaps in own.values() for gap in gaps))
    items, i = [], 0
    while i < len(tokens):
        words, gaps, ends = _ahead(tokens, i, longest, inside)
        for length in range(len(words), 0, -1):
            found = tuple(words[:length])
            allowed = own.get(found, (frozenset(),) * (length + 1))
            if found in names and all(map(frozenset.issuperset, allowed, gaps[:length])):
                end = _end_of_name(tokens, i, ends[length - 1], allowed[-1])
                # A bracket before the first word is the name's where it is closed within.
                if not gaps[0] or tokens[i:end].count("(") == tokens[i:end].count(")"):
                    items.append(_Item("name", " ".join(found), name=names[found]))
                    break
            if found in _TRIGGERS and not any(gaps[:length]):
                items.append(_TRIGGERS[found])
                end = i + length
                break
        else:
            word = tokens[i][0].isalnum()
            items.append(_Item("word" if word else _MARKS.get(tokens[i], "dash"), tokens[i]))
            end = i + 1
        i = end
    return items


def _ahead(
    tokens: list[str], i: int, longest: int, inside: frozenset[str]
) -> tuple[list[str], list[frozenset[str]], list[int]]:
    """Up to ``longest`` words from token ``i`` on, the marks before each, and where each ends; a mark not ``inside`` stops."""
    words: list[str] = []
    gaps: list[frozenset[str]] = []
    ends: list[int] = []
    gap: list[str] = []
    for k in range(i, len(tokens)):
        if tokens[k][0].isalnum():
            words.append(tokens[k])
            gaps.append(frozenset(gap))
            ends.append(k + 1)
            gap = []
        elif tokens[k] not in inside or not (words or tokens[k] == "("):
            break
        else:
            gap.append(tokens[k])
        if len(words) == longest:
            break
    return words, gaps, ends


def _end_of_name(tokens: list[str], start: int, end: int, closing: frozenset[str]) -> int:
    """Behind the marks that close a name: a bracket opened in it, the full stop of an abbreviation before a comma."""
    while end < len(tokens) and tokens[end] in closing:
        opened = tokens[start:end].count("(") > tokens[start:end].count(")")
        if not (opened if tokens[end] == ")" else tokens[end] == "?" or tokens[end + 1 : end + 2] == [","]):
            break
        end += 1
    return end


def _clauses(items: list[_Item]) -> Iterator[tuple[list[_Item], str]]:
    """Clauses, each with the mark or word that ends it."""
    clause: list[_Item] = []
    for i, item in enumerate(items):
        following = items[i + 1] if i + 1 < len(items) else None
        starts = item.kind == "comma" and following is not None and following.text.split(" ")[0] in NEW_START
        if item.kind == "break" or starts or _states(items, i, clause):
            yield clause, item.text
            clause = []
        else:
            clause.append(item)
    yield clause, ""


def _states(items: list[_Item], i: int, before: list[_Item]) -> bool:
    """Whether a comma or "and" at ``i``, with ``before`` in its clause, begins a statement: "..., positive for drusen"."""
    if items[i].kind != "comma" and (items[i].kind, items[i].text) != ("join", "and"):
        return False
    for k, item in enumerate(items[i + 1 : i + 2 + REACH]):
        pair = " ".join(it.text for it in items[i + 1 + k : i + 3 + k]).split(" ")[:2]
        if item.kind != "word" or item.text in NO_SUBJECT:
            return False
        if item.text in STATES or " ".join(pair) in STATES:
            break
    else:
        return False
    rest = list(takewhile(lambda item: item.kind != "break", items[i + 1 :]))
    asks = [it.text for it in items[i + 1 + len(rest) :][:1]] == ["?"]
    if asks or not any(it.kind == "name" for it in rest):
        return False
    scope = [j for j, it in enumerate(before) if it.kind in ("before", "both")]
    if not scope:
        return True
    said = [it.text for it in takewhile(lambda it: it.kind == "word", before[scope[-1] + 1 :])]
    if any(word in CONTENT for word in (*said, before[scope[-1]].text.split(" ")[-1])):
        return False
    if item.text == "showing":
        return k == 0
    verb = before[scope[-1]].says == OPEN or before[scope[-1]].text in ("not", "never")
    return k > 0 or item.text not in TIED or not verb


def _clause(items: list[_Item]) -> dict[int, str]:
    """Position of every name in one clause, and what is said of it."""
    items = list(items)
    status: dict[int, str] = {}
    for i, item in enumerate(items):  # "drusen: no"; "drusen: none detected"; "drusen no, glaucoma yes"
        marked = i >= 2 and items[i - 1].kind in ("colon", "dash")
        of = i - 2 if marked else i - 1
        whole = _ends_part(items, i) or (item.text == "none" and _only_words_follow(items, i))
        whole |= [it.kind for it in items[i + 1 : i + 3]] == ["name", "colon"]  # "drusen: no glaucoma: yes"
        verdict = re.sub(r"^([01])[.,]0+$", r"\1", item.text)  # 0.0 is 0
        if of >= 0 and whole and verdict in (VERDICTS if marked else BARE):
            for j in _chain(items, of):
                status[j] = VERDICTS[verdict]
            if items[of].kind == "name":
                items[i] = _Item("skip", item.text)
        listed = i >= 2 and [it.kind for it in items[i - 2 : i]] == ["name", "comma"] and item.kind != "name"
        listed &= i + 1 == len(items) or items[i + 1].kind == "comma"
        if listed and VERDICTS.get(verdict, AFFIRMED) != AFFIRMED:
            for j in _chain(items, i - 2):  # "glaucoma, no; drusen, yes"
                if _before(items, j) == AFFIRMED:
                    status[j] = VERDICTS[verdict]
            items[i] = _Item("skip", item.text)
    if len(items) > 1 and items[0].text == "no" and items[1].kind in ("comma", "colon"):
        items[0] = _Item("skip", "no")  # "No, ..." answers the question and denies nothing that follows
    if len(items) > 1 and items[0].kind == "after" and items[1].kind == "colon":
        items[0] = items[0]._replace(kind="before")  # "Absent: drusen, haemorrhage"
    for i, item in enumerate(items[1:], 1):  # "there is possible drusen"
        if item.kind == "after" and item.says == OPEN and items[i - 1].text == "there":
            items[i] = item._replace(kind="before")
    # "glaucoma is unlikely, ..." speaks of what comes before it, "unlikely glaucoma" of what follows.
    for i, item in enumerate(items):
        if item.kind == "both":
            ends = i + 1 == len(items) or items[i + 1].kind in ("comma", "join", "dash")
            # "glaucoma suspect in this eye", "glaucoma is unlikely here"; not "lesion of uncertain origin".
            if item.says == OPEN and item.text not in ("possibly", "maybe", "perhaps") and i > 0:
                linked = items[i - 1].kind == "name" or items[i - 1].text in LINKS
                ends |= linked and _only_words_follow(items, i)
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
    for i, item in enumerate(items):
        if item.kind == "join" and item.text in ALTERNATIVES:
            either = [j for j in _alternatives(items, i) if status[j] != DENIED]
            if len({items[j].name for j in either}) > 1:  # "PPA or peripapillary atrophy" is one thing
                status.update(dict.fromkeys(either, OPEN))
    return status


def _alternatives(items: list[_Item], i: int) -> list[int]:
    """Names on both sides of an "or" at ``i``, and those listed before them; none where a side has no name."""
    left, right = i - 1, i + 1
    while left >= 0 and items[left].kind in ("comma", "join"):
        left -= 1
    while right < len(items) and items[right].kind == "join":
        right += 1
    direct = left, right
    while left >= 0 and i - left <= REACH and items[left].kind == "word":
        left -= 1
    while right < len(items) and right - i <= REACH and (items[right].kind == "word" or items[right].says == OPEN):
        right += 1
    # "glaucoma or mild drusen", "glaucoma in this eye or drusen"; not "drusen in one or both eyes with glaucoma".
    if left < 0 or right == len(items) or (left != direct[0] and right != direct[1]) or items[right].kind != "name":
        return []
    found = [right]
    while left >= 0 and items[left].kind == "name":
        found.append(left)
        while left > 0 and items[left - 1].kind == "word":  # "early glaucoma, mild drusen or atrophy"
            left -= 1
        left = left - 2 if left > 1 and items[left - 1].kind == "comma" else -1
    return found if len(found) > 1 else []


def _parts(item: _Item) -> bool:
    return item.kind in ("comma", "dash") or (item.kind == "join" and item.text == "and")


def _ends_part(items: list[_Item], i: int) -> bool:
    return i + 1 == len(items) or _parts(items[i + 1])


def _only_words_follow(items: list[_Item], i: int) -> bool:
    """Whether the rest of the part holds neither names nor triggers."""
    return all(item.kind == "word" for item in takewhile(lambda item: not _parts(item), items[i + 1 :]))


def _before(items: list[_Item], i: int) -> str:
    """The nearest trigger to the left of the name decides; a dash or bracket ends its scope."""
    for j in range(i - 1, -1, -1):
        item = items[j]
        if item.kind == "dash":
            break
        if item.kind == "before" or (item.kind == "next" and j == i - 1):
            return item.says
        if item.kind == "name" and item.text.startswith(("no ", "not ", "without ")):
            # "no glaucoma or drusen" where "no glaucoma" is a name, but not "no glaucoma or glaucoma"
            return AFFIRMED if item.text.endswith(f" {items[i].text}") else DENIED
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

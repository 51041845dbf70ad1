"""Generated answers in free text to labels, and labels to answers: what scoring a language model by its words needs.

FairMed-VLM, *Toward Equitable Medical Diagnosis with Vision-Language Models*, sections 3.1 and 3.3, maps a generated answer to
a canonical option (one label) or to a vector of findings (several) by "string canonicalization + vocabulary mapping", without
saying more. The rules here are ours: names match as whole words whatever their case, accents and punctuation, the longest
name first; negation and doubt are read clause by clause; an answer that says nothing of the vocabulary is unknown, never wrong
in silence. No torch, no model; English.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fairloss.groups.encode import UNKNOWN

from . import answer_text as text_rules

NORMAL = ("normal", "healthy", "unremarkable", "none", "within normal limits")
"""Phrases that, affirmed, say that there is nothing to find."""
ANYTHING = (
    "finding",
    "findings",
    "abnormality",
    "abnormalities",
    "abnormal",
    "disease",
    "diseases",
    "pathology",
    "lesion",
    "lesions",
)
"""Phrases that, denied, say the same: "no abnormality"."""
_NORMAL, _ANYTHING = -1, -2
_LETTER = re.compile(
    r"\W*(?:(?:the\s+)?(?:correct\s+)?(?:answer|option|choice)(?:\s+is)?\W*)?([A-Za-z])(?:\W|$)(.*)", re.I | re.S
)

_FURTHER = re.compile(r"(?<![\w'\u2019-])([A-Za-z])(?=\s*$|[^\w\s'\u2019-]|\s+(?:or|and)\b)")


class ParsedAnswer(NamedTuple):
    """What one answer says.

    Attributes:
        affirmed: labels that it affirms, in the vocabulary's order.
        denied: labels that it denies.
        open: labels that it leaves open ("possible glaucoma", "glaucoma cannot be excluded") or says both ways.
        normal: whether it says that there is nothing to find.
        vague: whether it leaves open something that it does not name ("I cannot tell").
    """

    affirmed: tuple[str, ...]
    denied: tuple[str, ...]
    open: tuple[str, ...]
    normal: bool
    vague: bool


class AnswerVocabulary:
    """A fixed set of labels, each with its names, and the way from free text to them and back.

    Args:
        labels: the labels in order, or a mapping from each to its further names: spellings, plurals, abbreviations.
        normal_label: the label, one of ``labels``, that stands for "nothing to find", if there is one ("no finding",
            "healthy"): ``normal`` phrases and a denied "abnormality" mean it. Its own name comes back where no label is set.
        normal: phrases that say that there is nothing to find, beside "no finding" and the like.

    Raises:
        TypeError, ValueError: naming the argument: no label, a name without a word in it, a name of two labels, labels with
            commas whose list reads in two ways ("left", "upper" and "left, upper").

    Note:
        Everything in the text counts: cut a reasoning part (``<think>...</think>``), the prompt and quoted options off first.

        A negation reaches to the end of its clause, over commas, "and" and "or" ("no glaucoma, drusen or atrophy"
        denies three); full stop, semicolon, bracket, "but", "except", a comma before "with", "only" or "there", and a
        comma or "and" before "positive for", "shows", "has" or "there is" end it, and what a comma separates may be
        affirmed by itself ("no glaucoma, drusen present"). Behind a colon, dash, bracket or bar stands what is said of a
        name ("Drusen: not seen", "| drusen | no |", also "drusen, no; atrophy, yes"). "No, drusen" answers a
        question and affirms drusen. "Likely" and "consistent with" affirm, "possible", "may be", "suspect", "concern for",
        "unlikely", "cannot be excluded" and "n/a" leave open, and so does "or" or "vs" between names that are not denied.
        Two negations are not multiplied out. Words in between two words of a name are not skipped: give such variants as
        names. A name's own punctuation may be left out, other punctuation ends it.

    Example:
        >>> findings = AnswerVocabulary({"glaucoma": [], "drusen": [], "disc haemorrhage": ["disc hemorrhage"]})
        >>> findings.multi(["Drusen; no sign of glaucoma.", "No finding.", "A nice photograph.", "Possible drusen"]).tolist()
        [[0, 1, 0], [0, 0, 0], [-1, -1, -1], [0, -1, 0]]
        >>> findings.write([1, 0, 1]), findings.write([0, 0, 0])
        ('glaucoma, disc haemorrhage', 'no finding')
        >>> closed = AnswerVocabulary(["no glaucoma", "glaucoma"], normal_label="no glaucoma")
        >>> closed.single(["GLAUCOMA!", "No evidence of glaucoma.", "A healthy eye", "Glaucoma cannot be excluded"])
        array([ 1,  0,  0, -1])

    References:
        FairMed-VLM, *Toward Equitable Medical Diagnosis with Vision-Language Models*, sections 3.1, 3.3.
    """

    def __init__(
        self,
        labels: Sequence[str] | Mapping[str, Sequence[str]],
        *,
        normal_label: str | None = None,
        normal: Sequence[str] = NORMAL,
    ) -> None:
        if isinstance(labels, str):
            raise TypeError("labels: one string was given; a sequence of labels or a mapping is needed")
        if not isinstance(labels, (Mapping, Sequence)):
            raise TypeError(f"labels: a sequence of labels or a mapping is needed, {type(labels).__name__} was given")
        further = dict(labels) if isinstance(labels, Mapping) else dict.fromkeys(labels, ())
        if not further:
            raise ValueError("labels: at least one is needed")
        if len(further) != len(labels):
            raise ValueError(f"labels: one is repeated in {list(labels)}")
        if normal_label is not None and normal_label not in further:
            raise ValueError(f"normal_label: {normal_label!r} is not one of {list(further)}")
        self.labels = tuple(further)
        self.normal_label = normal_label
        self._names: dict[tuple[str, ...], int] = {}
        self._marks: dict[tuple[str, ...], tuple[frozenset[str], ...]] = {}
        for i, (label, names) in enumerate(further.items()):
            if isinstance(names, str):
                raise TypeError(f"labels[{label!r}]: one string was given; a sequence of names is needed")
            for name in (label, *names):
                words = _words(f"labels[{label!r}]", name)
                if self._names.setdefault(words, i) != i:
                    raise ValueError(
                        f"labels: {name!r} is a name of {self.labels[self._names[words]]!r} and of {label!r}"
                    )
                self._may_hold(words, text_rules.marks(name))
        # A label's own name comes first: "disease" may be one.
        for group, code in ((normal, _NORMAL), (ANYTHING, _ANYTHING)):
            for name in group:
                words = _words("normal", name)
                self._names.setdefault(words, code)
                self._may_hold(words, text_rules.marks(name))
        self._parts = [text_rules.list_parts(label) for label in self.labels]
        self._begin: dict[str, list[int]] = {}
        for i, parts in enumerate(self._parts):
            self._begin.setdefault(parts[0], []).append(i)
        if twice := self._two_ways():
            lists = [[self.labels[i] for i in way] for way in twice]
            raise ValueError(
                f"labels: {', '.join(lists[0])!r} may be {lists[0]} or {lists[1]}; write one without a comma"
            )
        self._nothing = self._no_label(normal)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"AnswerVocabulary({list(self.labels)}, normal_label={self.normal_label!r})"

    def parse(self, answer: Any) -> ParsedAnswer:
        """What ``answer`` says of every label; None and NaN say nothing.

        Raises:
            TypeError: ``answer`` is no text.

        Example:
            >>> findings = AnswerVocabulary(["glaucoma", "drusen", "atrophy"])
            >>> findings.parse("No glaucoma, but drusen; atrophy cannot be excluded.")
            ParsedAnswer(affirmed=('drusen',), denied=('glaucoma',), open=('atrophy',), normal=False, vague=False)
        """
        if answer is None or (isinstance(answer, float) and math.isnan(answer)):
            answer = ""
        if not isinstance(answer, str):
            raise TypeError(f"answer: a string is needed, {type(answer).__name__} was given")
        if written := self._written(answer):
            return ParsedAnswer(tuple(self.labels[i] for i in written), (), (), False, False)
        reading = text_rules.read(answer, self._names, self._marks)
        normal = _NORMAL in reading.affirmed or _ANYTHING in reading.denied

        def names(found: frozenset[int]) -> tuple[str, ...]:
            return tuple(label for i, label in enumerate(self.labels) if i in found)

        return ParsedAnswer(names(reading.affirmed), names(reading.denied), names(reading.open), normal, reading.vague)

    def single(self, answers: Iterable[str | None], *, letters: bool = False) -> NDArray[np.int64]:
        """The one label of each answer to a closed question, where exactly one can be true.

        The only label that is affirmed; else ``normal_label``, where the answer says that there is nothing to find; else the
        only one left, where all others are denied. -1 where that does not settle it: no label, several, or doubt.

        Args:
            answers: N generated texts; None is an answer that is missing.
            letters: answers may be the option's letter: "B", "(b)", "Answer: B", "B. drusen". Of several letters
                ("A or B") none counts, not even where one is denied ("A, not B").

        Returns:
            (N,) int64 indices of ``labels``, -1 = unknown.

        Example:
            >>> grades = AnswerVocabulary(["proliferative retinopathy", "non-proliferative retinopathy", "normal"])
            >>> grades.single(["It is non proliferative retinopathy", "Proliferative retinopathy.", "B", ""])
            array([ 1,  0, -1, -1])
            >>> grades.single(["(B)", "Answer: C.", "A. non-proliferative retinopathy"], letters=True)
            array([ 1,  2, -1])
        """
        return np.array([self._one(answer, letters) for answer in _texts(answers)], dtype=np.int64)

    def multi(self, answers: Iterable[str | None]) -> NDArray[np.int64]:
        """Every answer as a row of findings: 1 affirmed, 0 denied or not named, -1 left open or said both ways.

        An answer names what there is, so a finding that it does not name is absent. An answer that names none and does not
        say that there is nothing is a row of -1: it cannot be scored, and "0 everywhere" would take it for "healthy".

        Args:
            answers: N generated texts; None is an answer that is missing.

        Returns:
            (N, L) int64 of 1, 0 and -1.
        """
        table = [self._row(self.parse(answer)) for answer in _texts(answers)]
        return np.array(table, dtype=np.int64).reshape(len(table), len(self))

    def write(self, target: int | ArrayLike) -> str:
        """The canonical answer: a label's name for its index, the names of the findings of a row, "no finding" for none.

        What it writes, :meth:`single` and :meth:`multi` read back, whatever words the labels hold; only a row of zeros comes
        back as ``normal_label``, where there is one. Where "no finding" is a label, another phrase stands for none.

        Args:
            target: an index of ``labels``, or a row (L,) of 0 and 1.

        Raises:
            ValueError: an index out of range, another shape, a row that is not of 0 and 1.

        Example:
            >>> AnswerVocabulary(["glaucoma", "drusen"]).write(1)
            'drusen'
        """
        row = np.asarray(target)
        if row.ndim == 0 and row.dtype.kind in "iu":
            if not 0 <= row < len(self):
                raise ValueError(f"target: {row} is not an index of {len(self)} labels")
            return self.labels[int(row)]
        if row.shape != (len(self),) or not np.isin(row, (0, 1)).all():
            raise ValueError(f"target: an index or a row of {len(self)} values 0 and 1 is needed, {target!r} was given")
        return ", ".join(label for label, found in zip(self.labels, row, strict=True) if found) or self._nothing

    def _may_hold(self, words: tuple[str, ...], marks: tuple[frozenset[str], ...]) -> None:
        if any(marks):
            known = self._marks.get(words, marks)
            self._marks[words] = tuple(a | b for a, b in zip(known, marks, strict=True))

    def _no_label(self, normal: Sequence[str]) -> str:
        """What stands for a row of zeros: "no finding", or what says the same where that is a label."""
        if self.normal_label is not None:
            return self.normal_label
        for text in ("no finding", *normal, "without abnormality", "free of disease"):
            if not any(self._row(self.parse(text))):
                return text
        raise ValueError("labels: they leave no words for an answer that names none of them; normal_label is needed")

    def _begins(self, parts: tuple[str, ...], after: int) -> list[int]:
        """Labels behind ``after`` that ``parts`` may begin with."""
        return [
            i for i in self._begin.get(parts[0], ()) if i > after and parts[: len(self._parts[i])] == self._parts[i]
        ]

    def _written(self, answer: str) -> tuple[int, ...]:
        """The labels, if ``answer`` is a list of them as :meth:`write` writes it, with or without a full stop."""
        whole = text_rules.list_parts(answer)
        for parts in dict.fromkeys((whole, (*whole[:-1], whole[-1].rstrip(".! ")))):
            ways: list[tuple[int, tuple[int, ...]]] = [(0, ())]
            while ways:
                at, found = ways.pop()
                if at == len(parts):
                    return found
                following = self._begins(parts[at:], found[-1] if found else -1)
                ways += [(at + len(self._parts[i]), (*found, i)) for i in following]
        return ()

    def _two_ways(self) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """Two rows of findings that :meth:`write` would write alike, as where a label is the list of others."""
        # Of the two lists one is ahead, by the parts that are left.
        ways: list[tuple[tuple[int, ...], tuple[int, ...], tuple[str, ...]]] = [
            ((i,), (j,), parts[len(self._parts[j]) :])
            for i, parts in enumerate(self._parts)
            if len(parts) > 1
            for j in self._begins(parts, -1)
            if j != i
        ]
        seen = set()
        while ways:
            ahead, behind, left = ways.pop()
            if not left:
                return ahead, behind
            if (state := (ahead[-1], behind[-1], left)) in seen:
                continue
            seen.add(state)
            for i in self._begin.get(left[0], ()):
                parts, common = self._parts[i], min(len(left), len(self._parts[i]))
                if i <= behind[-1] or parts[:common] != left[:common]:
                    continue
                ahead_still = len(left) >= len(parts)
                further = (*behind, i)
                ways.append((ahead, further, left[common:]) if ahead_still else (further, ahead, parts[common:]))
        return None

    def _row(self, said: ParsedAnswer) -> list[int]:
        if not (said.affirmed or said.denied or said.open or said.normal):
            return [UNKNOWN] * len(self)
        unnamed = UNKNOWN if said.vague else 0
        row = [unnamed] * len(self)
        for names, value in ((said.affirmed, 1), (said.denied, 0), (said.open, UNKNOWN)):
            for name in names:
                row[self.labels.index(name)] = value
        if said.normal and self.normal_label is not None and not (said.affirmed or said.open):
            row[self.labels.index(self.normal_label)] = 1
        return row

    def _further_letters(self, rest: str, upper: bool) -> list[int]:
        """Options whose letters stand by themselves behind the first one, in its case; "A disc" holds an article."""
        found = [ord(letter.upper()) - ord("A") for letter in _FURTHER.findall(rest) if letter.isupper() == upper]
        return [i for i in found if i < len(self)]

    def _one(self, answer: str | None, letters: bool) -> int:
        if (
            letters
            and isinstance(answer, str)
            and (match := _LETTER.match(answer))
            and (len(answer.strip()) == 1 or not self._written(answer))  # "A-scan" may be a label
        ):
            index, rest = ord(match[1].upper()) - ord("A"), match[2]
            # A letter with text behind it: "A disc haemorrhage" is an article, "A. drusen" an option.
            marked = answer[match.end(1) : match.end(1) + 1] != " " or not rest.strip()
            if marked and index < len(self):
                if any(i != index for i in self._further_letters(rest, match[1].isupper())):
                    return UNKNOWN
                said = self.parse(rest)
                named = said.affirmed or (said.open if len(said.open) > 1 else ())
                return index if not named or named == (self.labels[index],) else UNKNOWN
        said = self.parse(answer)
        if said.affirmed:
            return self.labels.index(said.affirmed[0]) if len(said.affirmed) == 1 else UNKNOWN
        if said.open or said.vague:
            return UNKNOWN
        if said.normal and self.normal_label is not None and self.normal_label not in said.denied:
            return self.labels.index(self.normal_label)
        left = [i for i, label in enumerate(self.labels) if label not in said.denied]
        return left[0] if said.denied and len(left) == 1 else UNKNOWN


def _words(where: str, name: Any) -> tuple[str, ...]:
    if not isinstance(name, str):
        raise TypeError(f"{where}: a name is a string, {type(name).__name__} was given")
    words = text_rules.phrase(name)
    if not words:
        raise ValueError(f"{where}: {name!r} has no word in it")
    return words


def _texts(answers: Iterable[str | None]) -> Iterable[str | None]:
    if isinstance(answers, str):
        raise TypeError("answers: one string was given; a sequence of strings is needed")
    if not isinstance(answers, Iterable):
        raise TypeError(f"answers: a sequence of strings is needed, {type(answers).__name__} was given")
    return answers

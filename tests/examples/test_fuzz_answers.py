"""Any text through the answer vocabulary: labels in range, and what it writes it reads back."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st

from common.answers import AnswerVocabulary
from tests.fuzz.drawing import fuzz, refused

FINDINGS = AnswerVocabulary({"glaucoma": ["POAG"], "drusen": [], "disc haemorrhage": ["disc hemorrhage"]})
GRADES = AnswerVocabulary(["no glaucoma", "glaucoma", "suspect"], normal_label="no glaucoma")
TERMS = """glaucoma drusen disc haemorrhage no not without possible likely cannot be excluded but , . ; ( ) None normal
findings suspect A) (b) POAG GLAUCOMA! é 眼"""
WORDS = st.sampled_from([*TERMS.split(), "\x00", "\n", " "])
TEXTS = st.one_of(st.lists(WORDS, max_size=8).map(" ".join), st.text(max_size=12), st.none())


@fuzz(answers=st.lists(TEXTS, max_size=3), letters=st.booleans())
def test_any_text(answers, letters):
    single, multi = GRADES.single(answers, letters=letters), FINDINGS.multi(answers)
    assert single.shape == (len(answers),)
    assert multi.shape == (len(answers), 3)
    assert all(-1 <= i < 3 for i in single.tolist())
    assert set(multi.ravel().tolist()) <= {-1, 0, 1}
    for answer, row in zip(answers, multi.tolist(), strict=True):
        said = FINDINGS.parse(answer)
        for label, value in zip(FINDINGS.labels, row, strict=True):
            places = [label in part for part in (said.affirmed, said.denied, said.open)]
            assert sum(places) <= 1
            assert (value == 1) == places[0]
            assert not places[1] or value == 0
            assert not places[2] or value == -1
        if not (answer or "").strip():
            assert row == [-1, -1, -1]


@fuzz(row=st.lists(st.integers(0, 1), min_size=3, max_size=3), index=st.integers(0, 2))
def test_what_it_writes_it_reads(row, index):
    assert FINDINGS.multi([FINDINGS.write(row)]).tolist() == [row]
    assert GRADES.single([GRADES.write(index)]).tolist() == [index]


MARKS = """( ) [ ] | : ; , . ? ! - (-) / ' \u2014 \u2717 no or and possible absent yes n 0 0.0 n/a normal finding
glaucoma left upper"""
NAMES = st.lists(st.sampled_from([*MARKS.split(), " ", ", ", " - ", "\n"]), min_size=1, max_size=6).map("".join)


@fuzz(
    labels=st.lists(NAMES, min_size=1, max_size=4),
    rows=st.lists(st.integers(0, 15), max_size=4),
)
def test_any_label_it_accepts_is_read_back(labels, rows):
    try:
        vocabulary = AnswerVocabulary(labels)
    except ValueError as error:
        refused(error, "labels")
        return
    for i in range(len(labels)):
        assert vocabulary.single([vocabulary.write(i)]).tolist() == [i]
    for bits in rows:
        row = [bits >> i & 1 for i in range(len(labels))]
        assert vocabulary.multi([vocabulary.write(row)]).tolist() == [row]


@fuzz(
    labels=st.one_of(
        st.lists(st.one_of(st.text(max_size=3), st.none(), st.integers()), max_size=3),
        st.dictionaries(st.text(max_size=3), st.lists(st.text(max_size=3), max_size=2), max_size=3),
        st.sampled_from(["one", None, 3, {"a": "text"}, {"a": [None]}]),
    ),
    bad=st.sampled_from((3, [1], ["a", 2], "text", {"a": 1})),
)
def test_wrong_arguments(labels, bad):
    try:
        vocabulary = AnswerVocabulary(labels)
    except (ValueError, TypeError) as error:
        refused(error, "labels|normal")
    else:
        assert len(vocabulary) == len(labels) > 0
    if not isinstance(bad, dict):  # whose keys are texts
        with pytest.raises((ValueError, TypeError), match="answer"):
            FINDINGS.multi(bad)
    for target in (bad, [0, 1], [0, 1, 2], -1, 3, None):
        with pytest.raises((ValueError, TypeError), match="target"):
            FINDINGS.write(target)

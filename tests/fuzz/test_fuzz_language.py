"""Questions as instructions, and listed answers: any text is written or read, or refused by the argument's name."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from fairloss import format_instruction, read_answers
from tests.fuzz.drawing import fuzz, refused


@fuzz(
    "fairloss.format_instruction",
    question=st.one_of(st.text(max_size=5), st.none(), st.integers()),
    options=st.one_of(st.lists(st.text(max_size=3), max_size=28), st.sampled_from(["ab", None, 3, [1]])),
    patient=st.one_of(
        st.none(), st.dictionaries(st.text(max_size=3), st.one_of(st.none(), st.floats(), st.text(max_size=3)), max_size=2),
        st.sampled_from(["text", 3]),
    ),
)  # fmt: skip
def test_instruction(question, options, patient):
    try:
        text = format_instruction(question, options=options, patient=patient)
    except (ValueError, TypeError) as error:
        refused(error, "question|options|patient")
        return
    assert text.startswith("<image>")
    assert text.endswith("Answer:")
    assert question.strip() in text
    assert all(f"{chr(65 + i)}. {option}" in text for i, option in enumerate(options))
    assert ("\nPatient: " in text) == any(
        v is not None and v == v for v in (patient or {}).values()
    ) or "Patient" in text


LISTED = ["glaucoma", "Drusen", "no finding", "St. Anna Hosp.", "0"]
TEXTS = st.one_of(
    st.sampled_from([*LISTED, "no drusen", "", " ", "glaucoma drusen", "x"]), st.text(max_size=5), st.none()
)


@fuzz(
    "fairloss.read_answers",
    texts=st.one_of(
        st.lists(TEXTS, max_size=4), st.sampled_from(["drusen", None, 3, [1], [b"drusen"], [float("nan")]])
    ),
    marks=st.text(" .,;:!?\n", max_size=4),
    answers=st.one_of(
        st.just(LISTED), st.lists(st.text(max_size=3), max_size=3), st.sampled_from(["ab", None, 3, [1], [None]])
    ),
)
def test_listed_answers(texts, marks, answers):
    try:
        found = read_answers(texts, answers)
    except (ValueError, TypeError) as error:
        refused(error, "texts|answers")
        return
    assert found.dtype == np.int64
    assert found.shape == (len(texts),)
    assert all(-1 <= i < len(answers) for i in found.tolist())
    for text, i in zip(texts, found.tolist(), strict=True):
        if isinstance(text, str):
            # What counts decides alone: the phrase itself, or one that is unknown with any marks at its end.
            assert read_answers([text + marks, f"  {text}"], answers).tolist() == [i, i]
    assert read_answers([a.upper().lower() + marks for a in LISTED], LISTED).tolist() == [0, 1, 2, 3, 4]

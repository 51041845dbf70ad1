"""Free text to labels: negation, doubt, lists, structured answers, overlapping names; and back."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.answers import AnswerVocabulary

FINDINGS = AnswerVocabulary({
    "glaucoma": [],
    "drusen": [],
    "peripapillary atrophy": ["PPA"],
    "atrophy": [],
    "disc haemorrhage": ["hemorrhage", "haemorrhages"],
})  # fmt: skip
G, D, P, A, H = range(5)

# (answer, affirmed, denied, open); what is not named is 0 in a row.


def test_doubt_about_the_rest_leaves_the_rest_open():
    assert FINDINGS.multi(["Drusen. I cannot tell about the rest."]).tolist() == [[-1, 1, -1, -1, -1]]


CLOSED = AnswerVocabulary({"no glaucoma": [], "glaucoma": ["glaucomatous damage"]}, normal_label="no glaucoma")


@pytest.mark.parametrize(
    ("answer", "label"),
    [("glaucoma", 1), ("no glaucoma", 0), ("No evidence of glaucoma", 0), ("Glaucoma is absent", 0), ("glaucomatous damage", 1),
     ("Glaucoma: yes", 1), ("Glaucoma: no", 0), ("healthy", 0),
     ("Glaucoma, or no glaucoma?", -1), ("glaucoma or no glaucoma", -1), ("no glaucoma or glaucoma", -1),
     ("possible glaucoma", -1), ("glaucoma cannot be excluded", -1), ("blurred", -1), ("not healthy", -1)],
)  # fmt: skip
def test_closed_question(answer, label):
    assert CLOSED.single([answer]).tolist() == [label]


def test_a_name_that_begins_with_no_denies_what_is_joined_to_it():
    vocabulary = AnswerVocabulary(["no glaucoma", "glaucoma", "drusen"])
    assert vocabulary.multi(["no glaucoma or drusen"]).tolist() == [[1, 0, 0]]


def test_the_only_option_left_and_several_left():
    grades = AnswerVocabulary(["mild", "moderate", "severe"])
    answers = [
        "Neither mild nor severe",
        "not mild",
        "moderate, not severe",
        "mild or moderate",
        "not mild, moderate or severe",
    ]
    assert grades.single(answers).tolist() == [1, -1, 1, -1, -1]


def test_yes_and_no_may_be_the_options():
    words = AnswerVocabulary({"no": ["absent"], "yes": ["present"]})
    answers = ["Yes.", "no", "No, it is absent", "Yes, no doubt", "It is present", "yes and no", "maybe"]
    assert words.single(answers).tolist() == [1, 0, 0, 1, 1, -1, -1]


@pytest.mark.parametrize(
    ("answer", "label"),
    [("B", 1), ("b", 1), ("(B)", 1), ("B.", 1), ("Answer: B", 1), ("The correct answer is (c).", 2), ("Option A", 0),
     ("B. drusen", 1), ("B) glaucoma", -1), ("A disc haemorrhage", 2), ("D", -1), ("glaucoma", 0), ("I see drusen", 1),
     ("Answer: drusen", 1), ("", -1), (None, -1), ("BB", -1),
     ("(A) or (B)", -1), ("A, B", -1), ("A/B", -1), ("A, not B", -1), ("(a) or (b)", -1), ("a, b and c", -1), ("B. A or C", -1),
     ("Answer: A, C", -1),
     ("B. drusen or glaucoma", -1), ("B. possible drusen", 1),
     ("B. B is right", 1), ("B, a finding", 1), ("C. A disc haemorrhage", 2), ("C. A-scan", 2),
     ("B, Z", 1), ("(B) I'd say", 1), ("B. Patient's drusen", 1)],
)  # fmt: skip
def test_letters_of_options(answer, label):
    options = AnswerVocabulary(["glaucoma", "drusen", "disc haemorrhage"])
    assert options.single([answer], letters=True).tolist() == [label]
    if answer and len(answer) < 4:
        assert options.single([answer]).tolist() == [-1]


def test_a_label_that_begins_like_a_letter():
    assert AnswerVocabulary(["B-scan", "A-scan"]).single(["A-scan", "B", "A"], letters=True).tolist() == [1, 1, 0]


@pytest.mark.parametrize("decorate", [str, str.upper, lambda t: f"Findings:\n- {t}.", lambda t: f"The eye shows {t}!"])
def test_every_subset_is_read_back(decorate):
    for row in itertools.product((0, 1), repeat=5):
        assert FINDINGS.multi([decorate(FINDINGS.write(row))])[0].tolist() == list(row)
    assert [int(CLOSED.single([decorate(CLOSED.write(i))])[0]) for i in range(2)] == [0, 1]


PUNCTUATED = ["Glaucoma (POAG)", "H40.1", "left, upper", "mild: early", "edema - pulmonary", "pneumonia [viral]", "St. Anna",
              "(POAG) glaucoma", "retina | drusen", "a; b", "St. Anna Hosp.", "x?"]  # fmt: skip


@pytest.mark.parametrize("label", PUNCTUATED)
def test_labels_with_punctuation(label):
    vocabulary = AnswerVocabulary([label, "other", "left"])
    bare = label.translate(str.maketrans("", "", "()[]|:;,-?"))
    answers = [label, f"The eye shows {label}!", f"{label} is present", bare, bare.upper(), f"{label}; no other"]
    assert vocabulary.single(answers).tolist() == [0] * len(answers)
    assert vocabulary.multi([f"No {label}, other", f"Findings:\n- {label}\n- other"]).tolist() == [[0, 0, 0], [1, 1, 0]]
    for row in itertools.product((0, 1), repeat=3):
        assert vocabulary.multi([vocabulary.write(row)])[0].tolist() == list(row)


def test_punctuation_that_is_not_the_names_own_ends_it():
    answers = ["left upper", "left, upper", "left. Upper", "left; upper", "left (upper)"]
    assert AnswerVocabulary(["left upper", "x"]).single(answers).tolist() == [0, -1, -1, -1, -1]
    assert AnswerVocabulary(["left, upper", "x"]).single(answers).tolist() == [0, 0, -1, -1, -1]
    poag = AnswerVocabulary(["Glaucoma (POAG)", "drusen"])  # the second bracket is the sentence's
    assert poag.multi(["no drusen (glaucoma POAG)", "no drusen (glaucoma (POAG))"]).tolist() == [[1, 0], [1, 0]]


@pytest.mark.parametrize("labels", [["left", "upper", "left, upper"], ["a, b", "c", "a", "b, c"]])
def test_labels_whose_list_reads_in_two_ways(labels):
    with pytest.raises(ValueError, match="labels: '.*' may be"):
        AnswerVocabulary(labels)
    assert len(AnswerVocabulary(["upper", "left", "left, upper"])) == 3  # "upper, left" is never written otherwise


def test_labels_that_are_negations_or_stand_for_nothing_are_read_back():
    for labels in (["no glaucoma", "drusen"], ["possible glaucoma", "no"], ["no finding", "x"], ["finding", "no"]):
        vocabulary = AnswerVocabulary(labels)
        for row in itertools.product((0, 1), repeat=2):
            assert vocabulary.multi([vocabulary.write(row)])[0].tolist() == list(row)
    phrases = ["no finding", "none", "without abnormality", "free of disease"]
    with pytest.raises(ValueError, match="labels: .* normal_label is needed"):
        AnswerVocabulary(phrases, normal=["none"])
    assert AnswerVocabulary(phrases, normal=["none"], normal_label="none").write([0] * 4) == "none"


@given(st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_text_gives_a_verdict(text):
    row = FINDINGS.multi([text])
    assert row.dtype == np.int64
    assert set(row.ravel().tolist()) <= {-1, 0, 1}
    assert -1 <= FINDINGS.single([text], letters=True)[0] < 5


WORDS = "no not glaucoma drusen , . but and is absent possible : yes can be excluded ? ( ) - unclear"
words = st.sampled_from(WORDS.split(" "))


@given(st.lists(words, max_size=14))
@settings(max_examples=300, deadline=None)
def test_sentences_of_triggers_say_each_thing_once(parts):
    """Whatever the order, a name is affirmed, denied or open, and is never reported without being there."""
    said = FINDINGS.parse(" ".join(parts))
    named = [*said.affirmed, *said.denied, *said.open]
    assert len(named) == len(set(named))
    assert set(named) <= {"glaucoma", "drusen"} & set(parts)


def test_shapes_of_nothing_and_of_many():
    assert FINDINGS.multi([]).shape == (0, 5)
    assert FINDINGS.single([]).shape == (0,)
    assert FINDINGS.multi(iter(["drusen"] * 3)).shape == (3, 5)
    assert len(FINDINGS) == 5
    assert "drusen" in repr(FINDINGS)


@pytest.mark.parametrize(
    ("labels", "options", "error", "match"),
    [
        ("glaucoma", {}, TypeError, "labels: one string"),
        ([], {}, ValueError, "labels: at least one"),
        (["a", "a"], {}, ValueError, "repeated"),
        (["x", "X!"], {}, ValueError, "'X!' is a name of 'x' and of 'X!'"),
        ({"x": ["y"], "z": ["Y"]}, {}, ValueError, "a name of 'x' and of 'z'"),
        (["..."], {}, ValueError, "no word"),
        ([3], {}, TypeError, "a name is a string, int"),
        ({"x": "y"}, {}, TypeError, "labels\\['x'\\]: one string"),
        (["x"], {"normal_label": "y"}, ValueError, "normal_label: 'y'"),
        (["x"], {"normal": [""]}, ValueError, "normal: ''"),
    ],
)
def test_bad_vocabularies(labels, options, error, match):
    with pytest.raises(error, match=match):
        AnswerVocabulary(labels, **options)


def test_bad_answers_and_targets():
    with pytest.raises(TypeError, match="answers: one string"):
        FINDINGS.single("glaucoma")
    with pytest.raises(TypeError, match="answer: a string is needed, int"):
        FINDINGS.multi([3])
    for target in (5, -1, [0, 1], [0, 1, 2, 0, 0], 0.5):
        with pytest.raises(ValueError, match="target:"):
            FINDINGS.write(target)


def test_no_torch_is_needed():
    code = "import sys; from common.answers import AnswerVocabulary; AnswerVocabulary(['a']); assert 'torch' not in sys.modules"
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )

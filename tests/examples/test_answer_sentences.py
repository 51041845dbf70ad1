"""What each sentence of an answer affirms, denies and leaves open."""

from __future__ import annotations

import pytest

from common.answers import AnswerVocabulary
from tests.examples.test_answers import FINDINGS

G, D, P, A, H = range(5)

# (answer, affirmed, denied, open); what is not named is 0 in a row.
SAID = [
    ("Glaucoma.", {G}, (), ()),
    ("gLAUcoma!!", {G}, (), ()),
    ("  - glaucoma\n  - drusen\n", {G, D}, (), ()),
    ("1. glaucoma\n2. drusen", {G, D}, (), ()),
    ("Haemorrhages, PPA", {H, P}, (), ()),
    ("Hæmorrhage? gläucoma", {G}, (), ()),
    ("Findings: drusen", {D}, (), ()),
    ("cup-to-disc ratio 0.7, glaucoma", {G}, (), ()),
    ("likely glaucoma, consistent with drusen", {G, D}, (), ()),
    # the longest name first, whole words alone
    ("PERIPAPILLARY   ATROPHY", {P}, (), ()),
    ("peri-papillary atrophy", {A}, (), ()),
    ("peripapillary-atrophy", {P}, (), ()),
    ("peripapillary atrophy and atrophy", {P, A}, (), ()),
    ("no peripapillary atrophy, but atrophy", {A}, {P}, ()),
    # negation before, after, over lists, and where it ends
    ("No glaucoma.", (), {G}, ()),
    ("no glaucoma, drusen or atrophy", (), {G, D, A}, ()),
    ("No glaucoma and no drusen", (), {G, D}, ()),
    ("Neither glaucoma nor drusen", (), {G, D}, ()),
    ("There isn't any glaucoma", (), {G}, ()),
    ("There isn\u2019t any glaucoma", (), {G}, ()),
    ("The image does not show glaucoma", (), {G}, ()),
    ("non-glaucoma", (), {G}, ()),
    ("non glaucomatous eye with drusen", {D}, (), ()),
    ("Negative for glaucoma", (), {G}, ()),
    ("free of drusen", (), {D}, ()),
    ("glaucoma without drusen", {G}, {D}, ()),
    ("glaucoma rather than drusen", {G}, {D}, ()),
    ("glaucoma is absent", (), {G}, ()),
    ("glaucoma and drusen are not seen", (), {G, D}, ()),
    ("glaucoma, drusen and atrophy were not detected", (), {G, D, A}, ()),
    ("drusen in the left eye is absent", (), {D}, ()),
    ("glaucoma has been ruled out", (), {G}, ()),
    ("glaucoma is not present, drusen is present", {D}, {G}, ()),
    ("glaucoma is present, drusen is absent", {G}, {D}, ()),
    ("no glaucoma; drusen", {D}, {G}, ()),
    ("no glaucoma. Drusen", {D}, {G}, ()),
    ("no glaucoma but drusen, atrophy", {D, A}, {G}, ()),
    ("no glaucoma (but drusen)", {D}, {G}, ()),
    ("no glaucoma, with drusen", {D}, {G}, ()),
    ("no glaucoma, only drusen", {D}, {G}, ()),
    ("no glaucoma, there is drusen", {D}, {G}, ()),
    ("The finding is not drusen but glaucoma", {G}, {D}, ()),
    ("glaucoma is not accompanied by drusen", {G}, {D}, ()),
    ("not only glaucoma but also drusen", {G, D}, (), ()),
    ("There is no doubt that this is glaucoma", {G}, (), ()),
    # a reply to the question, a question that is answered, a question that is not
    ("No, drusen.", {D}, (), ()),
    ("No, there is no glaucoma.", (), {G}, ()),
    ("Yes, glaucoma.", {G}, (), ()),
    ("Is there glaucoma? No.", (), {G}, ()),
    ("Is there glaucoma? Yes, and drusen.", {G, D}, (), ()),
    ("Glaucoma? Drusen.", {D}, (), ()),
    # structured answers
    ("Glaucoma: no; drusen: yes", {D}, {G}, ()),
    ("Glaucoma: no, drusen: yes, atrophy: unknown", {D}, {G}, {A}),
    ("glaucoma - no, drusen - yes", {D}, {G}, ()),
    ("glaucoma \u2014 absent", (), {G}, ()),
    ("glaucoma (absent), drusen (present)", {D}, {G}, ()),
    ("glaucoma=1, drusen=0", {G}, {D}, ()),
    ("Absent: glaucoma, drusen. Present: atrophy.", {A}, {G, D}, ()),
    ("Drusen: not seen.", (), {D}, ()),
    ("Glaucoma: ruled out", (), {G}, ()),
    ("Glaucoma: not detected.", (), {G}, ()),
    ("Drusen (not seen), glaucoma (present)", {G}, {D}, ()),
    ("drusen - not visible, glaucoma - present", {G}, {D}, ()),
    ("drusen no, glaucoma yes", {G}, {D}, ()),
    ("glaucoma yes, drusen no", {G}, {D}, ()),
    ("| drusen | no |", (), {D}, ()),
    ("| drusen | no | glaucoma | yes |", {G}, {D}, ()),
    ("| drusen | yes |\n| glaucoma | not seen |", {D}, {G}, ()),
    ("Drusen: no evidence", (), {D}, ()),
    ("Drusen: no evidence, glaucoma: yes", {G}, {D}, ()),
    ("Drusen: none detected", (), {D}, ()),
    ("Drusen: none, glaucoma: none seen, atrophy: yes", {A}, {D, G}, ()),
    ("Drusen: no evidence of glaucoma", {D}, {G}, ()),
    ("Drusen: no increase", (), (), {D}),
    ("Glaucoma: suspected", (), (), {G}),
    ("Glaucoma: the disc is not visible", (), (), {G}),
    ("drusen is false", (), {D}, ()),
    ("It is false that there is drusen", (), {D}, ()),
    # a comma and an affirmation of one's own
    ("No drusen, glaucoma present.", {G}, {D}, ()),
    ("No drusen, glaucoma is present", {G}, {D}, ()),
    ("possible drusen, glaucoma present", {G}, (), {D}),
    ("no drusen or glaucoma present", (), {D, G}, ()),
    ("no drusen, atrophy or glaucoma present", (), {D, A, G}, ()),
    # a statement that affirms ends a denial
    ("negative for glaucoma and drusen, positive for atrophy", {A}, {G, D}, ()),
    ("Negative for glaucoma and positive for drusen", {D}, {G}, ()),
    ("No glaucoma, positive for drusen", {D}, {G}, ()),
    ("No glaucoma, shows drusen", {D}, {G}, ()),
    ("no glaucoma, showing drusen and atrophy", {D, A}, {G}, ()),
    ("The eyes show no glaucoma, show drusen", {D}, {G}, ()),
    ("Patient has no glaucoma, and has drusen", {D}, {G}, ()),
    ("Patient does not have glaucoma and has drusen", {D}, {G}, ()),
    ("no glaucoma and there are drusen", {D}, {G}, ()),
    ("no glaucoma and there may be drusen", (), {G}, {D}),
    ("no glaucoma and there is possible drusen", (), {G}, {D}),
    ("There is possible drusen", (), (), {D}),
    ("no glaucoma and there's drusen", {D}, {G}, ()),
    ("no glaucoma and the disc shows drusen", {D}, {G}, ()),
    ("possible glaucoma and there are drusen", {D}, (), {G}),
    ("there is no glaucoma and there are no drusen", (), {G, D}, ()),
    ("no glaucoma and shows no drusen", (), {G, D}, ()),
    ("patient has no glaucoma and no drusen", (), {G, D}, ()),
    ("does not show drusen", (), {D}, ()),
    ("not positive for drusen", (), {D}, ()),
    ("no glaucoma, not positive for drusen", (), {G, D}, ()),
    ("The eyes do not show glaucoma and have drusen", (), {G, D}, ()),
    ("There is no evidence that there is glaucoma and there are drusen", (), {G, D}, ()),
    ("I cannot tell whether there is glaucoma and there are drusen", (), (), {G, D}),
    ("no glaucoma and lesions that have drusen", (), {G, D}, ()),
    ("no glaucoma and no eye has drusen", (), {G, D}, ()),
    ("Does it show glaucoma and has it drusen? Atrophy.", {A}, (), ()),
    ("glaucoma, has unclear borders", {G}, (), ()),
    # what is said of a name, behind a comma
    ("glaucoma, no; drusen, yes", {D}, {G}, ()),
    ("glaucoma, no, drusen, yes", {D}, {G}, ()),
    ("glaucoma, yes, drusen, no", {G}, {D}, ()),
    ("glaucoma and drusen, absent; atrophy, unknown", (), {G, D}, {A}),
    ("drusen, no glaucoma", {D}, {G}, ()),
    ("no glaucoma, possible", (), {G}, ()),
    ("no glaucoma, drusen, unclear", (), {G, D}, ()),
    # doubt
    ("possible glaucoma", (), (), {G}),
    ("Glaucoma is possible.", (), (), {G}),
    ("glaucoma cannot be excluded", (), (), {G}),
    ("Glaucoma can't be excluded, drusen is present.", {D}, (), {G}),
    ("I cannot tell whether there is glaucoma.", (), (), {G}),
    ("It may be glaucoma", (), (), {G}),
    ("Glaucoma is unlikely, drusen is present.", {D}, (), {G}),
    ("unlikely glaucoma", (), (), {G}),
    ("rule out glaucoma", (), (), {G}),
    ("no drusen, possible glaucoma", (), {D}, {G}),
    ("possible glaucoma, no drusen", (), {D}, {G}),
    ("Glaucoma. No glaucoma.", (), (), {G}),
    ("Glaucoma may be present.", (), (), {G}),
    ("glaucoma might be present, drusen is seen", {D}, (), {G}),
    ("Glaucoma could possibly be present", (), (), {G}),
    ("Glaucoma may not be present", (), (), {G}),
    ("glaucoma and drusen may be present and atrophy is absent", (), {A}, {G, D}),
    ("drusen in an eye that may be glaucomatous", {D}, (), ()),
    ("glaucoma cannot be confirmed", (), (), {G}),
    ("glaucoma could not be excluded", (), (), {G}),
    ("glaucoma must be ruled out", (), (), {G}),
    ("Glaucoma suspect.", (), (), {G}),
    ("glaucoma suspect in the left eye, drusen", {D}, (), {G}),
    ("I suspect glaucoma", (), (), {G}),
    ("glaucoma suspected", (), (), {G}),
    ("glaucoma is not suspected", (), {G}, ()),
    ("Findings raise concern for glaucoma", (), (), {G}),
    ("concerning for glaucoma", (), (), {G}),
    ("suspicious for glaucoma", (), (), {G}),
    ("no suspicion of glaucoma", (), {G}, ()),
    ("Drusen and possibly glaucoma", {D}, (), {G}),
    ("glaucoma unlikely here and drusen", {D}, (), {G}),
    ("drusen of uncertain age", {D}, (), ()),
    ("glaucoma denied", (), {G}, ()),
    ("Patient denies glaucoma", (), {G}, ()),
    ("Patient denied glaucoma", (), {G}, ()),
    ("Denied: glaucoma", (), {G}, ()),
    # signs, letters and numbers
    ("glaucoma: N", (), {G}, ()),
    ("glaucoma: N, drusen: Y", {D}, {G}, ()),
    ("Glaucoma? N", (), {G}, ()),
    ("glaucoma: 0", (), {G}, ()),
    ("glaucoma: 0.0; drusen: 1.0", {D}, {G}, ()),
    ("glaucoma 0", (), {G}, ()),
    ("glaucoma 0, drusen 1", {D}, {G}, ()),
    ("glaucoma: 0 drusen: 1", {D}, {G}, ()),
    ("glaucoma: no and drusen: yes", {D}, {G}, ()),
    ("glaucoma: 1", {G}, (), ()),
    ("glaucoma 0.7", {G}, (), ()),
    ("glaucoma: \u2717, drusen: \u2713", {D}, {G}, ()),
    ("\u2717 glaucoma\n\u2713 drusen", {D}, {G}, ()),
    ("| glaucoma | \u2717 |", (), {G}, ()),
    ("glaucoma (-), drusen (+)", {D}, {G}, ()),
    ("glaucoma: +", {G}, (), ()),
    ("glaucoma: n/a", (), (), {G}),
    ("glaucoma N/A, drusen", {D}, (), {G}),
    ("glaucoma: -", (), (), {G}),
    # alternatives
    ("glaucoma or drusen", (), (), {G, D}),
    ("either glaucoma or drusen", (), (), {G, D}),
    ("early glaucoma, mild drusen, or atrophy", (), (), {G, D, A}),
    ("glaucoma or possible drusen", (), (), {G, D}),
    ("atrophy and glaucoma or drusen", {A}, (), {G, D}),
    ("glaucoma and/or drusen", (), (), {G, D}),
    ("glaucoma vs drusen", (), (), {G, D}),
    ("glaucoma vs. drusen", (), (), {G, D}),
    ("glaucoma versus drusen", (), (), {G, D}),
    ("glaucoma and drusen", {G, D}, (), ()),
    ("no glaucoma or drusen", (), {G, D}, ()),
    ("glaucoma or drusen: no", (), {G, D}, ()),
    ("PPA or peripapillary atrophy", {P}, (), ()),
    ("glaucoma in the left or right eye", {G}, (), ()),
    ("drusen in one or both eyes with glaucoma", {D, G}, (), ()),
    # "nothing to find" beside findings
    ("Healthy apart from drusen", {D}, (), ()),
    ("no abnormality other than drusen", {D}, (), ()),
    ("No other abnormalities. Drusen.", {D}, (), ()),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "affirmed", "denied", "left_open"), SAID, ids=[s[0] for s in SAID])
def test_what_an_answer_says(answer, affirmed, denied, left_open):
    said = FINDINGS.parse(answer)
    expected = [tuple(FINDINGS.labels[i] for i in sorted(part)) for part in (affirmed, denied, left_open)]
    assert [said.affirmed, said.denied, said.open] == expected
    row = [1 if i in affirmed else -1 if i in left_open else 0 for i in range(5)]
    assert FINDINGS.multi([answer])[0].tolist() == row


@pytest.mark.parametrize(
    "answer",
    ["No finding.", "no findings", "No abnormality.", "No significant abnormalities are seen", "normal", "Healthy eye.",
     "None.", "None seen.", "Findings: none detected",
     "None of the findings", "Everything is within normal limits", "no disease", "no abnormal findings"],
)  # fmt: skip
def test_nothing_to_find_is_a_row_of_zeros(answer):
    assert FINDINGS.multi([answer]).tolist() == [[0] * 5]
    assert FINDINGS.single([answer]).tolist() == [-1]
    with_label = AnswerVocabulary(["glaucoma", "no finding"], normal_label="no finding")
    assert with_label.single([answer]).tolist() == [1]
    assert with_label.multi([answer]).tolist() == [[0, 1]]


@pytest.mark.parametrize(
    "answer",
    ["", "   ", None, float("nan"), "?", "Yes.", "No.", "A photograph.", "glaucomatous", "drusenoid", "Not normal.",
     "Is there glaucoma?", "I can't tell.", "It cannot be determined.", "The image is ungradable",
     "no retinopathy", "\x00\ud800"],
)  # fmt: skip
def test_what_cannot_be_scored_is_unknown_everywhere(answer):
    assert FINDINGS.multi([answer]).tolist() == [[-1] * 5]
    assert FINDINGS.single([answer]).tolist() == [-1]

"""The phrases that decide what a sentence says of a name, for :mod:`common.answer_text`."""

from __future__ import annotations

AFFIRMED, DENIED, OPEN = "affirmed", "denied", "open"

# Without a name in their clause these leave everything open that is not named elsewhere.
UNABLE = (
    "not possible to", "not able to", "unable to", "can not tell", "can not say", "can not determine", "can not assess",
    "can not see", "can not exclude", "can not rule out", "can not confirm", "do not know", "does not know", "not sure",
    "unsure",
)  # fmt: skip
UNDECIDED = tuple(
    f"{can} not be {done}"
    for can in ("can", "could")
    for done in ("determined", "assessed", "excluded", "ruled out", "confirmed", "established", "seen", "identified")
)
MAYBE = tuple(  # said of what stands before it; "it may be glaucoma" speaks of what follows
    f"{may} {so} {be}"
    for may in ("may", "might", "could")
    for so in ("", "not", "also", "well", "still", "possibly", "potentially")
    for be in (
        "exist",
        *(f"be {there}" for there in ("present", "there", "seen", "visible", "suspected", "considered")),
    )
    if (may, so) != ("could", "not")  # which is undecided
)
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
    "denies; deny; denying; never; rather than; instead of; rules out; excludes; not consistent with; no evidence of; "
    "no sign of; no signs of; false that; no concern for; no concerns for; no suspicion of; no suspicion for; "
    "not suspicious for; not concerning for",
    (DENIED, "after"): "absent; negative; excluded; not seen; not present; not visible; not found; not identified; "
    "not detected; not evident; not there; not suspected; denied by; false",
    (DENIED, "both"): "not; denied; ruled out; no evidence; no sign; no signs",
    (DENIED, "next"): "non",
    (OPEN, "before"): "possible; suspicious for; suspicious of; suspicion of; suspicion for; concern for; concerns for; "
    "concerning for; worrisome for; suggestion of; question of; questionable; rule out; to exclude; may be; may have; "
    "may show; might be; might have; might show; could be; could have; could show; equivocal for; " + "; ".join(UNABLE),
    (OPEN, "after"): "is possible; are possible; is a possibility; is a concern; is suspected; are suspected; questionable; "
    "equivocal; not excluded; not ruled out; not be excluded; not be ruled out; not been excluded; not been ruled out; "
    "not confirmed; not been confirmed; to be excluded; to be ruled out; should be excluded; should be ruled out; "
    "must be excluded; must be ruled out; " + "; ".join((*UNDECIDED, *MAYBE)),
    (OPEN, "both"): "unlikely; possibly; maybe; perhaps; suspect; suspected; " + "; ".join(UNSURE),
    ("", "skip"): "not only; not just; no doubt; without doubt; without a doubt; without question; no question; no change in; "
    "no increase in; no progression of; no worsening of",
    ("", "break"): "but; however; although; though; except; except for; yet; while; whereas; apart from; aside from; "
    "other than; besides; is not the only; are not the only",
    ("", "join"): "and; or; nor; as well as; vs; versus",
}  # fmt: skip
# After a name and a colon, dash, bracket or bar; "no" only as the whole entry: "drusen: no, glaucoma: yes".
VERDICTS = {
    **dict.fromkeys(("no", "n", "none", "absent", "negative", "false", "0"), DENIED),
    **dict.fromkeys(("yes", "y", "present", "positive", "true", "1"), AFFIRMED),
    **dict.fromkeys(("unknown", "unclear", "uncertain", "possible", "indeterminate", "na"), OPEN),
}
BARE = ("no", "0", "na")  # these without a mark, too: "drusen no, atrophy 0"
ALTERNATIVES = ("or", "vs", "versus")
LINKS = ("is", "are", "was", "were", "remains", "remain", "seems", "seem", "appears", "appear")
NEW_START = ("with", "only", "just", "there", "this", "it")  # after a comma they begin another statement
# After a comma or "and", behind a subject or not, they affirm: "no glaucoma and the disc shows drusen".
STATES = (
    *("positive for", "shows", "show", "showing", "has", "have"),
    *(f"there {be}" for be in ("is", "are", "was", "were", "s")),
)
TIED = ("showing", "show", "have")  # without a subject: "does not show glaucoma and have drusen", "area showing drusen"
CONTENT = ("whether", "if", "that")  # "I cannot tell whether there is glaucoma and there are drusen"
NO_SUBJECT = ("which", "who", "nothing", *CONTENT)

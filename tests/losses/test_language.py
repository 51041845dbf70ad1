"""Language models: shifted labels, pooling, questions and answers, and what the criterion allocates at 152,064 tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import fairloss
from benchmarks.harness import peak_bytes
from fairloss.ops.nll import nll

VOCABULARY = 152_064


def test_shifted_labels_by_hand():
    labels = torch.tensor([[-100, 7, 8, 9], [1, 2, -100, 3]])
    shifted = fairloss.shift_labels(labels)
    assert shifted.tolist() == [[7, 8, 9, -100], [2, -100, 3, -100]]
    assert labels.tolist() == [[-100, 7, 8, 9], [1, 2, -100, 3]]
    assert fairloss.shift_labels(labels[:, :1], ignore_index=-1).tolist() == [[-1], [-1]]
    assert fairloss.shift_labels(labels[:, :0]).shape == (2, 0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocabulary", [11, 20_000])
def test_shifting_the_labels_equals_slicing_the_logits(dtype, vocabulary, generator):
    logits = torch.randn(3, 5, vocabulary, generator=generator).to(dtype).requires_grad_()
    labels = torch.randint(0, vocabulary, (3, 5), generator=generator)
    labels[:, :2] = -100
    groups = torch.tensor([0, 1, -1])
    criterion = fairloss.FairCrossEntropyLoss(2, gap_weight=0.5)
    shifted = criterion(logits, fairloss.shift_labels(labels), groups)
    sliced = criterion(logits[:, :-1], labels[:, 1:], groups)
    torch.testing.assert_close(shifted, sliced)
    a, b = torch.autograd.grad(shifted, logits)[0], torch.autograd.grad(sliced, logits)[0]
    torch.testing.assert_close(a, b)
    # An oracle apart from either: each answer's mean token nll by NumPy.
    x = logits.detach().double().numpy()[:, :-1]
    logp = x - np.log(np.exp(x).sum(-1, keepdims=True))
    nlls = -np.take_along_axis(logp, labels[:, 1:].clamp(min=0).numpy()[..., None], -1)[..., 0][:, 1:]
    accuracies = np.exp(-nlls.mean(1))
    assert shifted.item() == pytest.approx(nlls.mean() + 0.5 * abs(accuracies[0] - accuracies[1]), rel=1e-5)


@pytest.mark.parametrize("cut", ["tokens", "samples", "classes", "turned"])
def test_streamed_nll_reads_logits_where_they_lie(cut, generator):
    whole = torch.randn(4, 6, 20_000, generator=generator, dtype=torch.float64)
    logits = {
        "tokens": lambda: whole[:, 1:-1], "samples": lambda: whole[::2], "classes": lambda: whole[..., ::2],
        "turned": lambda: whole.transpose(0, 1),
    }[cut]().detach().requires_grad_()  # fmt: skip
    target = torch.randint(0, logits.shape[-1], logits.shape[:-1], generator=generator)
    upstream = torch.rand(target.shape, generator=generator, dtype=torch.float64)
    value = nll(logits, target)
    wanted = F.cross_entropy(logits.movedim(-1, 1), target, reduction="none")
    torch.testing.assert_close(value, wanted)
    (gradient,) = torch.autograd.grad(value, logits, upstream)
    (expected,) = torch.autograd.grad(wanted, logits, upstream)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_token_criterion_holds_no_second_buffer_of_the_logits_size(dtype, generator):
    n, t, width = 4, 8, 4
    hidden = torch.randn(n, t, width, generator=generator).to(dtype).requires_grad_()
    head = torch.randn(VOCABULARY, width, generator=generator).to(dtype).requires_grad_()
    labels = torch.randint(0, VOCABULARY, (n, t), generator=generator)
    labels[:, :3] = -100
    groups = torch.tensor([0, 1, 2, -1])
    criterion = fairloss.FairCrossEntropyLoss(
        3, gap_weight=0.5, group_counts=[903, 43, 54], memory=fairloss.GroupMemory(3, capacity=16)
    )

    def peak(loss) -> int:
        def step() -> None:
            hidden.grad = head.grad = None
            loss(F.linear(hidden, head)).backward()

        return peak_bytes(step)

    size = n * t * VOCABULARY * hidden.element_size()
    own = peak(lambda logits: criterion(logits, fairloss.shift_labels(labels), groups))
    # The logits and their gradient are 2; half precision is widened in blocks whose size no batch changes.
    blocks = 2**16 if dtype == torch.float32 else 3 * 4 * 2**20
    assert own < 2 * size + blocks
    # The counter sees copies where there are some: torch's own loss on shifted logits.
    usual = peak(
        lambda logits: F.cross_entropy(logits[:, :-1].reshape(-1, VOCABULARY).float(), labels[:, 1:].flatten())
    )
    assert usual > own + 0.7 * size
    # Nor are logits copied that were sliced after all.
    sliced = peak(lambda logits: criterion(logits[:, :-1], labels[:, 1:], groups))
    assert sliced < 2 * size + blocks


@pytest.mark.parametrize("side", ["left", "right", "both", "none"])
def test_last_token_of_padded_sequences(side, generator):
    hidden = torch.randn(3, 5, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    mask = {
        "left": [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]],
        "right": [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]],
        "both": [[0, 1, 1, 0, 0], [1, 1, 0, 1, 0], [0, 0, 0, 0, 0]],
        "none": None,
    }[side]
    pooled = fairloss.pool_last_token(hidden, attention_mask=None if mask is None else torch.tensor(mask))
    rows = [4, 4, 4] if mask is None else [max([i for i, m in enumerate(row) if m], default=0) for row in mask]
    expected = torch.stack([hidden[i, row] for i, row in enumerate(rows)])
    assert torch.equal(pooled, expected)
    (gradient,) = torch.autograd.grad(pooled.sum(), hidden)
    assert gradient.sum() == 6
    assert all(gradient[i, row].eq(1).all() for i, row in enumerate(rows))


def test_helpers_compile_whole():
    def both(hidden, mask, labels):
        return fairloss.pool_last_token(hidden, attention_mask=mask), fairloss.shift_labels(labels)

    compiled = torch.compile(both, fullgraph=True, dynamic=True, backend="aot_eager")
    for n, t in ((2, 5), (3, 7)):
        inputs = torch.randn(n, t, 4), torch.rand(n, t) > 0.4, torch.randint(0, 9, (n, t))
        for given, wanted in zip(compiled(*inputs), both(*inputs), strict=True):
            assert torch.equal(given, wanted)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fairloss.shift_labels(torch.zeros(3, dtype=torch.long)), ValueError, r"labels: .*\(N, T\).*\(3,\)"),
        (lambda: fairloss.shift_labels(torch.zeros(2, 3)), TypeError, "labels: .*integer.*float32"),
        (lambda: fairloss.shift_labels([[1]]), TypeError, "labels: .*integer.*list"),
        (lambda: fairloss.shift_labels(torch.zeros(2, 3).long(), ignore_index=0.5), TypeError, "ignore_index"),
        (lambda: fairloss.pool_last_token(torch.zeros(2, 3)), ValueError, r"hidden: .*\(N, T, D\)"),
        (lambda: fairloss.pool_last_token(torch.zeros(2, 3, 4).long()), TypeError, "hidden: .*floating-point.*int64"),
        (
            lambda: fairloss.pool_last_token(torch.zeros(2, 3, 4), attention_mask=torch.ones(2, 4)),
            ValueError,
            r"mask: .*\(2, 3\).*\(2, 4\)",
        ),
        (lambda: fairloss.pool_last_token(torch.zeros(1, 2, 3), attention_mask=[[1, 1]]), TypeError, "attention_mask"),
    ],
)
def test_wrong_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_instruction():
    text = fairloss.format_instruction(
        "Which? ", options=["a", "b"], patient={"sex": "female", "age group": "60-69", "race": None}
    )
    assert text == "<image>\nPatient: sex female, age group 60-69.\nQuestion: Which?\nOptions: A. a B. b\nAnswer:"
    assert fairloss.format_instruction("Which?", patient={"age": float("nan")}, image="") == "Question: Which?\nAnswer:"
    with pytest.raises(ValueError, match="question: .*' '"):
        fairloss.format_instruction(" ")
    with pytest.raises(ValueError, match="options: .*26.*27"):
        fairloss.format_instruction("?", options=["x"] * 27)


LISTED = ["glaucoma", "drusen", "No finding", "St. Anna Hosp.", "yes"]


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("glaucoma", 0), (" GLAUCOMA! ", 0), ("Drusen.\n", 1), ("no finding ...", 2), ("St. Anna Hosp", 3), ("Yes, ", 4),
        ("Yes!?", 4),
        # several answers, a part of a longer text, a denial, another spelling, nothing
        ("glaucoma, drusen", -1), ("glaucoma or drusen", -1), ("yes. glaucoma", -1), ("The eye shows drusen", -1),
        ("no drusen", -1), ("not glaucoma", -1), ("glaucomas", -1), ("no  finding", -1), ("(glaucoma)", -1), ("glau coma", -1),
        ("", -1), (".", -1), (None, -1), (float("nan"), -1), (np.datetime64("NaT"), -1),
    ],
)  # fmt: skip
def test_an_answer_is_one_listed_phrase_or_unknown(text, index):
    assert fairloss.read_answers([text], LISTED).tolist() == [index]


def test_answers_of_a_batch():
    found = fairloss.read_answers(iter(["b", "A.", "c"]), ("a", "B"))
    assert found.dtype == np.int64
    assert found.tolist() == [1, 0, -1]
    assert fairloss.read_answers([], ["a"]).shape == (0,)


@pytest.mark.parametrize(
    ("texts", "answers", "error", "message"),
    [
        (["a"], [], ValueError, "answers: .*at least one"),
        (["a"], ["a", "A."], ValueError, "answers: .*'a' and 'A.'"),
        (["a"], ["a", "..."], ValueError, "answers: .*'...'"),
        (["a"], "ab", TypeError, "answers: .*'ab'"),
        (["a"], [1], TypeError, "answers: "),
        ("a", ["a"], TypeError, "texts: .*'a'; put one text into a list"),
        (3, ["a"], TypeError, "texts: "),
        ([3], ["a"], TypeError, "texts: .*int"),
    ],
)
def test_wrong_answers_are_named(texts, answers, error, message):
    with pytest.raises(error, match=message):
        fairloss.read_answers(texts, answers)

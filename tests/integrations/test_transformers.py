"""FairTrainer against the installed transformers and PEFT: updates, resuming, two processes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fairloss
from fairloss import FairCrossEntropyLoss, GroupMemory
from fairloss.integrations.transformers import STATE_FILE, group_metrics
from tests.integrations.trainers import COUNTS, backbone, dataset, fair, lora, losses, trainer
from tests.two_processes import two_processes

pytestmark = [
    pytest.mark.frameworks,
    pytest.mark.filterwarnings("default"),  # transformers warns of its own deprecations
]


CRITERIA = {
    "vanilla": lambda: FairCrossEntropyLoss(3),
    "weighted": lambda: FairCrossEntropyLoss(3, group_counts=COUNTS),
    "class weights": lambda: FairCrossEntropyLoss(
        3, group_counts=COUNTS, weight=torch.tensor([1.0, 3.0]), label_smoothing=0.1
    ),
    "sum": lambda: FairCrossEntropyLoss(3, group_counts=COUNTS, reduction="sum"),
    "own": lambda: Own(),
}


class Own(nn.Module):
    """A criterion of one's own: a mean over samples, without parts."""

    def forward(self, logits, labels, groups):
        values = F.cross_entropy(logits, labels, reduction="none")
        return fairloss.functional.inverse_frequency_weighting(values, groups, group_counts=COUNTS)


def by_hand(kind, name, batches, rate):
    """The same updates by SGD on whole batches, the loss written out with torch's own functions."""
    model = backbone(kind)
    model.train()
    w = np.minimum(sum(COUNTS) / np.array(COUNTS), 10)
    v = torch.tensor([*(w / (np.array(COUNTS) / sum(COUNTS) * w).sum()), 1.0])  # the last one: unknown
    if name == "vanilla":
        v = torch.ones(4)
    found = []
    for batch in batches:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        labels, groups = batch["labels"], batch["groups"]
        options = {"reduction": "none"}
        if name == "class weights":
            options |= {"weight": torch.tensor([1.0, 3.0]).double(), "label_smoothing": 0.1}
        if kind == "tokens":
            each = F.cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], **options)
            each, norm = each * v[groups].unsqueeze(1), (labels[:, 1:] != -100).sum()
        else:
            each = F.cross_entropy(logits, labels, **options) * v[groups]
            norm = torch.tensor([1.0, 3.0])[labels].sum() if name == "class weights" else len(labels)
        loss = each.sum() if name == "sum" else each.sum() / norm
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= rate * p.grad
        found.append(loss.item())
    return model, found


@pytest.mark.parametrize(
    ("kind", "name"),
    [*(("classes", name) for name in CRITERIA), ("tokens", "vanilla"), ("tokens", "weighted")],
)
@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_accumulation_gives_the_update_of_the_whole_batch(tmp_path, kind, name, accumulation):
    # 20 samples in batches of 8: the epoch's last update holds 4, and micro-batches' token counts differ throughout.
    rate = 0.05 if name == "sum" else 0.5
    options = {"per_device_train_batch_size": 8 // accumulation, "gradient_accumulation_steps": accumulation}
    instance = trainer(tmp_path, CRITERIA[name](), kind, **options, learning_rate=rate)
    used = []
    collect = instance.get_batch_samples

    def watch(*rest):
        samples, items = collect(*rest)
        used.append({k: torch.cat([s[k] for s in samples]) for k in samples[0]})
        return samples, items

    instance.get_batch_samples = watch
    instance.train()
    assert [len(b["labels"]) for b in used] == [8, 8, 4]
    model, found = by_hand(kind, name, used, rate)
    for ours, theirs in zip(instance.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(losses(instance), found, rtol=1e-4)  # not multiplied by the accumulation, either


@pytest.mark.parametrize("accumulation", [2, 4])
def test_the_gap_on_a_filled_memory_accumulates_exactly(tmp_path, accumulation):
    def hybrid():
        memory = GroupMemory(3, capacity=64, shares=COUNTS, max_weight=1e3)
        # Ranks beyond doubt, so that every micro-batch pulls the same groups.
        values, ids = torch.tensor([0.9, 0.1, 0.5]).repeat_interleave(64), torch.arange(3).repeat_interleave(64)
        memory.push(values, ids)
        return FairCrossEntropyLoss(3, gap_weight=0.5, group_counts=COUNTS, memory=memory)

    options = {"per_device_train_batch_size": 8 // accumulation, "gradient_accumulation_steps": accumulation}
    whole = trainer(tmp_path, hybrid(), per_device_train_batch_size=8)
    parts = trainer(tmp_path, hybrid(), **options)
    whole.train()
    parts.train()
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    assert torch.equal(whole.fair_loss.memory.seen, parts.fair_loss.memory.seen)
    vanilla = trainer(tmp_path, CRITERIA["weighted"](), per_device_train_batch_size=8)
    vanilla.train()
    moved = [(a - b).abs().max() for a, b in zip(whole.model.parameters(), vanilla.model.parameters(), strict=True)]
    assert max(moved) > 1e-3


def test_a_run_trains_evaluates_saves_and_resumes_as_if_it_had_not_stopped(tmp_path):
    def metrics(prediction):
        return group_metrics(prediction, num_groups=3, group_names=["a", "b", "c"])

    def run(folder):
        wanted = {"compute_metrics": metrics, "eval_dataset": dataset(seed=1)}
        return trainer(
            folder, fair(), model=lora(), wanted=wanted, per_device_train_batch_size=2, gradient_accumulation_steps=2,
            max_steps=8, save_strategy="steps", save_steps=4, eval_strategy="steps", eval_steps=4, optim="adamw_torch",
            learning_rate=1e-2, lr_scheduler_type="linear", warmup_steps=2,
        )  # fmt: skip

    through = run(tmp_path / "a")
    through.train()
    resumed = run(tmp_path / "b")
    start = resumed.fair_loss.state_dict()
    assert all(torch.equal(a, b) for a, b in zip(start.values(), fair().state_dict().values(), strict=True))
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-4"))
    assert len(losses(through)) == 8
    assert losses(resumed) == losses(through)
    assert losses(through)[-1] < losses(through)[0]
    for (name, a), b in zip(through.model.state_dict().items(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    for name, saved in through.fair_loss.state_dict().items():
        assert torch.equal(saved, resumed.fair_loss.state_dict()[name])
    # 8 steps of 4 samples of 20: an epoch is 5, each ends with every sample once; unknown ones are not kept.
    assert through.fair_loss.memory.seen.sum() > 0
    evaluated = [line for line in through.state.log_history if "eval_accuracy" in line]
    assert len(evaluated) == 2
    for name in (
        "eval_accuracy_a",
        "eval_accuracy_b",
        "eval_accuracy_c",
        "eval_max_accuracy_gap",
        "eval_worst_accuracy",
    ):
        assert 0 <= evaluated[-1][name] <= 1
    before = through.fair_loss.state_dict()
    again = through.evaluate()
    assert again["eval_accuracy"] == evaluated[-1]["eval_accuracy"]
    assert all(torch.equal(before[k], v) for k, v in through.fair_loss.state_dict().items())
    with torch.no_grad():
        batch = {k: torch.tensor(v) for k, v in dataset(seed=1)[:].items()}
        groups, labels = batch.pop("groups"), batch.pop("labels")
        right = (through.model.eval()(**batch).logits.argmax(-1) == labels).double()
    wanted = [right[groups == g].mean().item() for g in range(3)]
    assert [again[f"eval_accuracy_{g}"] for g in "abc"] == pytest.approx(wanted)
    assert again["eval_max_accuracy_gap"] == pytest.approx(max(wanted) - min(wanted))

    # Without the memory's file the run goes on, differently, and says so.
    (tmp_path / "a" / "checkpoint-4" / STATE_FILE).unlink()
    other = run(tmp_path / "c")
    with pytest.warns(UserWarning, match=r"fair_loss\.safetensors is not there: the memory of fair_loss starts empty"):
        other.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-4"))
    assert losses(other) != losses(through)


def two_step(rank, folder, case, counts):
    group = None if case == "own" else torch.distributed.group.WORLD
    loss = FairCrossEntropyLoss(3, group_counts=counts, process_group=group)
    if case == "memory":
        loss = FairCrossEntropyLoss(
            3,
            gap_weight=0.5,
            group_counts=counts,
            memory=GroupMemory(3, capacity=8),
            process_group=group,
        )
    instance = trainer(
        folder, loss, "tokens", per_device_train_batch_size=2, gradient_accumulation_steps=2, max_steps=2
    )
    assert instance.accelerator.num_processes == 2
    rows = []
    collect = instance.get_batch_samples

    def watch(*rest):
        samples, items = collect(*rest)
        rows.append(samples)
        return samples, items

    instance.get_batch_samples = watch
    instance.train()
    refused = ""
    try:
        trainer(folder, fair(), "tokens")
    except ValueError as error:
        refused = str(error)
    state = {k: v.clone() for k, v in instance.accelerator.unwrap_model(instance.model).state_dict().items()}
    return state, rows, loss.state_dict(), refused, losses(instance)


@pytest.mark.processes
@pytest.mark.parametrize("case", ["own", "group", "memory"])
def test_two_processes_equal_one(tmp_path, case):
    """Each process its own loss, all processes one loss, one memory."""
    first, second = two_processes(two_step, tmp_path, str(tmp_path), case, COUNTS)
    for name in first[0]:
        assert torch.equal(first[0][name], second[0][name])
    assert "fair_loss: expected a criterion whose memory is the same on all 2 processes" in first[3]
    if case == "memory":
        assert first[2]
        assert all(torch.equal(first[2][k], second[2][k]) for k in first[2])
        return
    # Each update on one process, by hand, as one batch.
    batches = []
    for a, b in zip(first[1], second[1], strict=True):
        batches.append({k: torch.cat([s[k] for s in [*a, *b]]) for k in a[0]})
    assert [len(b["labels"]) for b in batches] == [8, 8]
    model, found = by_hand("tokens", "weighted", batches, 0.5)
    for name, parameter in model.state_dict().items():
        torch.testing.assert_close(first[0][name], parameter, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(first[4], found, rtol=1e-4)

"""FairTrainer against the installed transformers and PEFT, on tiny random models built in place."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fairloss
from fairloss import FairCrossEntropyLoss, GroupMemory
from fairloss.integrations import transformers as integration
from fairloss.integrations.transformers import STATE_FILE, argmax_for_metrics, group_metrics
from tests.two_processes import two_processes

pytestmark = [
    pytest.mark.frameworks,
    pytest.mark.filterwarnings("default"),  # transformers warns of its own deprecations
]

COUNTS = [12, 5, 3]


def backbone(kind="classes", seed=0):
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=17, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_labels=2,
        max_position_embeddings=32, pad_token_id=0, eos_token_id=1, bos_token_id=1,
    )  # fmt: skip
    # Both take **kwargs: the case in which the Trainer would not divide a loss of one's own.
    return {"classes": LlamaForSequenceClassification, "tokens": LlamaForCausalLM}[kind](config).double()


def dataset(kind="classes", n=20, seed=0, **columns):
    from datasets import Dataset

    rng = np.random.default_rng(seed)
    ids = rng.integers(2, 17, (n, 6))
    groups = np.repeat([0, 1, 2, -1], [*np.array(COUNTS) * (n - 1) // 20, n - sum(np.array(COUNTS) * (n - 1) // 20)])
    labels = (ids.sum(1) + groups) % 2
    if kind == "tokens":
        labels = np.where(np.arange(6) >= rng.integers(1, 6, (n, 1)), ids, -100)  # answers of unequal length
    order = rng.permutation(n)
    rows = {"input_ids": ids, "attention_mask": np.ones_like(ids), "labels": labels, "groups": groups}
    return Dataset.from_dict({**{k: v[order].tolist() for k, v in rows.items()}, **columns})


def arguments(folder, **options):
    from transformers import TrainingArguments

    defaults = {
        "output_dir": str(folder), "per_device_train_batch_size": 4, "per_device_eval_batch_size": 8, "max_steps": 3,
        "logging_steps": 1, "save_strategy": "no", "report_to": [], "use_cpu": True, "disable_tqdm": True, "seed": 3,
        "optim": "sgd", "learning_rate": 0.5, "lr_scheduler_type": "constant", "max_grad_norm": 0.0,
    }  # fmt: skip
    return TrainingArguments(**{**defaults, **options})


def trainer(folder, loss=None, kind="classes", model=None, data=None, cls=None, wanted=None, **options):
    from fairloss.integrations.transformers import FairTrainer

    return (cls or FairTrainer)(
        model=backbone(kind) if model is None else model,
        args=arguments(folder, **options),
        train_dataset=dataset(kind) if data is None else data,
        fair_loss=FairCrossEntropyLoss(3) if loss is None else loss,
        **({"shift_labels": True} if kind == "tokens" else {}),
        **(wanted or {}),
    )


def losses(instance):
    return [line["loss"] for line in instance.state.log_history if "loss" in line]


def full_batches(instance):
    """The batches of whole updates that the trainer draws, in its order."""
    return [b for epoch in range(2) for b in instance.get_train_dataloader()][:3]


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
    torch.manual_seed(0)
    batches = full_batches(trainer(tmp_path, CRITERIA[name](), kind, per_device_train_batch_size=8))
    used = []
    collect = instance.get_batch_samples

    def watch(*rest):
        samples, items = collect(*rest)
        used.append({k: torch.cat([s[k] for s in samples]) for k in samples[0]})
        return samples, items

    instance.get_batch_samples = watch
    instance.train()
    assert [len(b["labels"]) for b in used] == [8, 8, 4]
    assert len(batches) == 3
    model, found = by_hand(kind, name, used, rate)
    for ours, theirs in zip(instance.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(losses(instance), found, rtol=1e-4)  # not multiplied by the accumulation, either


@pytest.mark.parametrize("accumulation", [2, 4])
def test_the_gap_on_a_filled_memory_accumulates_exactly(tmp_path, accumulation):
    def hybrid():
        memory = GroupMemory(3, 64, COUNTS)
        # Ranks beyond doubt, so that every micro-batch pulls the same groups.
        values, ids = torch.tensor([0.9, 0.1, 0.5]).repeat_interleave(64), torch.arange(3).repeat_interleave(64)
        memory.push(values, ids)
        return FairCrossEntropyLoss(3, 0.5, COUNTS, memory=memory)

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


def lora(seed=0):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(
        r=2, lora_alpha=4, lora_dropout=0.05, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
        modules_to_save=["score"], task_type="SEQ_CLS",
    )  # fmt: skip
    return get_peft_model(backbone().float(), config)


def fair():
    return FairCrossEntropyLoss(3, 0.5, COUNTS, memory=GroupMemory(3, 8, COUNTS))


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


def test_the_model_computes_no_loss_of_its_own(tmp_path):
    instance = trainer(tmp_path, kind="tokens")
    seen = []
    instance.model.register_forward_pre_hook(lambda module, args, inputs: seen.append(set(inputs)), with_kwargs=True)
    instance.train()
    assert seen
    assert all(names == {"input_ids", "attention_mask"} for names in seen)


def test_token_metrics_through_the_trainer(tmp_path):
    wanted = {
        "eval_dataset": dataset("tokens", seed=1),
        "preprocess_logits_for_metrics": argmax_for_metrics,
        "compute_metrics": lambda p: group_metrics(p, num_groups=3, shift_labels=True),
    }
    instance = trainer(tmp_path, kind="tokens", wanted=wanted)
    found = instance.evaluate()
    batch = {k: torch.tensor(v) for k, v in dataset("tokens", seed=1)[:].items()}
    with torch.no_grad():
        logits = instance.model(input_ids=batch["input_ids"]).logits
    right = []
    for scores, labels in zip(logits, batch["labels"], strict=True):
        kept = [(int(s.argmax()), int(t)) for s, t in zip(scores[:-1], labels[1:], strict=True) if t != -100]
        right.append(all(a == b for a, b in kept))
    assert found["eval_accuracy"] == pytest.approx(np.mean(right))
    # Perfect answers are counted as such.
    perfect = SimpleNamespace(
        predictions=np.roll(batch["labels"].numpy(), -1, 1),
        label_ids=(batch["labels"].numpy(), batch["groups"].numpy()),
    )
    assert group_metrics(perfect, num_groups=3, shift_labels=True)["accuracy"] == 1


def two_step(rank, folder, with_group, counts):
    group = torch.distributed.group.WORLD if with_group else None
    loss = FairCrossEntropyLoss(3, group_counts=counts, process_group=group)
    if with_group:
        memory = GroupMemory(3, 8, counts)
        loss = FairCrossEntropyLoss(3, 0.5, counts, memory=memory, process_group=group)
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
    if not with_group:
        try:
            trainer(folder, fair(), "tokens")
        except ValueError as error:
            refused = str(error)
    state = {k: v.clone() for k, v in instance.accelerator.unwrap_model(instance.model).state_dict().items()}
    return state, rows, loss.state_dict(), None if with_group else refused


@pytest.mark.processes
@pytest.mark.parametrize("with_group", [False, True])
def test_two_processes_equal_one(tmp_path, with_group):
    first, second = two_processes(two_step, tmp_path, str(tmp_path), with_group, COUNTS)
    for name in first[0]:
        assert torch.equal(first[0][name], second[0][name])
    # Each update on one process, by hand, as one batch (a gap is ranked micro-step by micro-step, so only its task term).
    if with_group:
        assert all(torch.equal(first[2][k], second[2][k]) for k in first[2])
        assert first[2]
        return
    batches = []
    for a, b in zip(first[1], second[1], strict=True):
        batches.append({k: torch.cat([s[k] for s in [*a, *b]]) for k in a[0]})
    model, _ = by_hand("tokens", "weighted", batches, 0.5)
    for name, parameter in model.state_dict().items():
        torch.testing.assert_close(first[0][name], parameter, rtol=1e-5, atol=1e-7)
    assert "fair_loss: its memory would differ between the 2 processes" in first[3]


def test_missing_and_dropped_columns_name_column_and_setting(tmp_path):
    from transformers import default_data_collator

    lacking = dataset().remove_columns("groups")
    with pytest.raises(
        ValueError, match=r"train_dataset: no column 'groups'.*group_column.*remove_unused_columns=False"
    ):
        trainer(tmp_path, data=lacking)
    with pytest.raises(ValueError, match=r"eval_dataset\['dev'\]: no column 'groups'"):
        trainer(tmp_path, wanted={"eval_dataset": {"dev": lacking}})
    with pytest.raises(ValueError, match=r"no column 'sex'"):
        trainer(tmp_path, wanted={"group_column": "sex"})
    with pytest.raises(ValueError, match=r"args: label_names=\['labels'\].*label_names=\['labels', 'groups'\]"):
        trainer(tmp_path, label_names=["labels"])
    dropped = (
        r"column 'groups': the batch holds only .*'labels'.*label_names=\['labels', 'groups'\].*remove_unused_columns"
    )
    with pytest.raises(ValueError, match=dropped):
        trainer(tmp_path, data=lacking, remove_unused_columns=False).train()

    def collate(rows):
        return default_data_collator([{k: v for k, v in row.items() if k != "groups"} for row in rows])

    with pytest.raises(ValueError, match=dropped):
        trainer(tmp_path, wanted={"data_collator": collate}).train()
    # An evaluation set given later, without groups, where the Trainer would quietly report no metrics.
    instance = trainer(tmp_path, remove_unused_columns=False)
    with pytest.raises(ValueError, match=dropped):
        instance.evaluate(lacking)
    # Prediction without labels is no error, and the groups do not reach the model.
    scores = instance.predict(dataset().remove_columns("labels"))
    assert scores.predictions.shape == (20, 2)
    assert scores.label_ids is None
    with pytest.raises(ValueError, match=r"label_ids is not \(labels, groups\).*label_names=\['labels', 'groups'\]"):
        group_metrics(SimpleNamespace(predictions=np.zeros((3, 2)), label_ids=np.zeros(3)), num_groups=2)


def test_the_collator_may_make_the_column(tmp_path):
    from transformers import default_data_collator

    def collate(rows):
        return default_data_collator([{("who" if k == "groups" else k): v for k, v in row.items()} for row in rows]) | {
            "groups": torch.tensor([row["groups"] for row in rows])
        }

    def drop(rows):
        batch = collate(rows)
        batch.pop("who")
        return batch

    wanted = {"data_collator": drop}
    instance = trainer(tmp_path, wanted=wanted, remove_unused_columns=False)
    instance.train()
    assert len(losses(instance)) == 3


def test_arguments_that_do_not_go_together(tmp_path):
    with pytest.raises(TypeError, match="fair_loss: a module is needed, function"):
        trainer(tmp_path, lambda *a: 0)
    with pytest.raises(ValueError, match="fair_loss: it has parameters"):
        trainer(tmp_path, nn.Linear(2, 2))
    with pytest.raises(ValueError, match="fair_loss: reduction='none'"):
        trainer(tmp_path, FairCrossEntropyLoss(3, reduction="none"))
    with pytest.raises(ValueError, match="label_smoothing_factor"):
        trainer(tmp_path, label_smoothing_factor=0.1)
    with pytest.raises(ValueError, match="compute_loss_func: fair_loss takes its place"):
        trainer(tmp_path, wanted={"compute_loss_func": lambda *a, **k: 0})
    instance = trainer(tmp_path, kind="tokens")
    instance._fair_shift = None
    with pytest.raises(ValueError, match="shift_labels: for logits of tokens say"):
        instance.train()
    with pytest.raises(ValueError, match="group_names: 1 were given for num_groups=2"):
        group_metrics(SimpleNamespace(predictions=None, label_ids=()), num_groups=2, group_names=["a"])


def test_trainers_that_do_not_fit_are_refused(tmp_path, monkeypatch):
    from transformers import Trainer

    with pytest.raises(ImportError, match=r"no get_batch_samples; put the mixin before Trainer.*made for 5\.23"):
        type("Wrong", (integration.FairTrainerMixin, object), {})(fair_loss=FairCrossEntropyLoss(2))

    class Changed(Trainer):
        def compute_loss(self, model, batch):
            raise AssertionError

    with pytest.raises(ImportError, match="compute_loss takes"):
        trainer(tmp_path, cls=type("Wrong", (integration.FairTrainerMixin, Changed), {}))
    monkeypatch.delitem(vars(integration), "FairTrainer", raising=False)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"fairloss\[transformers\]"):
        _ = integration.FairTrainer
    with pytest.raises(AttributeError, match="no attribute 'Trainer'"):
        _ = integration.Trainer


def test_older_versions_divide_too(tmp_path):
    """Without ``loss_is_scaled_for_ga`` the Trainer goes by the model's signature, which the mixin overrules."""
    instance = trainer(tmp_path)
    assert instance.model_accepts_loss_kwargs is False
    assert instance.compute_loss_func is None


def test_plain_modules_and_tuples_serve_as_models(tmp_path):
    class Plain(nn.Module):
        def __init__(self, as_tuple):
            super().__init__()
            self.embedding, self.head, self.as_tuple = nn.Embedding(17, 4), nn.Linear(4, 2), as_tuple

        def forward(self, input_ids, attention_mask=None):
            logits = self.head(self.embedding(input_ids).mean(1))
            return (logits,) if self.as_tuple else logits

    for as_tuple in (False, True):
        wanted = {"eval_dataset": dataset(), "compute_metrics": lambda p: group_metrics(p, num_groups=3)}
        instance = trainer(tmp_path, model=Plain(as_tuple), wanted=wanted)
        instance.train()
        assert 0 <= instance.evaluate()["eval_accuracy"] <= 1


def test_bfloat16_autocast_trains(tmp_path):
    instance = trainer(tmp_path, fair(), model=lora(), bf16=True)
    instance.train()
    assert all(np.isfinite(losses(instance)))
    assert instance.fair_loss.memory.values.dtype == torch.float32


def test_checkpoints_hold_the_memory_in_a_file_of_its_own(tmp_path):
    from safetensors.torch import load_file

    instance = trainer(tmp_path, fair(), model=lora(), save_strategy="steps", save_steps=2)
    instance.train()
    folder = Path(tmp_path) / "checkpoint-2"
    assert json.loads((folder / "trainer_state.json").read_text())["global_step"] == 2
    other = fair()
    other.load_state_dict(load_file(folder / STATE_FILE))
    assert 0 < other.memory.seen.sum() <= 8
    trainer(tmp_path / "none", model=lora(), save_strategy="steps", save_steps=2).train()
    assert not (tmp_path / "none" / "checkpoint-2" / STATE_FILE).exists()  # nothing to save

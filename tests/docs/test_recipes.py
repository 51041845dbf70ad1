"""The lines of docs/recipes.md run, on stand-ins with the shapes and names of each codebase."""

import re
import textwrap
from functools import partial
from types import SimpleNamespace

import pytest
import torch

import fairloss
from tests.docs.test_docs import DOCS

PAGE = (DOCS / "recipes.md").read_text(encoding="utf-8")
ADDED = {
    title: re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for title, text in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
}
NAMES = {name: getattr(fairloss, name) for name in fairloss.__all__}
cross_entropy = torch.nn.functional.cross_entropy


def parts_of(title):
    """The block, cut where a comment names another place."""
    (block,) = ADDED[title]
    return [part for part in re.split(r"^# .*\n", block, flags=re.MULTILINE) if part.strip()]


def run(part, **names):
    scope = {**NAMES, **names}
    exec(compile(textwrap.dedent(part), "docs/recipes.md", "exec"), scope)
    return scope


def batch(generator, n=12, classes=2):
    logits = torch.randn(n, classes, generator=generator, requires_grad=True)
    labels, groups = torch.arange(n) % 2, torch.tensor([0, 0, 1] * (n // 3))
    return logits, labels, groups


def test_the_table_counts_the_lines():
    rows = dict(re.findall(r"^\| \[(.*?)\]\(#.*?\) \| (\d+) \|", PAGE, re.MULTILINE))
    assert rows.keys() == ADDED.keys()
    for title, lines in rows.items():
        (block,) = ADDED[title]
        assert int(lines) == len([line for line in block.splitlines() if line and not line.startswith("# ")]), title
        assert 3 <= int(lines) <= 10


def test_medfair(generator):
    make, method, step = parts_of("MEDFAIR")
    net = SimpleNamespace(sens_classes=2, device="cpu", criterion=torch.nn.BCEWithLogitsLoss())
    run(make, self=net)
    criterion = partial(run(method)["_criterion"], net)
    outputs, targets = torch.randn(12, 1, generator=generator), (torch.arange(12) % 2).float()[:, None]
    groups = torch.tensor([0, 0, 1] * 4)
    loss = run(step, _criterion=criterion, outputs=outputs, targets=targets, sensitive_attr=groups)["loss"]
    plain = net.criterion(outputs, targets)
    assert torch.equal(criterion(outputs, targets), plain)
    p = torch.where(targets == 1, outputs.sigmoid(), 1 - outputs.sigmoid()).squeeze(1)
    gap = (p[groups == 0].mean() - p[groups == 1].mean()).abs()
    assert loss.item() == pytest.approx((plain + 0.1 * gap).item(), rel=1e-5)


def test_fairmedfm(generator):
    make, step = parts_of("FairMedFM")
    trainer = SimpleNamespace(device="cpu")
    run(make, self=trainer)
    logits, labels, groups = batch(generator)
    y, minibatch = labels.float().unsqueeze(1), {"sensitive": groups.float()}
    loss = run(step, self=trainer, minibatch=minibatch, logits=logits, y=y)["loss"]
    p = logits.softmax(1)[torch.arange(12), labels]
    gap = (p[groups == 0].mean() - p[groups == 1].mean()).abs()
    assert loss.item() == pytest.approx((cross_entropy(logits, labels) + 0.1 * gap).item(), rel=1e-5)


def test_fairvision(generator):
    make, step = parts_of("FairVision")
    args = SimpleNamespace(fair_scaling_batchsize=64, fair_scaling_coef=0.5)
    scaler = run(make, args=args, device="cpu")["loss_scaler"]
    logits, labels, groups = batch(generator)
    losses = cross_entropy(logits, labels, reduction="none")
    attr = [groups.float(), torch.zeros(12)]
    loss = run(step, loss_scaler=scaler, loss=losses, attr=attr, attr_index=0, device="cpu")["loss"]
    assert loss.requires_grad
    assert losses.min() < loss < losses.max()


def test_fairseg(generator):
    make, step = parts_of("FairSeg")
    dice = run(make, sens_classes=2, num_classes=3)["dice_loss"]
    outputs = torch.randn(6, 3, 8, 8, generator=generator)
    labels = torch.randint(0, 3, (6, 8, 8), generator=generator)
    sampled = {"attr_label": torch.tensor([0, 0, 0, 0, 1, -1])}
    loss = run(step, dice_loss=dice, outputs=outputs, label_batch=labels.float(), sampled_batch=sampled)["loss"]
    # Half cross-entropy, half the weighted Dice of the groups.
    half = cross_entropy(outputs, labels) / 2
    assert half < loss < half + 0.5


def test_group_dro(generator):
    make, step = parts_of("group_DRO")
    computer = SimpleNamespace(
        group_counts=torch.tensor([9.0, 3.0]), criterion=partial(cross_entropy, reduction="none")
    )
    dataset = {"train_data": SimpleNamespace(n_groups=2)}
    run(make, train_loss_computer=computer, dataset=dataset, args=SimpleNamespace(robust_step_size=0.01))
    logits, labels, groups = batch(generator)
    names = {"loss_computer": computer, "outputs": logits, "y": labels, "g": groups, "loss_main": None}
    loss = run(step, **names, is_training=True)["loss_main"]
    losses = cross_entropy(logits, labels, reduction="none")
    means = torch.stack([losses[groups == g].mean() for g in (0, 1)])
    assert loss.item() == pytest.approx((computer.robust.q.float() @ means).item(), rel=1e-5)
    assert run(step, **names, is_training=False)["loss_main"] is None


def test_monai(generator):
    make, step = parts_of("MONAI's tutorials")
    files = [{"img": "a.png", "seg": "b.png"}, {"img": "c.png", "seg": "d.png"}]
    made = run(make, train_files=files, groups=[0, 1], device="cpu")
    assert [f["group"] for f in made["train_files"]] == [0, 1]
    outputs = torch.randn(8, 1, 96, 96, generator=generator)
    labels = (torch.rand(8, 1, 96, 96, generator=generator) > 0.5).float()
    data = {"group": torch.tensor([0] * 4 + [1] * 4)}
    loss = run(step, batch_data=data, outputs=outputs, labels=labels, loss_function=made["loss_function"], device="cpu")
    assert 0 < loss["loss"] < 1


@pytest.mark.frameworks
@pytest.mark.filterwarnings("default")
def test_patches_of_monai_carry_the_group_of_their_image():
    monai = pytest.importorskip("monai")
    crop = monai.transforms.RandCropByPosNegLabeld(
        keys=["img", "seg"], label_key="seg", spatial_size=[4, 4], pos=1, neg=1, num_samples=4
    )
    files = [{"img": torch.rand(1, 8, 8), "seg": torch.ones(1, 8, 8), "group": g} for g in (0, 1)]
    data = monai.data.Dataset(data=files, transform=crop)
    (collated,) = monai.data.DataLoader(data, batch_size=2, collate_fn=monai.data.list_data_collate)
    assert collated["group"].tolist() == [0] * 4 + [1] * 4


@pytest.mark.frameworks
@pytest.mark.filterwarnings("default")
def test_transformers(tmp_path, generator):
    transformers = pytest.importorskip("transformers")
    from fairloss.integrations.transformers import FairTrainer, group_metrics

    collate, make = parts_of("transformers' image classification")
    rows = [
        {"pixel_values": torch.randn(3, 8, 8, generator=generator), "labels": i % 2, "groups": i % 3} for i in range(12)
    ]

    def collate_fn(examples):
        pixels = torch.stack([example["pixel_values"] for example in examples])
        labels = torch.tensor([example["labels"] for example in examples])
        names = {"examples": examples, "pixel_values": pixels, "labels": labels, "torch": torch}
        return run(collate, **names)["batch"]

    config = transformers.ViTConfig(
        image_size=8, patch_size=4, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    arguments = {
        "model": transformers.ViTForImageClassification(config),
        "args": transformers.TrainingArguments(
            str(tmp_path), max_steps=2, per_device_train_batch_size=4, remove_unused_columns=False, report_to=[],
            use_cpu=True, save_strategy="no",
        ),
        "train_dataset": rows, "eval_dataset": rows, "data_collator": collate_fn, "compute_metrics": None,
    }  # fmt: skip
    names = {"FairTrainer": FairTrainer, "group_metrics": group_metrics, "partial": partial}
    trainer = run(make, **names, arguments=arguments)["trainer"]
    trainer.train()
    assert {"eval_accuracy", "eval_worst_accuracy", "eval_max_accuracy_gap"} <= set(trainer.evaluate())


@pytest.mark.frameworks
@pytest.mark.filterwarnings("default")
def test_grpo_vlm(tmp_path):
    pytest.importorskip("trl")
    from fairloss.integrations.trl import FairGRPOTrainer
    from tests.integrations.test_trl import config, dataset, model, tokenizer

    def think_format_reward(completions, **_):
        return [float(i % 2) for i in range(len(completions))]

    def accuracy_reward(completions, **_):
        return [None if i % 7 == 0 else float(i % 3 == 0) for i in range(len(completions))]

    arguments = {
        "model": model(), "processing_class": tokenizer(), "args": config(tmp_path), "train_dataset": dataset(),
        "reward_funcs": [think_format_reward, accuracy_reward],
    }  # fmt: skip
    (make,) = parts_of("TRL's grpo_vlm")
    trainer = run(make, FairGRPOTrainer=FairGRPOTrainer, arguments=arguments)["trainer"]
    trainer.train()
    assert sum(row.prompts for row in trainer.fair.table()) > 0

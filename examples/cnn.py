"""A small CNN on fundus photographs, trained with and without group fairness.

The label is glaucoma, read from the cup-to-disc ratio; 90.3 % of the training photographs are of one group, 4.3 % and
5.4 % of the two others, whose photographs are darker, noisier and have larger healthy cups. Six ways to train the same
network see the same photographs: plain cross-entropy (ERM), the soft accuracy gap as a penalty (FR), inverse-frequency
weights (GR), both (Hybrid), GroupDRO, and drawing the small groups more often (Resampling). As a yardstick, ERM also
trains on as many photographs with all groups equally frequent (Equal data): no method can be expected to beat that.

    python examples/cnn.py                                      # rendered photographs, 5 seeds, minutes on 2 cores
    python examples/cnn.py --model resnet --device cuda --amp bf16
    python examples/cnn.py --data-dir HAM10000 --attribute age  # real photographs, see common/loaders.py
    python examples/cnn.py --tune                               # each method's three settings on validation photographs
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import fundus, intervals, loaders, plots, toolkit
from fairloss import FairCrossEntropyLoss, GroupDROLoss, GroupMemory


class Method(NamedTuple):
    """How to build the criterion from (number of groups, photographs a group, strength), and the strengths to try."""

    build: Callable[[int, Sequence[int], float], nn.Module]
    strengths: tuple[float, ...] = (0.0,)
    strength: float = 0.0
    what: str = ""


def erm(num_groups: int, counts: Sequence[int], strength: float) -> nn.Module:
    return FairCrossEntropyLoss(num_groups)


def fr(num_groups: int, counts: Sequence[int], strength: float) -> nn.Module:
    # A batch of 64 holds 3 photographs of the smallest group: the memory ranks the groups on 256 each.
    return FairCrossEntropyLoss(
        num_groups, gap_weight=strength, memory=GroupMemory(num_groups, capacity=256, shares=counts)
    )


def gr(num_groups: int, counts: Sequence[int], strength: float) -> nn.Module:
    return FairCrossEntropyLoss(num_groups, group_counts=counts, max_weight=strength)


def hybrid(num_groups: int, counts: Sequence[int], strength: float) -> nn.Module:
    memory = GroupMemory(num_groups, capacity=256, shares=counts)
    return FairCrossEntropyLoss(num_groups, gap_weight=strength, group_counts=counts, memory=memory)


class GroupDRO(nn.Module):
    """GroupDRO takes the value of every sample, here its cross-entropy."""

    def __init__(self, num_groups: int, counts: Sequence[int], strength: float) -> None:
        super().__init__()
        self.dro = GroupDROLoss(num_groups, step_size=strength, shares=counts)

    def forward(self, logits: Tensor, label: Tensor, group: Tensor) -> Tensor:
        return self.dro(F.cross_entropy(logits.float(), label, reduction="none"), group)


METHODS = {
    "ERM": Method(erm),
    "FR": Method(fr, (0.1, 0.3, 1.0), 0.3, "gap_weight"),
    "GR": Method(gr, (3.0, 10.0, 30.0), 3.0, "max_weight"),
    "Hybrid": Method(hybrid, (0.1, 0.3, 1.0), 0.3, "gap_weight"),
    "GroupDRO": Method(GroupDRO, (0.001, 0.01, 0.1), 0.01, "step_size"),
    "Resampling": Method(erm, (0.5, 0.75, 1.0), 0.75, "power of the inverse frequency"),
    "Equal data": Method(erm),
}


class SmallCNN(nn.Sequential):
    """Four stages, 37,000 parameters."""

    def __init__(self, classes: int) -> None:
        def stage(inputs: int, outputs: int, kernel: int = 3) -> list[nn.Module]:
            convolution = nn.Conv2d(inputs, outputs, kernel, stride=2, padding=kernel // 2, bias=False)
            return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]

        def refine(width: int) -> list[nn.Module]:
            return [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]

        layers = [*stage(3, 8, 5), *stage(8, 16), *refine(16), *stage(16, 32), *refine(32), *stage(32, 64)]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))


class ResNet(nn.Module):
    """transformers' ``ResNetForImageClassification`` from a configuration: nothing is downloaded."""

    def __init__(self, classes: int) -> None:
        from transformers import ResNetConfig, ResNetForImageClassification

        super().__init__()
        widths = [16, 32, 64, 128]
        config = ResNetConfig(
            embedding_size=16, hidden_sizes=widths, depths=[1] * 4, layer_type="basic", num_labels=classes
        )
        self.model = ResNetForImageClassification(config)

    def forward(self, images: Tensor) -> Tensor:
        return self.model(pixel_values=images).logits


MODELS = {"cnn": SmallCNN, "resnet": ResNet}


def train(
    data: Any,
    method: str,
    strength: float,
    args: argparse.Namespace,
    *,
    classes: int,
    seed: int,
    tick: Callable[[], Any],
) -> nn.Module:
    """The same schedule for every method; only the criterion, or the draw of the photographs, differs."""
    toolkit.seed_everything(seed)
    device = torch.device(args.device)
    tensors = {k: v.to(device) for k, v in data.tensors().items() if k != "masks"}
    images, label, group = tensors["images"].to(memory_format=torch.channels_last), tensors["label"], tensors["group"]
    model = MODELS[args.model](classes).to(device, memory_format=torch.channels_last)
    criterion = METHODS[method].build(data.num_groups, data.group_counts, strength).to(device)
    steps = max(1, len(label) // args.batch)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=args.epochs * steps)
    scaler = torch.amp.GradScaler(device.type, enabled=args.amp == "fp16")
    chance = torch.ones(len(label))
    if method == "Resampling":
        counts = torch.tensor(data.group_counts, dtype=torch.float32)
        frequency = torch.where(group.cpu() >= 0, counts[group.cpu().clamp(min=0)], counts.max())
        chance = frequency**-strength
    for _ in range(args.epochs):
        order = torch.multinomial(chance, steps * args.batch, replacement=True) if method == "Resampling" else None
        order = (torch.randperm(len(label)) if order is None else order).to(device)
        for batch in order[: steps * args.batch].split(args.batch):
            inputs = images[batch]
            flip = torch.rand(len(batch), 1, 1, 1, device=device) < 0.5  # a left eye seen in a mirror is a right eye
            with toolkit.autocast(args):
                logits = model(torch.where(flip, inputs.flip(3), inputs))
            loss = criterion(logits, label[batch], group[batch])
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            schedule.step()
        tick()
    return model


@torch.no_grad()
def predict(model: nn.Module, data: Any, args: argparse.Namespace) -> np.ndarray:
    """Probability of class 1."""
    model.eval()
    images = data.tensors()["images"]
    with toolkit.autocast(args):
        logits = torch.cat([model(part.to(args.device)).float().cpu() for part in images.split(500)])
    return logits.softmax(1)[:, 1].numpy()


def load(args: argparse.Namespace, seed: int, split: str) -> Any:
    """One split. Rendered training photographs are drawn anew for every seed; the test photographs are always the same."""
    if args.data_dir is not None:
        if args.splits is None:
            args.splits = loaders.load(args.data_dir, attribute=args.attribute, size=args.size, limit=args.limit)
            if args.splits[0].masks is not None and not args.splits[0].label.any():
                raise SystemExit(f"{args.data_dir}: the files hold masks and no label; see febs_segmentation.py")
        return args.splits[("train", "valid", "test").index(split)]
    task = fundus.TASKS[args.task]
    if split == "train":
        return fundus.make(task, images=args.images, seed=seed, size=args.size)
    if split == "equal":
        return fundus.make(task, images=args.images, shares=[1] * len(task.looks), seed=seed + 1000, size=args.size)
    per_group = {"valid": max(20, args.test_images // 2), "test": args.test_images}[split]
    return fundus.make(task, counts=[per_group] * len(task.looks), seed=0, size=args.size, split=split)


def evaluate(
    args: argparse.Namespace, runs: Sequence[tuple[str, str, float]], seeds: Sequence[int], split: str
) -> tuple[dict[str, dict[str, intervals.Estimate]], Any, dict[str, float]]:
    """Train every (name, method, strength) on every seed; figures with intervals over the patients of ``split``."""
    data = load(args, seeds[0], split)
    shares = None if args.data_dir else fundus.TASKS[args.task].shares
    bootstrap = intervals.PatientBootstrap(
        data.patient, data.group, data.num_groups, shares=shares, resamples=200 if args.tiny else 1000
    )
    scores: dict[str, list[np.ndarray]] = {name: [] for name, _, _ in runs}
    seconds = dict.fromkeys(scores, 0.0)
    with toolkit.progress(None, "training", total=len(runs) * len(seeds) * args.epochs) as bar:
        for seed in seeds:
            sets = {kind: load(args, seed, kind) for kind in ("train", *(["equal"] if not args.data_dir else []))}
            for name, method, strength in runs:
                bar.set_description(f"seed {seed}, {name}")
                start = time.perf_counter()
                chosen = sets["equal" if method == "Equal data" else "train"]
                model = train(chosen, method, strength, args, classes=2, seed=seed, tick=bar.update)
                seconds[name] += (time.perf_counter() - start) / len(seeds)
                scores[name].append(predict(model, data, args))
    return {name: bootstrap.evaluate(data.label, np.stack(s)) for name, s in scores.items()}, data, seconds


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, intervals.Estimate]]:
    parser = toolkit.argument_parser(__doc__, name="cnn", data_dir="HAM10000, FairVLMed or FairSeg, as downloaded")
    parser.add_argument("--task", choices=list(fundus.TASKS), default="standard", help="rendered task (standard)")
    parser.add_argument("--attribute", help="with --data-dir: the attribute whose groups are compared")
    parser.add_argument("--limit", type=int, help="with --data-dir: read about this many images")
    parser.add_argument("--model", choices=list(MODELS), default="cnn", help="cnn or transformers' resnet (cnn)")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), help="default: all")
    parser.add_argument("--images", type=int, default=4000, help="training photographs (4000)")
    parser.add_argument("--test-images", type=int, default=1000, help="test photographs of every group (1000)")
    parser.add_argument("--size", type=int, default=64, help="height and width (64)")
    parser.add_argument("--epochs", type=int, default=10, help="(10)")
    parser.add_argument("--batch", type=int, default=64, help="(64)")
    parser.add_argument("--lr", type=float, default=3e-3, help="highest rate of the one-cycle schedule (0.003)")
    parser.add_argument("--tune", action="store_true", help="try each method's settings on validation photographs")
    args = parser.parse_args(argv)
    args.splits = None
    if args.tiny:
        args.images, args.test_images, args.epochs, args.size, args.seeds = 300, 60, 2, 32, min(args.seeds, 2)
    toolkit.prepare(args)
    methods = [m for m in args.methods if m != "Equal data" or args.data_dir is None]
    if args.tune:
        return tune(args, methods)
    runs = [(name, name, METHODS[name].strength) for name in methods]
    results, data, seconds = evaluate(args, runs, range(args.seeds), "test")
    report(args, results, data, seconds)
    return results


def tune(args: argparse.Namespace, methods: Sequence[str]) -> dict[str, dict[str, intervals.Estimate]]:
    """Every strength on seeds that the comparison does not use, judged by the worst group of the validation set."""
    runs = [(f"{m} {s:g}" if METHODS[m].what else m, m, s) for m in methods for s in METHODS[m].strengths]
    results, _, _ = evaluate(args, runs, (100, 101), "valid")
    metrics = ("accuracy", "worst_accuracy", "gap_accuracy", "worst_auc")
    toolkit.print_table("Validation photographs", ["method", *metrics], toolkit.result_rows(results, metrics))
    return results


def report(
    args: argparse.Namespace, results: dict[str, dict[str, intervals.Estimate]], data: Any, seconds: dict[str, float]
) -> None:
    """Table, sentences, picture and a results file."""
    names = data.group_names
    metrics = ["accuracy", *(f"accuracy:{g}" for g in range(len(names))), "gap_accuracy", "auc", "worst_auc"]
    header = ["method", "accuracy", *names, "accuracy gap", "AUC", "worst AUC", "gap's seed std"]
    rows = [
        [*row, f"{results[str(row[0])]['gap_accuracy'].seed_std:.3f}"] for row in toolkit.result_rows(results, metrics)
    ]
    source = args.data_dir or f"rendered task {args.task!r}"
    title = f"{source}, {len(data)} test photographs, {args.seeds} seeds; [95 % interval over patients]"
    toolkit.print_table(title, header, rows)
    sentences = []
    if "ERM" in results:
        sentences = [
            s for metric in ("gap_accuracy", "worst_accuracy", "accuracy") for s in intervals.compare(results, metric)
        ]
    print("\n".join(sentences))
    picture = plots.plot_comparison(args.out / "cnn.png", results, names)
    (args.out / "cnn.md").write_text(
        toolkit.markdown_table(header, rows) + "\n" + "".join(f"- {s}\n" for s in sentences), encoding="utf-8"
    )
    settings = {k: v for k, v in vars(args).items() if k != "splits"}
    toolkit.save_json(args.out / "cnn.json", {"settings": settings, "seconds_a_run": seconds, "results": results})
    print(f"picture: {picture}   table: {args.out / 'cnn.md'}   numbers: {args.out / 'cnn.json'}")


if __name__ == "__main__":
    main()

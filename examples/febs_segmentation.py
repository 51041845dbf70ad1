"""Optic disc and cup segmentation with MONAI's U-Net: Fair Error-Bound Scaling in both directions, and its rivals.

The masks hold rim and cup; the dark group's photographs are noisier and of weaker contrast, and rare in training. Five ways to
train the same network on the same photographs: Dice + cross-entropy as it is, the same with the small groups drawn more
often, GroupDRO on each photograph's Dice + cross-entropy, Fair Error-Bound Scaling (a group with larger error weighs more),
and the authors' released code, in which it weighs less. Judged by the Dice and IoU of disc and cup of each test photograph.

    python examples/febs_segmentation.py                                       # rendered photographs, minutes on 2 cores
    python examples/febs_segmentation.py --data-dir FairSeg --attribute race --size 224 --device cuda
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common import fundus, intervals, loaders, plots, toolkit
from common.segmentation import CLASSES, STRUCTURES, fit, overlaps, predict, unet
from fairloss import FEBSLoss, GroupDROLoss
from fairloss.functional import sample_dice_loss
from fairloss.metrics import equity_scaled, error_skew

COLUMNS = ("Dice", "worst Dice", "Dice gap", "ES-Dice", "ES-IoU", "error skew")
METHODS = ("Dice + CE", "Resampling", "GroupDRO", "FEBS", "FEBS, released")


def criterion(method: str, data: Any, dice_weight: float) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The loss of (logits, masks, groups)."""
    if method.startswith("FEBS"):
        variant = "released" if method.endswith("released") else "default"
        return FEBSLoss(data.num_groups, num_classes=CLASSES, dice_weight=dice_weight, variant=variant)
    dro = GroupDROLoss(data.num_groups, step_size=0.01, shares=data.group_counts)

    def loss(logits: Tensor, masks: Tensor, group: Tensor) -> Tensor:
        values = sample_dice_loss(logits, masks, dice_weight=dice_weight)
        return dro(values, group) if method == "GroupDRO" else values.mean()

    return loss


def train(data: Any, method: str, args: argparse.Namespace, seed: int, tick: Callable[[], Any]) -> nn.Module:
    """The same schedule for every method; only the loss, or the draw of the photographs, differs."""
    toolkit.seed_everything(seed)
    device = torch.device(args.device)
    tensors = {k: v.to(device) for k, v in data.tensors().items() if k != "label"}
    group = tensors["group"].cpu()
    model = unet(args.width).to(device)
    steps = max(1, len(group) // args.batch)
    counts = torch.tensor(data.group_counts, dtype=torch.float32)
    frequency = torch.where(group >= 0, counts[group.clamp(min=0)], counts.max())

    def order() -> Tensor:
        if method == "Resampling":
            return torch.multinomial(frequency**-0.75, steps * args.batch, replacement=True)
        return torch.randperm(len(group))

    fit(
        model, tensors, criterion(method, data, args.dice_weight), order=order, epochs=args.epochs, steps=steps,
        batch=args.batch, lr=args.lr, context=lambda: toolkit.autocast(args), tick=tick,
    )  # fmt: skip
    return model


def figures(bootstrap: intervals.PatientBootstrap, overlap: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    """Dice with intervals; equity-scaled values and the error skew are means over seeds."""
    found: dict[str, Any] = {}
    for name in ("dice", "iou", "dice_disc", "dice_cup"):
        found |= bootstrap.of_values(np.stack([seed[name] for seed in overlap]), name)

    def mean(name: str, measure: Callable[[float, np.ndarray], float]) -> float:
        groups = np.stack([found[f"{name}:{g}"].per_seed for g in range(bootstrap.num_groups)], 1)
        return float(np.mean([measure(v, g) for v, g in zip(found[name].per_seed, groups, strict=True)]))

    found["es_dice"] = mean("dice", lambda v, g: equity_scaled(v, g, penalty="sum_abs"))
    found["es_iou"] = mean("iou", lambda v, g: equity_scaled(v, g, penalty="sum_abs"))
    found["error_skew"] = mean("dice", lambda _, g: error_skew(g))
    return found


def overlays(path: Path, data: Any, predicted: dict[str, np.ndarray], scores: np.ndarray) -> Path:
    """One photograph of every group, that of median Dice under the baseline: the given outlines and each method's."""
    rows = []
    for g in range(data.num_groups):
        members = np.flatnonzero(data.group == g)
        rows.append(members[np.argsort(scores[members])[len(members) // 2]])
    fig, axes = plots.figure(2.2 * (len(predicted) + 1), 2.35 * len(rows), columns=len(predicted) + 1, rows=len(rows))
    for line, row in zip(np.atleast_2d(axes), rows, strict=True):
        shown = {"given masks": data.masks, **predicted}
        for ax, (name, masks) in zip(line, shown.items(), strict=True):
            ax.imshow(data.images[row], interpolation="nearest")
            for structure, classes in STRUCTURES.items():
                colour = "#56B4E9" if structure == "disc" else "#F0E442"
                mask, truth = np.isin(masks[row], classes), np.isin(data.masks[row], classes)
                if masks is not data.masks and truth.any():
                    ax.contour(truth, [0.5], colors="white", linewidths=0.8, linestyles="dotted")
                if mask.any():
                    ax.contour(mask, [0.5], colors=colour, linewidths=1.4)
            if row == rows[0]:
                ax.set_title(name, fontsize=10)
            if ax is line[0]:
                ax.set_ylabel(data.group_names[data.group[row]])
            ax.set_xticks([])
            ax.set_yticks([])
            ax.grid(visible=False)
    return plots.save(fig, path)


def comparison(path: Path, results: dict[str, dict[str, Any]], names: Sequence[str]) -> Path:
    """Bars a group, on an axis that starts where differences can be seen, and Dice against gap."""
    fig, (left, right) = plots.figure(13.0, 4.6, columns=2)
    plots.draw_groups(left, results, names, metric="dice", chance=None)
    lowest = min(found[f"dice:{g}"].low for found in results.values() for g in range(len(names)))
    floor = max(0.0, np.floor(lowest * 20 - 0.5) / 20)
    left.set_ylim(bottom=floor)
    left.set_ylabel(f"Dice (axis from {floor:g})")
    left.set_xticks(range(len(results)), list(results), rotation=20, ha="right", rotation_mode="anchor")
    plots.draw_trade_off(right, results, metric="dice")
    return plots.save(fig, path)


def load(args: argparse.Namespace, seed: int, split: str) -> Any:
    if args.data_dir is not None:
        if args.splits is None:
            args.splits = loaders.load(args.data_dir, attribute=args.attribute, size=args.size, limit=args.limit)
            if args.splits[0].masks is None:
                raise SystemExit(f"{args.data_dir}: the files hold no masks; FairSeg's do")
        return args.splits[0 if split == "train" else 2]
    task = fundus.TASKS[args.task]
    if split == "train":
        return fundus.make(task, images=args.images, seed=seed, size=args.size)
    return fundus.make(task, counts=[args.test_images] * len(task.looks), seed=0, size=args.size, split="test")


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
    parser = toolkit.argument_parser(
        __doc__, name="febs_segmentation", seeds=3, data_dir="Harvard-FairSeg, as downloaded"
    )
    parser.add_argument("--task", choices=list(fundus.TASKS), default="standard", help="rendered task (standard)")
    parser.add_argument("--attribute", help="with --data-dir: the attribute whose groups are compared")
    parser.add_argument("--limit", type=int, help="with --data-dir: read about this many images")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="default: all")
    parser.add_argument("--width", type=int, default=8, help="channels of the U-Net's first level (8)")
    parser.add_argument("--images", type=int, default=1500, help="training photographs (1500)")
    parser.add_argument("--test-images", type=int, default=300, help="test photographs of every group (300)")
    parser.add_argument("--size", type=int, default=64, help="height and width (64)")
    parser.add_argument("--epochs", type=int, default=8, help="(8)")
    parser.add_argument("--batch", type=int, default=32, help="(32)")
    parser.add_argument("--lr", type=float, default=5e-3, help="highest rate of the one-cycle schedule (0.005)")
    parser.add_argument("--dice-weight", type=float, default=0.5, help="of Dice against cross-entropy (0.5)")
    args = parser.parse_args(argv)
    args.splits = None
    if args.tiny:
        args.images, args.test_images, args.epochs, args.size, args.width = 160, 30, 1, 32, 4
        args.seeds = min(args.seeds, 2)
    toolkit.prepare(args)
    test = load(args, 0, "test")
    found: dict[str, list[dict[str, np.ndarray]]] = {m: [] for m in args.methods}
    seconds = dict.fromkeys(args.methods, 0.0)
    last: dict[str, np.ndarray] = {}
    with toolkit.progress(None, "training", total=args.seeds * len(args.methods) * args.epochs) as bar:
        for seed in range(args.seeds):
            data = load(args, seed, "train")
            for method in args.methods:
                bar.set_description(f"seed {seed}, {method}")
                start = time.perf_counter()
                model = train(data, method, args, seed, bar.update)
                seconds[method] += (time.perf_counter() - start) / args.seeds
                inputs = test.tensors()
                last[method] = predict(model, inputs["images"], inputs["group"], lambda: toolkit.autocast(args))
                found[method].append(overlaps(test.masks, last[method]))
    shares = None if args.data_dir else fundus.TASKS[args.task].shares
    bootstrap = intervals.PatientBootstrap(
        test.patient, test.group, test.num_groups, shares=shares, resamples=200 if args.tiny else 1000
    )
    results = {method: figures(bootstrap, overlap) for method, overlap in found.items()}
    report(args, results, test, seconds)
    picture = overlays(args.out / "febs_overlays.png", test, last, found[args.methods[0]][-1]["dice"])
    print(f"outlines: {picture}")
    return results


def report(args: argparse.Namespace, results: dict[str, dict[str, Any]], test: Any, seconds: dict[str, float]) -> None:
    names = test.group_names
    keys = ["dice", "worst_dice", "gap_dice", "es_dice", "es_iou", "error_skew"]
    keys += [f"dice:{g}" for g in range(len(names))] + ["dice_disc", "dice_cup"]
    header = ["method", *COLUMNS, *names, "disc", "cup"]
    rows = [[name, *(found[k] for k in keys)] for name, found in results.items()]
    source = args.data_dir or f"rendered task {args.task!r}"
    toolkit.print_table(f"{source}, {len(test)} test photographs, {args.seeds} seeds; [95 % interval]", header, rows)
    sentences = []
    if "Dice + CE" in results:
        for metric in ("gap_dice", "worst_dice", "dice"):
            sentences += intervals.compare(results, metric, baseline="Dice + CE")
    print("\n".join(sentences))
    picture = comparison(args.out / "febs_segmentation.png", results, names)
    (args.out / "febs_segmentation.md").write_text(
        toolkit.markdown_table(header, rows) + "\n" + "".join(f"- {s}\n" for s in sentences), encoding="utf-8"
    )
    settings = {k: v for k, v in vars(args).items() if k != "splits"}
    toolkit.save_json(
        args.out / "febs_segmentation.json", {"settings": settings, "seconds_a_run": seconds, "results": results}
    )
    print(f"picture: {picture}   table: {args.out / 'febs_segmentation.md'}")


if __name__ == "__main__":
    main()

"""The FairMedFM protocol: a CLIP-type model, ways to use it, ways to make it fair, over data sets and attributes.

The paper is Jin et al., "FairMedFM: Fairness Benchmarking for Medical Imaging Foundation Models" (2024), its Table 2. A frozen
CLIP with a linear probe (LP), and CLIP with LoRA in its vision tower; with ``--full`` also zero-shot (ZS) and CLIP-Adapt, whose
class prototypes are trained from the text prompts'. Each is trained by ERM, GroupDRO, resampling, an adversary and
domain-independent heads (InD), for each attribute. A U-Net is trained by ERM, Fair Error-Bound Scaling (FEBS), resampling and
InD. Data sets are the blocks of Friedman's test; seeds, and attributes, are averaged within them.

    python examples/fairmedfm.py               # rendered data sets, a small CLIP trained in place: nothing is downloaded
    python examples/fairmedfm.py --full        # in the same folder it adds to the cells that are there
    python examples/fairmedfm.py --model PATH_OR_ID --data-dir HAM10000 FairVLMed FairSeg --device cuda

Every finished cell is written at once; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from common import benchmark, blocks, clip, fundus, mitigation, segmentation, toolkit
from fairloss import BalancedGroupSampler, FEBSLoss
from fairloss.functional import sample_dice_loss
from fairloss.metrics import (
    best_f1_threshold,
    calibration_gap,
    equalized_odds_difference,
    error_skew,
    group_mean,
    group_metric,
    group_std,
)

USAGES = ("LP", "LoRA")
MORE_USAGES = ("ZS", "CLIP-Adapt")
SEGMENTATION = ("ERM", "FEBS", "Resampling", "InD")
LORA_TARGETS = r".*vision_model.*\.(q_proj|k_proj|v_proj|out_proj)"


class Split(NamedTuple):
    """One of a data set's splits as the model sees it."""

    data: Any
    pixels: Tensor
    features: Tensor  # (N, D), length 1
    label: np.ndarray


def figures(
    label: np.ndarray, score: np.ndarray, ids: np.ndarray, names: Sequence[str], threshold: float
) -> dict[str, Any]:
    """FairMedFM's Table 2 for one attribute: EqOdds is 1 - mean gap, higher is better; ES by the population's deviation."""
    by_group = group_metric("auc", label, score, ids)
    return {
        "auc": by_group.overall,
        "groups": {names[g]: value for g, value in by_group.to_dict().items()},
        "worst": float(np.nanmin(by_group.values)),
        "gap": by_group.gap(),
        "eqodds": equalized_odds_difference(label, score, ids, agg="score", threshold=threshold),
        "ece": calibration_gap(label, score, ids),
        "printed_ece": calibration_gap(label, score, ids, measure="mean_abs"),
        "es": by_group.equity_scaled(penalty="std", ddof=0),
    }


def seg_figures(values: np.ndarray, ids: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """The same table's segmentation columns, of each photograph's Dice (the mean of disc's and cup's)."""
    by_group = group_mean(values, ids)
    return {
        "dsc": by_group.overall,
        "groups": {names[g]: value for g, value in by_group.to_dict().items()},
        "worst": float(np.nanmin(by_group.values)),
        "gap": by_group.gap(),
        "std": group_std(by_group.values, ddof=0),
        "skew": error_skew(by_group.values),
        "es": by_group.equity_scaled(penalty="std", ddof=0),
    }


def with_lora(model: Any, rank: int) -> Any:
    """LoRA on a copy's vision tower: the model given keeps its weights, and all but the adapters are frozen."""
    from peft import LoraConfig, get_peft_model

    return get_peft_model(copy.deepcopy(model), LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=LORA_TARGETS))


def fit(
    usage: str, method: str, model: clip.Clip, train: Split, group: np.ndarray, num_groups: int, prompts: Sequence[str],
    args: argparse.Namespace, seed: int,
) -> Callable[[Split, np.ndarray], np.ndarray]:  # fmt: skip
    """Train one cell; returns the scores, (N,), of a split whose photographs are of these groups."""
    toolkit.seed_everything(seed)
    device = torch.device(args.device)
    dim = train.features.shape[1]
    prototypes = model.prototypes(prompts) if usage in MORE_USAGES else None
    # Coordinates of about 1, as a linear head expects them; prototypes meet embeddings of length 1.
    scale = dim**0.5 if prototypes is None else 1.0
    head = mitigation.make_head(method, dim, num_groups, prototypes).to(device)
    tower = with_lora(model.model, args.rank) if usage == "LoRA" else None
    counts = np.bincount(group[group >= 0], minlength=num_groups).tolist()
    objective = mitigation.Objective(method, counts, dim=None if tower is None else dim).to(device)
    if usage != "ZS":
        inputs = train.features if tower is None else train.pixels.to(device)
        if tower is not None:
            tower.train()
        epochs, lr = (args.epochs, args.lr) if tower is None else (args.lora_epochs, args.lora_lr)
        mitigation.train(
            method, lambda x: scale * (x if tower is None else model.embed(x, tower)), inputs,
            torch.from_numpy(train.label).to(device), torch.from_numpy(group).to(device), head, objective,
            encoder=[] if tower is None else [p for p in tower.parameters() if p.requires_grad],
            lr=lr, batch=args.batch, steps=epochs * max(1, len(train.label) // args.batch), seed=seed,
            context=lambda: toolkit.autocast(args),
        )  # fmt: skip

    @torch.no_grad()
    def scores(split: Split, ids: np.ndarray) -> np.ndarray:
        embeddings = split.features if tower is None else model.features(split.pixels, tower)
        logits = mitigation.answer(head, scale * embeddings, torch.from_numpy(ids).to(device))
        return logits.softmax(1)[:, 1].cpu().double().numpy()

    return scores


def classify(
    block: blocks.Block, seed: int, model: clip.Clip, args: argparse.Namespace, cells: blocks.Cells, bar: Any
) -> None:
    """All classification cells of a data set and a seed that are not there yet."""
    todo = [key for key in benchmark.classification_keys(block.name, seed, args) if key not in cells]
    bar.update(len(benchmark.classification_keys(block.name, seed, args)) - len(todo))
    if not todo:
        return
    sets = block.splits(seed)
    if any(len(np.unique(data.label)) != 2 for data in sets):
        print(f"{block.name}: its labels are not two classes; no classification")
        return
    splits = []
    for data in sets:
        pixels = model.pixels(data)
        splits.append(Split(data, pixels, model.features(pixels), np.asarray(data.label)))
    train, valid, test = splits
    known = [blocks.attributes_of(data) for data in sets]
    for key in todo:
        _, usage, method, target, _ = key
        if target and target not in known[0]:
            continue
        bar.set_description(f"{block.name}, {usage}, {method}{target and ', ' + target}")
        start = time.perf_counter()
        ids = [attributes[target or next(iter(attributes))][0] for attributes in known]
        groups = len(known[0][target][1]) if target else 1
        scores = fit(usage, method, model, train, ids[0] if target else ids[0] * 0, groups, block.prompts, args, seed)
        judged = {}
        # InD's heads are also asked without the group, which leaves them their mean.
        for kind, shown in (("figures", 1), ("withheld", 0)):
            if shown or method == "InD":
                asked = [i if shown else np.full_like(i, -1) for i in ids]
                threshold = best_f1_threshold(valid.label, scores(valid, asked[1]))
                found = scores(test, asked[2])
                judged[kind] = {
                    name: figures(test.label, found, *known[2][name], threshold)
                    for name in ([target] if target else args.attributes)
                    if name in known[2]
                }
        cells.add(key, {"seconds": time.perf_counter() - start, **judged})
        bar.update()


def segment(block: blocks.Block, seed: int, args: argparse.Namespace, cells: blocks.Cells, bar: Any) -> None:
    """All segmentation cells of a data set and a seed that are not there yet."""
    todo = [key for key in benchmark.segmentation_keys(block.name, seed, args) if key not in cells]
    bar.update(len(benchmark.segmentation_keys(block.name, seed, args)) - len(todo))
    if not todo:
        return
    train, _, test = block.splits(seed)
    if train.masks is None:
        print(f"{block.name}: no masks; no segmentation")
        return
    known = [blocks.attributes_of(data) for data in (train, test)]
    for key in todo:
        _, _, method, target, _ = key
        if target and target not in known[0]:
            continue
        bar.set_description(f"{block.name}, U-Net, {method}{target and ', ' + target}")
        start = time.perf_counter()
        name = target or next(iter(known[0]))
        tensors = blocks.seg_tensors(train, known[0][name][0])
        model = fit_unet(method, tensors, len(known[0][name][1]), args, seed)
        inputs = blocks.seg_tensors(test, known[1][name][0])
        predicted = segmentation.predict(model, inputs["images"], inputs["group"], lambda: toolkit.autocast(args))
        values = segmentation.overlaps(inputs["masks"].numpy(), predicted)["dice"]
        judged = {
            n: seg_figures(values, *known[1][n]) for n in ([target] if target else args.attributes) if n in known[1]
        }
        cells.add(key, {"seconds": time.perf_counter() - start, "figures": judged})
        bar.update()


def fit_unet(
    method: str, tensors: dict[str, Tensor], num_groups: int, args: argparse.Namespace, seed: int
) -> nn.Module:
    """The same schedule for every method; only the loss, the draw or the last layer differs."""
    toolkit.seed_everything(seed)
    device = torch.device(args.device)
    if method == "InD":
        model: nn.Module = segmentation.GroupUNet(args.width, num_groups)
    else:
        # As InD's, but for one last layer in place of one a group.
        model = nn.Sequential(segmentation.unet(args.width, args.width), nn.Conv2d(args.width, segmentation.CLASSES, 1))
    model.to(device)
    group = tensors["group"]
    sampler = BalancedGroupSampler(group, max_ratio=float(len(group)), seed=seed) if method == "Resampling" else None
    febs = (
        FEBSLoss(num_groups, num_classes=segmentation.CLASSES, dice_weight=args.dice_weight)
        if method == "FEBS"
        else None
    )

    def loss(logits: Tensor, masks: Tensor, ids: Tensor) -> Tensor:
        return (
            sample_dice_loss(logits, masks, dice_weight=args.dice_weight).mean()
            if febs is None
            else febs(logits, masks, ids)
        )

    segmentation.fit(
        model, {k: v.to(device) for k, v in tensors.items()}, loss,
        order=lambda: torch.randperm(len(group)) if sampler is None else torch.tensor(list(sampler)),
        epochs=args.seg_epochs, steps=max(1, len(group) // args.seg_batch), batch=args.seg_batch, lr=args.seg_lr,
        context=lambda: toolkit.autocast(args),
    )  # fmt: skip
    return model


def parser() -> argparse.ArgumentParser:
    made = toolkit.argument_parser(__doc__, name="fairmedfm", seeds=2)
    add = made.add_argument
    add(
        "--data-dir",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="HAM10000, FairVLMed, FairSeg as downloaded: one block each",
    )
    add("--limit", type=int, help="with --data-dir: read about this many images of each")
    add("--model", help="a CLIP of transformers, by path or name; default: a small one trained in place")
    add("--full", action="store_true", help="also zero-shot and CLIP-Adapt, and segmentation for every attribute")
    add("--fresh", action="store_true", help="forget the cells of an earlier run with these settings")
    add(
        "--tasks",
        nargs="+",
        choices=list(fundus.TASKS),
        default=list(fundus.TASKS),
        help="rendered data sets (all nine)",
    )
    add("--attributes", nargs="+", help="default: group sex age; with --data-dir sex age race")
    add("--methods", nargs="+", choices=mitigation.METHODS, default=list(mitigation.METHODS), help="default: all")
    add("--images", type=int, default=1000, help="training photographs of a rendered set (1000)")
    add("--valid-images", type=int, default=300, help="validation photographs, for the threshold (300)")
    add("--test-images", type=int, default=250, help="test photographs of every group (250)")
    add("--size", type=int, default=64, help="height and width (64)")
    add("--clip-images", type=int, default=8100, help="photographs that the small CLIP is trained on (8100)")
    add("--clip-epochs", type=int, default=10, help="(10)")
    add("--epochs", type=int, default=40, help="of linear probe and CLIP-Adapt (40)")
    add("--lora-epochs", type=int, default=5, help="(5)")
    add("--batch", type=int, help="(64; with --model 128, the paper's)")
    add("--lr", type=float, help="of linear probe and CLIP-Adapt (0.03; with --model 0.00025, the paper's)")
    add("--lora-lr", type=float, help="(0.005; with --model 0.00025, the paper's)")
    add("--rank", type=int, default=8, help="of LoRA (8)")
    add("--width", type=int, default=8, help="channels of the U-Net's first level (8)")
    add("--seg-seeds", type=int, default=1, help="number of seeds of the U-Net (1)")
    add("--seg-epochs", type=int, default=4, help="(4)")
    add("--seg-batch", type=int, default=16, help="(16)")
    add("--seg-lr", type=float, default=0.01, help="highest rate of the one-cycle schedule (0.01)")
    add("--dice-weight", type=float, default=0.8, help="of Dice against cross-entropy (0.8)")
    return made


# What changes no cell's value, only which cells there are and where they lie.
NOT_SETTINGS = (
    "out",
    "full",
    "fresh",
    "tasks",
    "attributes",
    "methods",
    "seeds",
    "seg_seeds",
    "usages",
    "seg_attributes",
    "device",
)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = parser().parse_args(argv)
    if args.tiny:
        args.tasks, args.images, args.valid_images, args.test_images = args.tasks[:3], 128, 60, 40
        args.clip_images, args.clip_epochs, args.epochs, args.lora_epochs, args.seg_epochs = 270, 1, 2, 1, 1
        args.width, args.seeds = 4, 1
    args.batch = args.batch or (64 if args.model is None else 128)
    args.lr = args.lr or (0.03 if args.model is None else 2.5e-4)
    args.lora_lr = args.lora_lr or (0.005 if args.model is None else 2.5e-4)
    args.attributes = args.attributes or (["sex", "age", "race"] if args.data_dir else ["group", "sex", "age"])
    args.usages = [*USAGES, *(MORE_USAGES if args.full else ())]
    args.seg_attributes = args.attributes if args.full else args.attributes[:1]
    device = toolkit.prepare(args)
    start = time.process_time()
    if args.model is None:
        model = clip.small_clip(
            args.out, images=args.clip_images, epochs=args.clip_epochs, size=args.size, tiny=args.tiny
        )
    else:
        model = clip.real_clip(args.model)
    args.model_size = model.model.config.vision_config.image_size
    model.model.to(device).requires_grad_(False)
    found = blocks.blocks_of(args)
    cells = blocks.Cells(args.out, {k: v for k, v in vars(args).items() if k not in NOT_SETTINGS}, fresh=args.fresh)
    with toolkit.progress(None, "cells", total=benchmark.total(found, args)) as bar:
        # Seeds outside: what a stopped run leaves is a benchmark of fewer seeds, for `--seeds`.
        for seed in range(args.seeds):
            for block in found:
                classify(block, seed, model, args, cells, bar)
                if seed < args.seg_seeds:
                    segment(block, seed, args, cells, bar)
    print(f"{(time.process_time() - start) / 60:.1f} minutes of CPU in this run; cells in {cells.path}")
    return benchmark.report(cells, [block.name for block in found], args)


if __name__ == "__main__":
    main()

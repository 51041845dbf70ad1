"""Fair Distillation on fundus photographs: the paper's three steps, beside ERM, GroupDRO and Fair Identity Scaling.

Step 0 trains a ResNet by Fair Identity Scaling (c = 0.5). Step 1 freezes it and trains one new head for each group by that
group's photographs alone (c = 0). Step 2 trains one new head, the student, on the same frozen network: lambda = 0.95 of
distillation from the teacher of each photograph's group (tau = 1.5), 0.05 of Fair Identity Scaling. CutMix in every step and
for every method, with a partner of the same group; training stops when the worst group's validation AUC (a teacher: its own
group's) has not risen for 5 epochs, and the best epoch is kept.

    python examples/fairdi_cnn.py                                          # rendered photographs, minutes on 2 cores
    python examples/fairdi_cnn.py --width 64 --size 224 --epochs 30 --device cuda --data-dir HAM10000 --attribute sex

The network has the ResNet-18 layout (basic blocks, 2, 2, 2, 2); --width 64 is ResNet-18 itself, the default is narrower.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import fundus, intervals, loaders, plots, toolkit
from fairloss import FairDistillationLoss, FISLoss, GroupDROLoss, GroupHeads
from fairloss.metrics import equity_scaled, group_metric, performance_scaled_disparity

METHODS = ("ERM", "GroupDRO", "FIS")  # trained end to end; teachers and student continue from FIS
COLUMNS = ("AUC", "worst AUC", "AUC gap", "ES-AUC", "mean PSD", "max PSD")


class Backbone(nn.Module):
    """transformers' ResNet from a configuration (nothing is downloaded), up to the pooled features."""

    def __init__(self, width: int) -> None:
        from transformers import ResNetConfig, ResNetModel

        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.model = ResNetModel(
            ResNetConfig(embedding_size=width, hidden_sizes=widths, depths=[2, 2, 2, 2], layer_type="basic")
        )
        self.features = widths[-1]

    def forward(self, images: Tensor) -> Tensor:
        return self.model(pixel_values=images).pooler_output.flatten(1)


def cutmix(images: Tensor, label: Tensor, group: Tensor, probability: float) -> tuple[Tensor, Tensor]:
    """Paste a box of another photograph of the same group; labels become probabilities by area."""
    target = F.one_hot(label, 2).float()
    if torch.rand(()) >= probability:
        return images, target
    partner = torch.arange(len(label), device=label.device)
    for g in group.unique():
        rows = (group == g).nonzero().squeeze(1)
        partner[rows] = rows[torch.randperm(len(rows), device=rows.device)]
    height, width = images.shape[2:]
    share = float(np.random.default_rng(int(torch.randint(2**31, ()))).beta(1, 1))
    h, w = int(height * (1 - share) ** 0.5), int(width * (1 - share) ** 0.5)
    top, left = int(torch.randint(height - h + 1, ())), int(torch.randint(width - w + 1, ()))
    mixed = images.clone()
    mixed[:, :, top : top + h, left : left + w] = images[partner, :, top : top + h, left : left + w]
    pasted = h * w / (height * width)
    return mixed, (1 - pasted) * target + pasted * target[partner]


class Trainer:
    """Epochs of one model on one training set, with early stopping; what is optimised is a function of the batch."""

    def __init__(self, train: Any, valid: Any, args: argparse.Namespace, seed: int, tick: Callable[[], Any]) -> None:
        self.args, self.device, self.tick, self.num_groups = args, torch.device(args.device), tick, train.num_groups
        tensors = {k: v.to(self.device) for k, v in train.tensors().items() if k != "masks"}
        self.images = tensors["images"].to(memory_format=torch.channels_last)
        self.label, self.group = tensors["label"], tensors["group"]
        self.valid = valid
        toolkit.seed_everything(seed)

    def run(
        self,
        modules: Sequence[nn.Module],
        optimizer: torch.optim.Optimizer,
        loss: Callable[[Tensor, Tensor, Tensor], Tensor],
        score: Callable[[], Sequence[float]],
    ) -> None:
        """Train; ``score`` returns one or several values (one a head), each of which keeps its own best state."""
        args = self.args
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=max(1, args.epochs * 2 // 3), gamma=0.1)
        best: list[float] = []
        kept: list[list[dict[str, Tensor]]] = []
        since = 0
        for _ in range(args.epochs):
            for module in modules:
                module.train()
            for rows in torch.randperm(len(self.label), device=self.device).split(args.batch):
                inputs = self.images[rows]
                flip = torch.rand(len(rows), 1, 1, 1, device=self.device) < 0.5
                inputs, target = cutmix(
                    torch.where(flip, inputs.flip(3), inputs), self.label[rows], self.group[rows], args.cutmix
                )
                optimizer.zero_grad()
                loss(inputs, target, self.group[rows]).backward()
                optimizer.step()
            schedule.step()
            self.tick()
            found = score()
            best, kept = best or [-np.inf] * len(found), kept or [[] for _ in found]
            since += 1
            for k, value in enumerate(found):
                if value > best[k]:
                    best[k], since = value, 0
                    kept[k] = [copy.deepcopy(m.state_dict()) for m in modules]
            if since >= args.patience:
                break
        # One score: everything as it was at the best epoch. Several: row k of every tensor as it was at k's best epoch.
        for i, module in enumerate(modules):
            states = [state[i] for state in kept]
            merged = states[0]
            if len(states) > 1:
                merged = {n: torch.stack([s[n][k] for k, s in enumerate(states)]) for n in merged}
            module.load_state_dict(merged)

    def group_aucs(self, probability: np.ndarray) -> list[float]:
        """AUC of every group on the validation photographs."""
        by_group = group_metric("auc", self.valid.label, probability, self.valid.group).to_dict()
        return [by_group[g] for g in range(self.num_groups)]


@torch.no_grad()
def features_of(backbone: nn.Module, data: Any, args: argparse.Namespace) -> Tensor:
    backbone.eval()
    parts = data.tensors()["images"].split(500)
    with toolkit.autocast(args):
        return torch.cat([backbone(part.to(args.device)).float() for part in parts])


def probability(logits: Tensor) -> np.ndarray:
    return logits.detach().softmax(-1)[..., 1].cpu().numpy()


def end_to_end(method: str, trainer: Trainer) -> tuple[Backbone, nn.Linear]:
    """ERM, GroupDRO or FIS (step 0)."""
    args, groups = trainer.args, trainer.num_groups
    backbone = Backbone(args.width).to(trainer.device, memory_format=torch.channels_last)
    head = nn.Linear(backbone.features, 2).to(trainer.device)
    if method == "GroupDRO":
        counts = torch.bincount(trainer.group[trainer.group >= 0], minlength=groups).tolist()
        criterion: Any = GroupDROLoss(groups, step_size=0.01, shares=counts)
    elif method == "FIS":
        criterion = FISLoss(groups, c=0.5)
    else:
        criterion = lambda losses, group: losses.mean()  # noqa: E731

    def loss(images: Tensor, target: Tensor, group: Tensor) -> Tensor:
        with toolkit.autocast(args):
            logits = head(backbone(images))
        return criterion(F.cross_entropy(logits.float(), target, reduction="none"), group)

    parameters = [*backbone.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=args.lr, weight_decay=1e-4)
    trainer.run(
        [backbone, head], optimizer, loss,
        lambda: [min(trainer.group_aucs(probability(head(features_of(backbone, trainer.valid, args)))))],
    )  # fmt: skip
    return backbone, head


def frozen(backbone: nn.Module, images: Tensor, args: argparse.Namespace) -> Tensor:
    backbone.eval()
    with torch.no_grad(), toolkit.autocast(args):
        return backbone(images).float()


def teachers(backbone: Backbone, trainer: Trainer) -> GroupHeads:
    """Step 1: every group's head on the frozen network, weighted by individual loss alone (eq 2, c = 0)."""
    args, groups = trainer.args, trainer.num_groups
    heads = GroupHeads(groups, in_features=backbone.features, num_classes=2).to(trainer.device)
    individual = FISLoss(groups, c=0.0)

    def loss(images: Tensor, target: Tensor, group: Tensor) -> Tensor:
        losses = F.cross_entropy(heads(frozen(backbone, images, args), group), target, reduction="none")
        own = [individual(losses[group == g], group[group == g]) for g in range(groups)]
        return torch.stack(own).sum()

    inputs = features_of(backbone, trainer.valid, args)

    def score() -> list[float]:
        per_head = probability(heads(inputs))  # (G, N)
        return [trainer.group_aucs(per_head[g])[g] for g in range(groups)]

    trainer.run([heads], torch.optim.SGD(heads.parameters(), lr=args.head_lr, momentum=0.9), loss, score)
    return heads


def student(backbone: Backbone, heads: GroupHeads, trainer: Trainer) -> nn.Linear:
    """Step 2: one head for all groups, distilled from each photograph's own teacher (eq 3)."""
    args = trainer.args
    head = nn.Linear(backbone.features, 2).to(trainer.device)
    criterion = FairDistillationLoss(
        trainer.num_groups, distill_weight=args.distill_weight, temperature=args.temperature
    )

    def loss(images: Tensor, target: Tensor, group: Tensor) -> Tensor:
        x = frozen(backbone, images, args)
        return criterion(head(x), target, group, teacher_logits=heads(x))

    inputs = features_of(backbone, trainer.valid, args)
    optimizer = torch.optim.SGD(head.parameters(), lr=args.head_lr, momentum=0.9)
    trainer.run([head], optimizer, loss, lambda: [min(trainer.group_aucs(probability(head(inputs))))])
    return head


def one_seed(
    train: Any, valid: Any, test: Any, args: argparse.Namespace, seed: int, bar: Any
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Scores of the test photographs by every model, and the seconds each took."""
    scores: dict[str, np.ndarray] = {}
    seconds: dict[str, float] = {}

    def timed(name: str, build: Callable[[Trainer], Any]) -> Any:
        bar.set_description(f"seed {seed}, {name}")
        start = time.perf_counter()
        made = build(Trainer(train, valid, args, seed, bar.update))
        seconds[name] = time.perf_counter() - start
        return made

    for method in METHODS:
        backbone, head = timed(method, lambda trainer, m=method: end_to_end(m, trainer))
        inputs = features_of(backbone, test, args)
        scores[method] = probability(head(inputs))
    # The last backbone is step 0's.
    heads = timed("teachers", lambda trainer: teachers(backbone, trainer))
    per_head = heads(inputs)
    for g, name in enumerate(test.group_names):
        scores[f"Teacher: {name}"] = probability(per_head[g])
    scores["Teachers, each on its group"] = probability(heads(inputs, torch.from_numpy(test.group).to(inputs.device)))
    scores["Student (FairDi)"] = probability(timed("student", lambda t: student(backbone, heads, t))(inputs))
    return scores, seconds


def figures(bootstrap: intervals.PatientBootstrap, labels: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """AUCs with intervals; ES-AUC and PSD are means over seeds of what fairloss.metrics makes of the AUCs."""
    found: dict[str, Any] = dict(bootstrap.of_scores(labels, scores))
    per_group = np.stack([found[f"auc:{g}"].per_seed for g in range(bootstrap.num_groups)], 1)
    overall = found["auc"].per_seed
    pairs = list(zip(overall, per_group, strict=True))
    found["es_auc"] = float(np.mean([equity_scaled(v, by, penalty="mean_abs") for v, by in pairs]))
    for kind in ("mean", "max"):
        values = [performance_scaled_disparity(v, by, reduce=kind) for v, by in pairs]
        found[f"{kind}_psd"] = float(np.mean(values))
    return found


def load(args: argparse.Namespace, seed: int) -> tuple[Any, Any, Any]:
    if args.data_dir is not None:
        return loaders.load(args.data_dir, attribute=args.attribute, size=args.size, limit=args.limit)
    task = fundus.TASKS[args.task]
    groups = len(task.looks)
    return (
        fundus.make(task, images=args.images, seed=seed, size=args.size),
        fundus.make(task, counts=[args.valid_images] * groups, seed=seed, size=args.size, split="valid"),
        fundus.make(task, counts=[args.test_images] * groups, seed=0, size=args.size, split="test"),
    )


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
    parser = toolkit.argument_parser(
        __doc__, name="fairdi_cnn", seeds=2, data_dir="HAM10000 or FairVLMed, as downloaded"
    )
    parser.add_argument("--task", choices=list(fundus.TASKS), default="standard", help="rendered task (standard)")
    parser.add_argument("--attribute", help="with --data-dir: the attribute whose groups are compared")
    parser.add_argument("--limit", type=int, help="with --data-dir: read about this many images")
    parser.add_argument("--width", type=int, default=8, help="channels of the first stage; 64 is ResNet-18 (8)")
    parser.add_argument("--images", type=int, default=2500, help="training photographs (2500)")
    parser.add_argument("--valid-images", type=int, default=150, help="validation photographs of every group (150)")
    parser.add_argument("--test-images", type=int, default=600, help="test photographs of every group (600)")
    parser.add_argument("--size", type=int, default=64, help="height and width (64)")
    parser.add_argument("--epochs", type=int, default=10, help="at most, in every step (10)")
    parser.add_argument("--patience", type=int, default=5, help="epochs without a better validation AUC (5)")
    parser.add_argument("--batch", type=int, default=64, help="(64)")
    parser.add_argument("--lr", type=float, default=2e-3, help="of Adam, end to end (0.002)")
    parser.add_argument("--head-lr", type=float, default=0.05, help="of SGD, teachers and student (0.05)")
    parser.add_argument("--cutmix", type=float, default=0.5, help="share of the batches that are mixed (0.5)")
    parser.add_argument("--distill-weight", type=float, default=0.95, help="the paper's lambda (0.95)")
    parser.add_argument("--temperature", type=float, default=1.5, help="the paper's tau (1.5)")
    args = parser.parse_args(argv)
    if args.tiny:
        args.images, args.valid_images, args.test_images = 240, 40, 60
        # Not width 4: torch 2.13's channels-last convolution of 4 channels corrupts memory on CPUs whose best set is AVX2.
        args.epochs, args.size, args.width, args.seeds = 2, 32, 8, min(args.seeds, 2)
    toolkit.prepare(args)
    scores: dict[str, list[np.ndarray]] = {}
    seconds: dict[str, list[float]] = {}
    with toolkit.progress(None, "training", total=args.seeds * args.epochs * (len(METHODS) + 2)) as bar:
        for seed in range(args.seeds):
            train, valid, test = load(args, seed)
            found, took = one_seed(train, valid, test, args, seed, bar)
            for name, values in found.items():
                scores.setdefault(name, []).append(values)
            for name, value in took.items():
                seconds.setdefault(name, []).append(value)
    shares = None if args.data_dir else fundus.TASKS[args.task].shares
    bootstrap = intervals.PatientBootstrap(
        test.patient, test.group, test.num_groups, shares=shares, resamples=200 if args.tiny else 1000
    )
    results = {name: figures(bootstrap, test.label, np.stack(s)) for name, s in scores.items()}
    report(args, results, test, {k: float(np.mean(v)) for k, v in seconds.items()})
    return results


def report(args: argparse.Namespace, results: dict[str, dict[str, Any]], test: Any, seconds: dict[str, float]) -> None:
    names = test.group_names
    keys = ["auc", "worst_auc", "gap_auc", "es_auc", "mean_psd", "max_psd", *(f"auc:{g}" for g in range(len(names)))]
    header = ["model", *COLUMNS, *names]
    rows = [[name, *(found[k] for k in keys)] for name, found in results.items()]
    source = args.data_dir or f"rendered task {args.task!r}"
    toolkit.print_table(f"{source}, {len(test)} test photographs, {args.seeds} seeds; [95 % interval]", header, rows)
    sentences = []
    for metric in ("gap_auc", "worst_auc", "auc"):
        models = {k: results[k] for k in (*METHODS, "Student (FairDi)")}
        sentences += intervals.compare(models, metric)
        pair = {k: results[k] for k in ("FIS", "Student (FairDi)")}
        sentences += intervals.compare(pair, metric, baseline="FIS")
    print("\n".join(sentences))
    shown = {k: v for k, v in results.items() if not k.startswith("Teacher: ")}
    picture = plots.plot_comparison(args.out / "fairdi_cnn.png", shown, names, metric="auc")
    (args.out / "fairdi_cnn.md").write_text(
        toolkit.markdown_table(header, rows) + "\n" + "".join(f"- {s}\n" for s in sentences), encoding="utf-8"
    )
    toolkit.save_json(
        args.out / "fairdi_cnn.json", {"settings": vars(args), "seconds_a_run": seconds, "results": results}
    )
    print(f"picture: {picture}   table: {args.out / 'fairdi_cnn.md'}   numbers: {args.out / 'fairdi_cnn.json'}")


if __name__ == "__main__":
    main()

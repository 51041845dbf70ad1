"""The FairMed-VLM example's model, its objective term by term, and stages of training that can be taken up again."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairloss import (
    AdversarialGroupLoss,
    BalancedGroupSampler,
    ConceptAlignmentLoss,
    CrossGroupContrastiveLoss,
    InverseFrequencyWeighting,
    MomentAlignmentLoss,
)

from . import toolkit
from .medvlm_data import Batch, Cohort, Encoder

TERMS = ("instruction", "scoring", "concept", "contrastive", "moments", "adversary")
LORA = r".*language_model.*\.(q|k|v|o)_proj"


class Seen(NamedTuple):
    """What one forward pass gives the terms."""

    projected: Tensor  # (N, D) mean of the projected image tokens: the paper's z
    pooled: Tensor  # (N, D) hidden state of the question's last token: the paper's "pooled multimodal embedding"
    nll: Tensor  # (N,) of the answer, summed over its tokens
    scores: Tensor  # (N, L) logits of the findings


def wide(x: Tensor) -> Tensor:
    """In float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Diagnoser(nn.Module):
    """A LLaVA without its (frozen) vision tower, and a linear score for every finding on the question's last token."""

    def __init__(self, llava: Any, findings: int) -> None:
        super().__init__()
        self.llava = llava
        self.score = nn.Linear(llava.config.text_config.hidden_size, findings)

    def project(self, features: Tensor) -> Tensor:
        """The projector alone, (N, D): all that concept alignment needs."""
        tokens = self.llava.model.get_image_features(pixel_values=features, return_dict=True).pooler_output
        return wide(torch.stack(list(tokens))).mean(1)

    def forward(self, batch: Batch) -> Seen:
        out = self.llava.model(input_ids=batch.ids, pixel_values=batch.features, attention_mask=batch.mask)
        hidden, n = out.last_hidden_state, len(batch.ids)
        # Only the places that predict the answer go through the head: a large vocabulary is never spread over the prompt.
        width = batch.answer.shape[1]
        places = (batch.end[:, None] + torch.arange(width, device=batch.end.device)).clamp(max=hidden.shape[1] - 1)
        states = hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[2]))
        logits = wide(self.llava.lm_head(states))
        nll = F.cross_entropy(logits.transpose(1, 2), batch.answer, reduction="none").sum(1)
        pooled = states[:, 0]
        projected = wide(out.image_hidden_states).reshape(n, -1, hidden.shape[2]).mean(1)
        return Seen(projected, wide(pooled), nll, wide(self.score(pooled.to(self.score.weight.dtype))))

    def concept_embeddings(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """(C, D) mean of the word embeddings of every concept's name."""
        table = self.llava.get_input_embeddings()
        device = self.score.weight.device
        return torch.stack([wide(table(torch.tensor(x, device=device))).mean(0) for x in ids])


class Objective(nn.Module):
    """L_task + lambda L_fairness as a sum of named terms with weights; a term of weight 0 is not computed.

    instruction: next-token loss of the answer. scoring: binary cross-entropy of the findings (of the diagnosis alone, after
    the closed question). concept: InfoNCE of the projected photograph against the concepts' names. contrastive and moments:
    the fairness terms, between samples of one diagnosis. adversary: a baseline's. ``reweight`` weighs the first two by
    inverse stratum frequency.
    """

    def __init__(
        self, weights: Mapping[str, float], cohort: Cohort, concept_ids: Sequence[Sequence[int]], width: int, *,
        temperature: float = 0.07, margin: float = 0.3, cov_weight: float = 1.0, embedding: str = "projected",
        reweight: bool = False, sums: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        unknown = set(weights) - set(TERMS)
        if unknown:
            raise ValueError(f"weights: {sorted(unknown)[0]!r} is not one of {', '.join(TERMS)}")
        self.weights = {name: float(weights.get(name, 0.0)) for name in TERMS}
        self.concept_ids, self.embedding = concept_ids, embedding
        self.concept = ConceptAlignmentLoss(temperature=temperature)
        self.contrastive = CrossGroupContrastiveLoss(
            cohort.sizes, temperature=temperature, margin=margin, variant="paper" if sums else "default"
        )
        self.moments = MomentAlignmentLoss(
            cohort.sizes, num_classes=2, cov_weight=cov_weight, normalize=True, variant="paper" if sums else "default"
        )
        # Its own draw of weights, so that a run without an adversary draws the same ones for all else.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.adversary = AdversarialGroupLoss(cohort.sizes, embedding_dim=width)
        counts = np.bincount(cohort.strata[cohort.strata >= 0], minlength=int(np.prod(cohort.sizes)))
        self.reweight = InverseFrequencyWeighting(counts.tolist()) if reweight else None

    def forward(self, model: Diagnoser, batch: Batch) -> dict[str, Tensor]:
        """Value of every term that counts."""
        on = {name for name, weight in self.weights.items() if weight}
        if on <= {"concept"}:  # the alignment epoch runs no language model
            z = model.project(batch.features)
            return (
                {"concept": self.concept(z, batch.concepts, concepts=model.concept_embeddings(self.concept_ids))}
                if on
                else {}
            )
        seen = model(batch)
        z = seen.projected if self.embedding == "projected" else seen.pooled
        label = batch.findings[:, 0].long()
        values: dict[str, Tensor] = {}
        if "instruction" in on:
            values["instruction"] = self._mean(seen.nll, batch)
        if "scoring" in on:
            each = F.binary_cross_entropy_with_logits(seen.scores, batch.findings, reduction="none")
            asked = (batch.kind[:, None] == 1) | (torch.arange(each.shape[1], device=each.device) == 0)
            values["scoring"] = self._mean((each * asked).sum(1), batch)
        if "concept" in on:
            concepts = model.concept_embeddings(self.concept_ids)
            values["concept"] = self.concept(seen.projected, batch.concepts, concepts=concepts)
        if "contrastive" in on:
            values["contrastive"] = self.contrastive(z, label, batch.attributes)
        if "moments" in on:
            values["moments"] = self.moments(z, label, batch.attributes)
        if "adversary" in on:
            values["adversary"] = self.adversary(z, batch.attributes)
        return values

    def total(self, values: Mapping[str, Tensor]) -> Tensor:
        """Weighted sum in float64, in the order of ``TERMS``."""
        parts = [self.weights[name] * values[name].double() for name in TERMS if name in values]
        return torch.stack(parts).sum() if parts else torch.zeros((), dtype=torch.float64)

    def row(self, values: Mapping[str, Tensor], total: Tensor) -> dict[str, float]:
        """What the log keeps of a step: every term, what it contributes, and the total."""
        row = {"total": total.item()}
        for name in TERMS:
            value = values[name].item() if name in values else float("nan")
            row |= {name: value, f"{name}_part": self.weights[name] * value if name in values else 0.0}
        return row

    def _mean(self, losses: Tensor, batch: Batch) -> Tensor:
        return losses.mean() if self.reweight is None else self.reweight(losses, batch.strata)


class Plan(NamedTuple):
    """Every batch of a stage, (steps, batch) each: drawn at once, so that a stage can be taken up at any step."""

    rows: np.ndarray
    view: np.ndarray
    kind: np.ndarray
    prompted: np.ndarray


def plan(
    cohort: Cohort, *, epochs: int, batch: int, seed: int, stage: int, balanced: bool, prompts: float, views: int
) -> Plan:
    """``epochs`` times N / batch steps, balanced or not, so that every arm makes the same number of updates.

    Strata that the sampler repeats are shown in a random view (0 is the photograph itself, the others are augmented).
    """
    batch = min(batch, len(cohort))
    steps = max(1, len(cohort) // batch) * epochs
    rng = np.random.default_rng([seed, stage])
    view, kind = rng.integers(0, views, (steps, batch)), rng.integers(0, 2, (steps, batch))
    prompted = rng.random((steps, batch)) < prompts
    if cohort.findings.shape[1] == 1:
        kind = np.zeros_like(kind)
    order: list[int] = []
    repeated = np.zeros(len(cohort), dtype=bool)
    if balanced:
        sampler = BalancedGroupSampler(cohort.attributes, max_ratio=1.5, seed=1000 * seed + stage)
        while len(order) < steps * batch:
            order += sampler
        for ids, grown in zip(sampler.strata, sampler.epoch_counts > sampler.sizes, strict=True):
            repeated |= grown & (cohort.attributes == ids).all(1)
    else:
        while len(order) < steps * batch:
            order += rng.permutation(len(cohort)).tolist()
    rows = np.array(order[: steps * batch]).reshape(steps, batch)
    return Plan(rows, np.where(repeated[rows], view, 0), kind, prompted)


def add_lora(model: Diagnoser, seed: int, rank: int = 32) -> None:
    """Adapters of the paper's rank and alpha on the language model's attention, in place."""
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(seed)
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.05, target_modules=LORA), model)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()


def choose_trainable(model: Diagnoser, what: str) -> None:
    """``projector``: concept alignment; ``all``: all but the vision tower; ``lora``: adapters, projector and score."""
    for name, parameter in model.named_parameters():
        outside = "multi_modal_projector" in name or (name.startswith("score") and what != "projector")
        parameter.requires_grad_(outside or what == "all" or (what == "lora" and "lora_" in name))


class Stage(NamedTuple):
    """One stage: what is trained on which batches towards what, and where its checkpoint and log lie."""

    name: str
    objective: Objective
    batches: Plan
    lr: float
    trains: str
    checkpoint: Path
    critic_lr: float = 1e-2  # of the adversary, which has to keep up


def run_stage(
    stage: Stage, model: Diagnoser, encoder: Encoder, autocast: Callable[[], Any], *, seed: int, save_every: int = 50,
    stop_after: int | None = None, tick: Callable[[], Any] = lambda: None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Train, or load what a run of the same name has trained; returns the log, one row a step.

    A checkpoint every ``save_every`` steps holds the trained parameters, the optimiser, the random state and the log: taken
    up from it, a stage ends bit for bit where it would have ended. ``stop_after`` steps it stops, for tests of that.
    """
    choose_trainable(model, stage.trains)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    critic = list(stage.objective.adversary.parameters()) if stage.objective.weights["adversary"] else []
    groups = [{"params": list(trained.values())}, {"params": critic, "lr": stage.critic_lr}][: 2 if critic else 1]
    optimizer = torch.optim.AdamW(groups, lr=stage.lr, weight_decay=0.01)
    steps = len(stage.batches.rows)
    warmup = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / warmup, (steps - s) / max(1, steps - warmup))
    )
    torch.manual_seed(seed)
    log: list[dict[str, Any]] = []
    if stage.checkpoint.exists():
        kept = torch.load(stage.checkpoint, map_location=next(model.parameters()).device, weights_only=False)
        with torch.no_grad():
            for name, value in kept["model"].items():
                trained[name].copy_(value)
        log = kept["log"]
        if kept["step"] < steps:
            optimizer.load_state_dict(kept["optimizer"])
            schedule.load_state_dict(kept["schedule"])
            stage.objective.adversary.load_state_dict(kept["adversary"])
            torch.set_rng_state(kept["random"].cpu())
    for step in range(len(log), steps):
        model.train()
        batch = encoder.batch(*(part[step] for part in stage.batches))
        with autocast():
            values = stage.objective(model, batch)
        total = stage.objective.total(values)
        optimizer.zero_grad()
        if values:
            total.backward()
            nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimizer.step()
        schedule.step()
        log.append({"stage": stage.name, "step": step, **stage.objective.row(values, total)})
        tick()
        stops = stop_after is not None and len(log) >= stop_after
        if (step + 1) % save_every == 0 or step + 1 == steps or stops:
            save(stage, trained, optimizer, schedule, log, finished=step + 1 == steps)
        if stops:
            break
    return log


def save(
    stage: Stage, trained: Mapping[str, Tensor], optimizer: Any, schedule: Any, log: list[Any], *, finished: bool
) -> None:
    """Written beside its place and then moved there: a run that is cut short leaves a whole checkpoint."""
    content: dict[str, Any] = {"model": {n: p.detach().cpu() for n, p in trained.items()}, "step": len(log), "log": log}
    if not finished:
        content |= {
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "random": torch.get_rng_state(),
        }
        content |= {"adversary": stage.objective.adversary.state_dict()}
    stage.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    half = stage.checkpoint.with_suffix(".part")
    torch.save(content, half)
    half.replace(stage.checkpoint)


def write_log(path: Path, log: Sequence[Mapping[str, Any]]) -> None:
    """All steps as CSV, and each stage's first and last values as JSON beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(log[0]))
        writer.writeheader()
        writer.writerows(log)
    summary: dict[str, Any] = {}
    for name in dict.fromkeys(row["stage"] for row in log):
        rows = [row for row in log if row["stage"] == name]
        few = max(1, len(rows) // 10)
        summary[name] = {
            term: {
                end: {"value": _mean([r[term] for r in part]), "contribution": _mean([r[f"{term}_part"] for r in part])}
                for end, part in (("first tenth", rows[:few]), ("last tenth", rows[-few:]))
            }
            for term in TERMS
            if any(row[f"{term}_part"] for row in rows)
        }
    toolkit.save_json(path.with_suffix(".json"), summary)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))

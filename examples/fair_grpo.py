"""FairGRPO inside TRL: a language model learns to diagnose by reward, with and without fair advantages.

A small decoder with random weights, made here, reads a patient's group and a few findings and answers A, B or C. Three domains
hold 60, 30 and 10 % of the cases, three groups of patients 78, 16 and 6 %; in the small groups some findings point to another
diagnosis. A few seconds of supervised steps teach the answer's format, then TRL's GRPOTrainer takes over with a reward of 1 for
the right letter. Four ways to weigh a prompt: GRPO (equally), GroupDRO on top of it, FairGRPO, and
FairGRPO that is told no group and finds them by clustering rewards (FairGRPO_ND).

    python examples/fair_grpo.py                                        # 3 seeds, a few minutes on a core
    python examples/fair_grpo.py --save-steps 50                        # checkpoints; --resume goes on from the last
    python examples/fair_grpo.py --model Qwen/Qwen3-0.6B --device cuda --amp bf16
    python examples/fair_grpo.py --model google/medgemma-4b-it --photographs --device cuda --amp bf16
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common import diagnosis, fundus, intervals, plots, toolkit
from fairloss import FairGRPOAdvantage
from fairloss.metrics import aggregate_disparity, cross_groups, group_metric
from fairloss.policy import GroupDROAdvantage


class PromptByPrompt(FairGRPOAdvantage):
    """FairGRPO of one prompt a batch; the policy stays as it is over a step, so generating together changes nothing."""

    def weigh_scores(
        self, rewards: Tensor, groups: Tensor, domains: Tensor | None = None, *, scores: Tensor, **options: Any
    ) -> tuple[Tensor, Tensor]:
        each = [x.split(1) for x in (rewards, groups, domains, scores) if x is not None]
        found = [super(PromptByPrompt, self).weigh_scores(r, *ids, scores=s) for r, *ids, s in zip(*each, strict=True)]
        return torch.cat([a for a, _ in found]), torch.cat([w for _, w in found])


def advantages(method: str, num_groups: int, num_domains: int, step_size: float, alone: bool) -> torch.nn.Module:
    """The weights of a method; GRPO is FairGRPO without powers, so that the trainers differ in nothing else."""
    if method == "FairGRPO" and alone:
        return PromptByPrompt(num_groups, num_domains=num_domains)
    if method == "GRPO":
        return FairGRPOAdvantage(num_groups, num_domains=num_domains, size_power=0, reward_power=0)
    if method == "GRPO+DRO":
        return GroupDROAdvantage(num_groups, step_size=step_size)
    return FairGRPOAdvantage(
        num_groups, num_domains=num_domains, discover_groups="kmeans" if method == "FairGRPO_ND" else None
    )


METHODS = ("GRPO", "GRPO+DRO", "FairGRPO", "FairGRPO_ND")


class Task:
    """Training rows with and without groups, test rows, and the model to start from."""

    def __init__(self, args: argparse.Namespace, seed: int) -> None:
        self.args, self.seed, self.chat = args, seed, args.model is not None
        if args.photographs:
            self.groups, self.domains = tuple(fundus.TASKS["standard"].group_names), ("photographs",)
            self.test = fundus.make("standard", counts=[args.test_cases] * 3, seed=0, size=224, split="test")
            self.train = fundus.make("standard", images=args.cases, seed=seed, size=224)
            self.test_rows = diagnosis.photographs(self.test)
            return
        self.groups, self.domains = diagnosis.GROUPS, diagnosis.DOMAINS
        self.test = diagnosis.draw(9 * args.test_cases, 10_000, balanced=True)
        self.train = diagnosis.draw(args.cases, seed)
        self.test_rows = diagnosis.dataset(self.test, chat=self.chat)

    def rows(self, labelled: bool) -> Any:
        """The data set to train on."""
        if not self.args.photographs:
            return diagnosis.dataset(self.train, labelled=labelled, chat=self.chat)
        rows = diagnosis.photographs(self.train)
        return rows if labelled else rows.map(lambda row: {**row, "group": -1})

    def model(self) -> tuple[Any, Any]:
        """A model and its tokenizer or processor: the small one, taught the format, or the name of a real one."""
        if self.chat:
            from transformers import AutoProcessor, AutoTokenizer

            load = AutoProcessor if self.args.photographs else AutoTokenizer
            return self.args.model, load.from_pretrained(self.args.model, padding_side="left")
        words = diagnosis.tokenizer()
        model = diagnosis.small_model(words, self.seed)
        diagnosis.teach_format(model, words, self.train, self.args.format_steps, self.seed)
        return model, words


@torch.no_grad()
def answers(model: Any, processor: Any, rows: Any, max_new_tokens: int, batch: int) -> NDArray[np.int64]:
    """Greedy answers as class indices, -1 where there is none to read."""
    training = model.training
    model.eval()
    found = []
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        if isinstance(part["prompt"][0], str):
            inputs = processor(part["prompt"], return_tensors="pt", padding=True)
        else:
            talks = [_with_image(p, i) for p, i in zip(part["prompt"], part.get("image", [None] * batch), strict=False)]
            inputs = processor.apply_chat_template(
                talks, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", padding=True
            )
        inputs = {k: v for k, v in inputs.to(model.device).items() if k != "token_type_ids" or "pixel_values" in inputs}
        out = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        texts = processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        letters = [diagnosis.answer(text) for text in texts]
        found += [-1 if letter is None else diagnosis.CLASSES.index(letter) for letter in letters]
    model.train(training)
    return np.array(found)


def _with_image(talk: list[dict[str, Any]], image: Any) -> list[dict[str, Any]]:
    if image is None:
        return talk
    text = {"type": "text", "text": talk[0]["content"]}
    return [{"role": "user", "content": [{"type": "image", "image": image}, text]}]


def f1_scores(task: Task, found: NDArray[np.int64]) -> dict[str, Any]:
    """Macro F1 of each domain and group; per group, the mean over domains; gap and worst, the mean over domains."""
    labels = task.test.label
    domains = getattr(task.test, "domain", np.zeros_like(labels))
    cells = cross_groups({"domain": domains, "group": task.test.group})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a model that never gives an answer has no precision for it, which counts as 0
        values = group_metric(
            "f1", labels, found, cells, task="multiclass", labels=sorted(set(labels)), convention="fairgrpo"
        )
    table = np.array(list(values.to_dict().values())).reshape(len(task.domains), len(task.groups))
    nested = {d: {"group": row} for d, row in zip(task.domains, table.tolist(), strict=True)}
    return {
        "f1": float(table.mean()),
        "worst_f1": float(table.min(1).mean()),
        "gap_f1": aggregate_disparity(nested),
        **{f"f1:{g}": float(v) for g, v in enumerate(table.mean(0))},
    }


def train(task: Task, method: str, args: argparse.Namespace, folder: Path, tick: Callable[[], Any]) -> dict[str, Any]:
    """One run: test figures along the way, the training log, and the final answers."""
    from transformers import PrinterCallback, TrainerCallback
    from trl import GRPOConfig

    from fairloss.integrations.trl import FairGRPOTrainer

    model, processor = task.model()
    config = GRPOConfig(
        output_dir=str(folder), max_steps=args.steps, learning_rate=args.lr, lr_scheduler_type=args.schedule, warmup_steps=0,
        per_device_train_batch_size=args.prompts * args.rollouts // args.accumulation, num_generations=args.rollouts,
        gradient_accumulation_steps=args.accumulation, max_completion_length=args.max_tokens, beta=0.0, seed=task.seed,
        logging_steps=1, report_to=[], disable_tqdm=True, use_cpu=args.device == "cpu", bf16=args.amp == "bf16",
        fp16=args.amp == "fp16", save_strategy="steps" if args.save_steps else "no", save_steps=args.save_steps or 500,
        save_total_limit=1, log_level="error", dataloader_pin_memory=False, gradient_checkpointing=task.chat,
    )  # fmt: skip
    curve: list[dict[str, float]] = []

    class Examine(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, config: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            self.look(state, model)

        def on_step_end(self, config: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            tick()
            if state.global_step % args.eval_steps == 0 or state.global_step == args.steps:
                self.look(state, model)

        def look(self, state: Any, model: Any) -> None:
            found = answers(model, processor, task.test_rows, args.max_tokens, args.eval_batch)
            curve.append({"step": state.global_step, **f1_scores(task, found)})

    trainer = FairGRPOTrainer(
        model=model,
        processing_class=processor,
        reward_funcs=diagnosis.reward,
        args=config,
        train_dataset=task.rows(labelled=method != "FairGRPO_ND"),
        callbacks=[Examine()],
        fair=advantages(method, len(task.groups), len(task.domains), args.dro_step, args.alone),
        domain_column="domain",
        group_names=task.groups,
        domain_names=task.domains,
    )
    trainer.remove_callback(PrinterCallback)
    checkpoint = args.resume and any(folder.glob("checkpoint-*"))
    start = time.perf_counter()
    trainer.train(resume_from_checkpoint=bool(checkpoint))
    log = [
        {k: v for k, v in line.items() if k in ("step", "reward") or k.startswith("fair/")}
        for line in trainer.state.log_history
        if "reward" in line
    ]
    found = answers(trainer.model, processor, task.test_rows, args.max_tokens, args.eval_batch)
    return {"curve": curve, "log": log, "answers": found, "seconds": time.perf_counter() - start}


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, intervals.Estimate]]:
    parser = toolkit.argument_parser(__doc__, name="fair_grpo", seeds=3)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="default: all")
    parser.add_argument(
        "--model", help="name or folder of a real model with a chat template, in place of the small one"
    )
    parser.add_argument(
        "--photographs", action="store_true", help="with a vision-language --model: rendered photographs"
    )
    parser.add_argument("--first-seed", type=int, default=0, help="(0)")
    parser.add_argument("--cases", type=int, default=4000, help="training cases (4000)")
    parser.add_argument("--test-cases", type=int, default=200, help="test cases of every domain and group (200)")
    parser.add_argument("--steps", type=int, default=150, help="GRPO steps (150)")
    parser.add_argument("--prompts", type=int, default=32, help="prompts a step (32)")
    parser.add_argument("--rollouts", type=int, default=8, help="completions a prompt (8)")
    parser.add_argument("--accumulation", type=int, default=1, help="gradient accumulation steps (1)")
    parser.add_argument(
        "--alone",
        action="store_true",
        help="FairGRPO sees prompt by prompt, as where a device holds one and accumulates",
    )
    parser.add_argument("--max-tokens", type=int, default=3, help="longest completion (3; with --model use more)")
    parser.add_argument("--lr", type=float, default=1.5e-3, help="learning rate (0.0015; with --model use about 1e-6)")
    parser.add_argument(
        "--schedule", default="linear", help="of the learning rate: linear (to 0), constant, ... (linear)"
    )
    parser.add_argument("--format-steps", type=int, default=150, help="supervised steps on the format (150)")
    parser.add_argument("--dro-step", type=float, default=0.05, help="step size of GroupDRO (0.05)")
    parser.add_argument("--eval-steps", type=int, default=50, help="steps between looks at the test cases (50)")
    parser.add_argument("--eval-batch", type=int, default=900, help="test cases at once (900)")
    parser.add_argument("--save-steps", type=int, default=0, help="steps between checkpoints (0: none)")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoints in --out")
    args = parser.parse_args(argv)
    if args.photographs and args.model is None:
        raise SystemExit("--photographs needs a vision-language --model; the small one reads words alone")
    if args.tiny:
        args.cases, args.test_cases, args.seeds, args.format_steps = 64, 4, min(args.seeds, 2), 10
        args.steps = min(args.steps, 4)
        args.prompts, args.rollouts, args.eval_steps = 4, 4, 2
    toolkit.prepare(args)
    logging.getLogger("trl").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    runs: dict[str, list[dict[str, Any]]] = {method: [] for method in args.methods}
    with toolkit.progress(None, "training", total=len(args.methods) * args.seeds * args.steps) as bar:
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            toolkit.seed_everything(seed)
            task = Task(args, seed)
            for method in args.methods:
                bar.set_description(f"seed {seed}, {method}")
                folder = args.out / "checkpoints" / f"{method}-{seed}"
                runs[method].append(train(task, method, args, folder, bar.update))
    return report(args, task, runs)


def report(
    args: argparse.Namespace, task: Task, runs: dict[str, list[dict[str, Any]]]
) -> dict[str, dict[str, intervals.Estimate]]:
    """Table, sentences, curves and a results file."""
    labels, groups = task.test.label, task.test.group
    bootstrap = intervals.PatientBootstrap(
        np.arange(len(labels)), groups, len(task.groups), resamples=200 if args.tiny else 1000
    )
    results = {}
    for method, seeds in runs.items():
        results[method] = bootstrap.of_values(np.stack([run["answers"] == labels for run in seeds]))
    metrics = ["f1", *(f"f1:{g}" for g in range(len(task.groups))), "worst_f1", "gap_f1"]
    header = ["method", "F1", *(f"F1 {g}" for g in task.groups), "worst F1", "F1 gap", "accuracy", "worst accuracy"]
    rows = []
    for method, seeds in runs.items():
        final = [f1_scores(task, run["answers"]) for run in seeds]
        values = [np.array([f[m] for f in final]) for m in metrics]
        spread = [f"{v.mean():.3f} ± {v.std(ddof=1):.3f}" if len(v) > 1 else f"{v.mean():.3f}" for v in values]
        accuracy = [toolkit.cell(results[method][m]) for m in ("accuracy", "worst_accuracy")]
        rows.append([method, *spread, *accuracy])
    title = f"{len(labels)} test cases, {args.seeds} seeds; F1: mean ± deviation over seeds; accuracy: [95 % over test cases]"
    toolkit.print_table(title, header, rows)
    sentences = []
    if "GRPO" in results:
        for metric in ("gap_accuracy", "worst_accuracy", "accuracy"):
            sentences += intervals.compare(results, metric, baseline="GRPO")
    print("\n".join(sentences))
    picture = curves(args.out / "fair_grpo.png", args, task, runs)
    (args.out / "fair_grpo.md").write_text(
        toolkit.markdown_table(header, rows) + "\n" + "".join(f"- {s}\n" for s in sentences), encoding="utf-8"
    )
    toolkit.save_json(args.out / "fair_grpo.json", {"settings": vars(args), "results": results, "runs": runs})
    print(f"picture: {picture}   table: {args.out / 'fair_grpo.md'}   numbers: {args.out / 'fair_grpo.json'}")
    return results


def curves(path: Path, args: argparse.Namespace, task: Task, runs: dict[str, list[dict[str, Any]]]) -> Path:
    """Training reward, test F1 of the worst group and F1 gap by step; the weight of each group under FairGRPO."""
    fig, axes = plots.figure(12.0, 7.4, columns=2, rows=2)
    (reward, worst), (gap, weight) = axes
    for i, (method, seeds) in enumerate(runs.items()):
        style = {"color": plots.COLOURS[i], "label": method}
        steps = [line["step"] for line in seeds[0]["log"]]
        window = max(1, len(steps) // 20)
        mean = np.mean([[line["reward"] for line in run["log"]][: len(steps)] for run in seeds], axis=0)
        reward.plot(steps[window - 1 :], np.convolve(mean, np.ones(window) / window, "valid"), **style)
        at = [point["step"] for point in seeds[0]["curve"]]
        for ax, key in ((worst, "worst_f1"), (gap, "gap_f1")):
            table = np.array([[point[key] for point in run["curve"]] for run in seeds])
            ax.plot(at, table.mean(0), marker=plots.MARKERS[i], markersize=4, **style)
            ax.fill_between(at, table.min(0), table.max(0), color=plots.COLOURS[i], alpha=0.12, linewidth=0)
    told = "FairGRPO" if "FairGRPO" in runs else next(iter(runs))
    for g, name in enumerate(task.groups):
        keys = [f"fair/weight/{domain}/{name}" for domain in task.domains]
        points: dict[int, list[float]] = {}
        for run in runs[told]:
            for line in run["log"]:
                points.setdefault(line["step"], []).extend(line[k] for k in keys if line.get(k) is not None)
        steps = [s for s, values in sorted(points.items()) if values]
        if not steps:  # a short run that never drew the group
            continue
        means = np.array([np.mean(points[s]) for s in steps])
        window = max(1, len(steps) // 20)
        weight.plot(
            steps[window - 1 :],
            np.convolve(means, np.ones(window) / window, "valid"),
            color=plots.COLOURS[(4, 5, 7, 3)[g % 4]],
            label=name,
        )
    weight.set_ylim(bottom=0)
    titles = ("reward in training", "test: worst group's F1, mean over domains", "test: F1 gap, mean over domains")
    for ax, text in zip((reward, worst, gap, weight), (*titles, f"weight of a prompt by group, {told}"), strict=True):
        ax.set_title(text, loc="left")
        ax.set_xlabel("step")
    reward.legend()
    if weight.get_legend_handles_labels()[0]:
        weight.legend()
    return plots.save(fig, path)


if __name__ == "__main__":
    main()

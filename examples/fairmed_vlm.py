"""FairMed-VLM: concept alignment and instruction tuning on balanced strata, then fairness-aware contrastive LoRA.

The paper is *FairMed-VLM: Toward Equitable Medical Diagnosis with Vision-Language Models* (no code released). Stage 1 aligns
photographs with the names of concepts (one epoch) and tunes the model on instructions (three): L_task = instruction + scoring +
concept. Stage 2 adds lambda (eta1 supcon + eta2 moments) with LoRA. Answers are generated and read back as labels; accuracy,
AUC and demographic parity gap for every attribute, the ablations of the paper's table 4 and the baselines of its table 2.

    python examples/fairmed_vlm.py                        # a small LLaVA, trained in place: nothing is downloaded
    python examples/fairmed_vlm.py --arms Full "No contrastive" --seeds 1
    python examples/fairmed_vlm.py --without moments prompts  # an arm of one's own
    python examples/fairmed_vlm.py --preset paper --model PATH_OR_ID --device cuda --amp bf16 --data-dir HAM10000

--resume takes up a run that was cut short, at the step where it stopped; stage 1 is trained once for all arms that share it.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from common import llava, medvlm_eval, medvlm_report, medvlm_train, toolkit
from common import medvlm_data as data

# Terms and parts that an arm may go without; the first five are those of the paper's table 4.
PARTS = ("prompts", "fairness", "balancing", "contrastive", "moments", "concept", "instruction", "scoring")


class Arm(NamedTuple):
    """A way of training: the parts of the full method that it lacks, and a baseline's own part."""

    lacks: frozenset[str] = frozenset()
    reweight: bool = False
    adversary: bool = False
    printed: bool = False  # the fairness terms to the letter: sums over anchors and cells, eta1 = eta2 = 1
    pooled: bool = False  # z of the fairness terms: the hidden state of the question's last token

    @property
    def fair(self) -> tuple[bool, bool]:
        """Whether the contrastive and the moment term count."""
        return not self.lacks & {"fairness", "contrastive"}, not self.lacks & {"fairness", "moments"}


PLAIN = frozenset({"prompts", "fairness", "balancing"})
ARMS = {
    "Full": Arm(),
    "Full, as printed": Arm(printed=True),
    "Full, pooled z": Arm(pooled=True),
    "No prompts": Arm(frozenset({"prompts"})),
    "No fairness loss": Arm(frozenset({"fairness"})),
    "No balancing": Arm(frozenset({"balancing"})),
    "No contrastive": Arm(frozenset({"contrastive"})),
    "No moments": Arm(frozenset({"moments"})),
    "No concept": Arm(frozenset({"concept"})),
    "Vanilla": Arm(PLAIN),
    "Reweighted": Arm(PLAIN, reweight=True),
    "Adversarial": Arm(PLAIN, adversary=True),
}
AFTER = "Thresholds after"  # Vanilla's scores, thresholds of every stratum: no training of its own

# Paper: section 3.5. Small: what a model of half a million parameters needs instead of 2e-5 and bfloat16.
PRESETS: dict[str, dict[str, Any]] = {
    "small": {"lr": 1e-3, "lr2": 1e-3, "batch": 64, "amp": "none", "size": 64, "stage1": "all"},
    "paper": {"lr": 2e-5, "lr2": 2e-5, "batch": 64, "amp": "bf16", "size": 336, "stage1": "lora"},
}


class Source(NamedTuple):
    """Models without their vision tower, photographs and their features."""

    build: Callable[[], Any]
    processor: llava.Processor
    questions: data.Questions
    cohorts: Callable[[int], tuple[data.Cohort, data.Cohort]]  # training and validation set of a seed
    test: data.Cohort
    encode: Callable[[data.Cohort, int], data.Encoder]
    width: int  # of the language model


def open_source(args: argparse.Namespace) -> Source:
    if args.data_dir is not None:
        train, valid, test = data.real(args.data_dir, args.attributes, args.size, args.limit)
        cohorts = lambda seed: (train, valid)  # noqa: E731
    else:
        counts = np.round(np.array(data.STRATA.shares) * args.images).astype(int).tolist()
        test = data.rendered([args.test_images] * 4, 0, "test")
        cohorts = lambda seed: (  # noqa: E731
            data.rendered(counts, seed, "train"), data.rendered([args.valid_images] * 4, seed, "valid")
        )  # fmt: skip
    questions = data.Questions.of(test)
    if args.model is None:
        processor = llava.small_processor(questions.everything())
        images, epochs = (128, 1) if args.tiny else (args.first_images, args.first_epochs)
        first = llava.trained_small_model(
            args.cache, processor, lambda: data.first_photographs(images), epochs=epochs, tiny=args.tiny, key=images
        )
        tower = llava.detach_tower(first)
        build = lambda: copy.deepcopy(first)  # noqa: E731
    else:
        dtype = torch.float32 if args.amp == "none" else torch.bfloat16
        first, processor = llava.large_model(args.model, dtype)
        tower = llava.detach_tower(first).to(args.device)

        def build() -> Any:
            model = llava.large_model(args.model, dtype)[0]
            llava.detach_tower(model)
            model.model.multi_modal_projector.float()
            return model

    layer = first.config.vision_feature_layer

    def encode(cohort: data.Cohort, views: int) -> data.Encoder:
        pixels = [cohort.images, *(data.augmented(cohort.images, k) for k in range(1, views))]
        seen = [llava.features(tower, processor.pixels(part), layer, device=args.device) for part in pixels]
        return data.Encoder(cohort, torch.stack(seen), questions, processor, args.device)

    return Source(build, processor, questions, cohorts, test, encode, first.config.text_config.hidden_size)


# Arguments that change nothing that is trained, those that count through an arm's weights, and those of stage 2 alone.
RUN_ONLY = (
    "out",
    "cache",
    "resume",
    "arms",
    "without",
    "seeds",
    "first_seed",
    "save_every",
    "test_images",
    "valid_images",
)
WEIGHTS = ("alpha", "beta", "gamma", "fair_weight", "eta1", "eta2", "adversary_weight", "critic_lr")
STAGE_TWO = ("cov_weight", "margin", "epochs2", "lr2", "embedding")


class Run(NamedTuple):
    """All that one arm on one seed needs; ``weights`` and ``stages`` say what it trains."""

    source: Source
    encoder: data.Encoder
    arm: Arm
    seed: int
    args: argparse.Namespace

    def weights(self, stage: int) -> dict[str, float]:
        """Weight of every term: 1 for the task's (alpha, beta, gamma), lambda times eta for the fairness terms of stage 2."""
        args, lacks = self.args, self.arm.lacks
        task = {"instruction": args.alpha, "scoring": args.beta, "concept": args.gamma}
        weights = {name: 0.0 if name in lacks else value for name, value in task.items()}
        if stage == 0:
            return {"concept": weights["concept"]}
        if stage == 2:
            contrastive, moments = self.arm.fair
            eta1, eta2 = (1.0, 1.0) if self.arm.printed else (args.eta1, args.eta2)
            weights["contrastive"] = args.fair_weight * eta1 if contrastive else 0.0
            weights["moments"] = args.fair_weight * eta2 if moments else 0.0
            weights["adversary"] = args.adversary_weight if self.arm.adversary else 0.0
        return weights

    def stage(self, number: int) -> medvlm_train.Stage:
        """0 concept alignment, 1 instruction tuning, 2 with the fairness terms."""
        args, lacks, weights = self.args, self.arm.lacks, self.weights(number)
        name = ("alignment", "instructions", "fairness")[number]
        ids = [self.encoder.ids(concept) for concept in self.source.questions.concepts]
        objective = medvlm_train.Objective(
            weights, self.encoder.cohort, ids, self.source.width, temperature=args.temperature, margin=args.margin,
            cov_weight=args.cov_weight, embedding="pooled" if self.arm.pooled else args.embedding,
            reweight=self.arm.reweight, sums=self.arm.printed,
        ).to(args.device)  # fmt: skip
        batches = medvlm_train.plan(
            self.encoder.cohort, epochs=(args.align_epochs, args.epochs, args.epochs2)[number], batch=args.batch,
            seed=self.seed, stage=number, balanced="balancing" not in lacks,
            prompts=0.0 if "prompts" in lacks else args.prompt_share, views=self.encoder.views.shape[0],
        )  # fmt: skip
        trains = ("projector", args.stage1, "lora")[number]
        # A checkpoint's name says all that the stage depends on, the stages before it included.
        ignored = RUN_ONLY + WEIGHTS + (() if number == 2 else STAGE_TWO)
        settings = {name: value for name, value in vars(args).items() if name not in ignored}
        before = [self.weights(k) for k in range(number)]
        parts = [settings, self.seed, before, weights, "balancing" in lacks, "prompts" in lacks]
        parts += [self.arm.reweight and number > 0, args.critic_lr if weights.get("adversary") else None]
        parts += [name for name in ("printed", "pooled") if getattr(self.arm, name) and number == 2]
        key = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:12]
        lr = args.lr2 if number == 2 else args.lr
        return medvlm_train.Stage(
            name, objective, batches, lr, trains, args.out / "checkpoints" / f"{name}-{key}.pt", args.critic_lr
        )


def train(
    run: Run, tick: Callable[[int], Any], stop_after: tuple[int, int] | None = None
) -> tuple[Any, list[dict[str, Any]]]:
    """All stages of one arm; the model and the log. ``stop_after`` (stage, step), for tests: None in place of the model."""
    args = run.args
    toolkit.seed_everything(run.seed)
    model = medvlm_train.Diagnoser(run.source.build(), len(run.source.questions.names)).to(args.device)
    log: list[dict[str, Any]] = []
    for number in (0, 1, 2):
        if number == (1 if args.stage1 == "lora" else 2):
            medvlm_train.add_lora(model, run.seed, args.rank)
            model.to(args.device)
        stage = run.stage(number)
        stop = stop_after[1] if stop_after is not None and stop_after[0] == number else None
        log += medvlm_train.run_stage(
            stage, model, run.encoder, lambda: toolkit.autocast(args), seed=1000 * run.seed + number,
            save_every=args.save_every, stop_after=stop,
        )  # fmt: skip
        if stop is not None:
            return None, log
        tick(1)
    return model, log


def one_seed(source: Source, arms: dict[str, Arm], seed: int, args: argparse.Namespace, bar: Any) -> dict[str, Any]:
    """Every arm on one seed: answers for validation and test set, thresholds from the former."""
    train_set, valid_set = source.cohorts(seed)
    encoder, valid = source.encode(train_set, args.views), source.encode(valid_set, 1)
    test = source.encode(source.test, 1)
    found: dict[str, Any] = {}
    for name, arm in arms.items():
        bar.set_description(f"{name}, seed {seed}")
        start = time.process_time()
        slug = f"{name.lower().translate(str.maketrans(' ', '_', '+,'))}-seed{seed}"
        run = Run(source, encoder, arm, seed, args)
        kept = run.stage(2).checkpoint
        kept = kept.with_name(f"answers-{args.valid_images}-{args.test_images}-{kept.name}")
        if kept.exists():  # a run that is taken up again
            said, log = torch.load(kept, weights_only=False)
            bar.update(3)
        else:
            model, log = train(run, bar.update)
            said = [
                medvlm_eval.answers(model, part, lambda: toolkit.autocast(args), generate=part is test)
                for part in (valid, test)
            ]
            torch.save((said, log), kept)
        medvlm_train.write_log(args.out / "terms" / f"{slug}.csv", log)
        thresholds = medvlm_eval.tune_thresholds(valid_set.findings, said[0].findings)
        found[name] = {
            "valid": said[0], "test": said[1], "thresholds": thresholds, "log": log, "seconds": time.process_time() - start,
            "findings": (said[1].findings >= thresholds).astype(np.int64),
        }  # fmt: skip
    if "Vanilla" in found:
        plain = found["Vanilla"]
        after = medvlm_eval.equalized_odds_thresholds(
            valid_set, plain["valid"].probability, source.test, plain["test"].probability, seed
        )
        found[AFTER] = {**plain, "test": plain["test"]._replace(closed=after), "findings": None}
    return found


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = toolkit.argument_parser(
        __doc__, name="fairmed_vlm", seeds=3, data_dir="HAM10000 or FairVLMed; needs --model"
    )
    add = parser.add_argument
    add("--arms", nargs="+", choices=list(ARMS), default=list(ARMS), metavar="ARM", help=f"of {', '.join(ARMS)} (all)")
    add("--without", nargs="+", choices=PARTS, metavar="PART", help=f"one arm without these: {', '.join(PARTS)}")
    add("--model", help="path or id of a LLaVA in transformers' format; default: a small one, trained in place")
    add("--preset", choices=list(PRESETS), default="small", help="settings that are not given (small)")
    add("--attributes", nargs="+", default=["sex", "age"], help="with --data-dir: whose groups are compared (sex age)")
    add("--limit", type=int, help="with --data-dir: read about this many images")
    add("--resume", action="store_true", help="go on from the checkpoints in the output folder; default: start anew")
    add("--save-every", type=int, default=50, help="steps between checkpoints within a stage (50)")
    add("--cache", type=Path, default=Path(".cache") / "fairmed_vlm", help="where the small model is kept")
    for name, value, text in (
        ("first-seed", 0, "seeds count from here"),
        ("images", 1000, "training photographs"), ("valid-images", 100, "validation photographs of every stratum"),
        ("test-images", 300, "test photographs of every stratum"), ("views", 3, "1 + augmented copies of a photograph"),
        ("first-images", 4000, "photographs of the small model's first training"),
        ("first-epochs", 6, "of the small model's first training"),
        ("align-epochs", 1, "of concept alignment"), ("epochs", 3, "of instruction tuning"), ("epochs2", 3, "of stage 2"),
        ("rank", 32, "of LoRA; its alpha is twice that"),
    ):  # fmt: skip
        add(f"--{name}", type=int, default=value, help=f"{text} ({value})")
    for name, value, text in (
        ("fair-weight", 0.1, "lambda"), ("eta1", 10.0, "of the contrastive term"), ("eta2", 100.0, "of the moment term"),
        ("cov-weight", 1.0, "lambda_Sigma"), ("temperature", 0.07, "of contrastive and concept term"),
        ("margin", 0.3, "cosine from which negatives count"), ("alpha", 1.0, "of the instruction term"),
        ("beta", 1.0, "of the scoring term"), ("gamma", 1.0, "of the concept term"),
        ("prompt-share", 0.5, "share of the training questions with demographic prefix"),
        ("adversary-weight", 5.0, "of the adversarial baseline"), ("critic-lr", 1e-2, "of its adversary"),
    ):  # fmt: skip
        add(f"--{name}", type=float, default=value, help=f"{text} ({value:g})")
    add("--embedding", choices=("projected", "pooled"), default="projected", help="z of the fairness terms (projected)")
    for name in ("lr", "lr2", "batch", "size", "stage1"):
        kind = {"batch": int, "size": int, "stage1": str}.get(name, float)
        add(f"--{name}", type=kind, choices=("all", "lora") if name == "stage1" else None, help="default: the preset's")
    parser.set_defaults(amp=None)
    args = parser.parse_args(argv)
    for name, value in PRESETS[args.preset].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.data_dir is not None and args.model is None:
        raise SystemExit("--data-dir needs --model: the small model has learnt to read rendered photographs alone")
    if args.tiny:
        args.images, args.valid_images, args.test_images, args.views, args.seeds = 64, 12, 16, 2, 1
        args.epochs, args.epochs2, args.batch, args.rank = 1, 1, min(args.batch, 32), min(args.rank, 4)
    return args


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    args = parse(argv)
    toolkit.prepare(args)
    if not args.resume:
        shutil.rmtree(args.out / "checkpoints", ignore_errors=True)
    source = open_source(args)
    arms = {name: ARMS[name] for name in args.arms}
    if args.without:
        arms = {"No " + " + ".join(args.without): Arm(frozenset(args.without))}
    runs: dict[str, list[Any]] = {}
    with toolkit.progress(None, "training", total=3 * args.seeds * len(arms)) as bar:
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            for name, found in one_seed(source, arms, seed, args, bar).items():
                runs.setdefault(name, []).append(found)
    return medvlm_report.report(args, source.test, runs)


if __name__ == "__main__":
    main()

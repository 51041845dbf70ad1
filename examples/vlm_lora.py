"""A vision-language model, fine-tuned with LoRA to answer whether a photograph shows glaucoma, with and without fairness.

The paper is Gu et al., "Fairness-Aware Fine-Tuning of Vision-Language Models for Medical Glaucoma Diagnosis": Qwen2.5-VL with a
frozen vision tower, LoRA on the query, key, value and output projections (r 32, alpha 64, dropout 0.05), and a head on the last
token. Vanilla, the soft accuracy gap as a penalty at three strengths (FR), inverse-frequency weights (GR), and both (Hybrid),
all through transformers' Trainer; 90.3 % of the training photographs are of one group, 4.3 % and 5.4 % of the two others.

    python examples/vlm_lora.py                 # a small Qwen2.5-VL built and first trained in place: nothing is downloaded
    python examples/vlm_lora.py --preset paper --model PATH_OR_ID --device cuda --data-dir FairVLMed
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from common import fundus, intervals, loaders, plots, toolkit, vlm
from fairloss import FairCrossEntropyLoss, GroupMemory, pool_last_token


class Method(NamedTuple):
    """The criterion's two arguments: lambda, and whether groups weigh by their inverse frequency."""

    gap_weight: float = 0.0
    weighted: bool = False

    def build(self, counts: Sequence[int]) -> FairCrossEntropyLoss:
        # A micro-batch of 2 or 16 rarely holds every group: the memory ranks them on 256 samples each.
        memory = GroupMemory(len(counts), capacity=256, shares=counts) if self.gap_weight else None
        weights = counts if self.weighted else None
        return FairCrossEntropyLoss(
            len(counts), gap_weight=self.gap_weight, group_counts=weights, max_weight=10.0, memory=memory
        )


METHODS = {
    "Vanilla": Method(),
    "FR 0.1": Method(0.1),
    "FR 0.5": Method(0.5),
    "FR 1": Method(1.0),
    "GR": Method(0.0, True),
    "Hybrid": Method(0.5, True),
}

# Paper: sections 4.1 and 4.2. Small: for a model of two million parameters, which needs a larger rate than one of billions.
PRESETS: dict[str, dict[str, Any]] = {
    "small": {"lr": 2e-3, "micro_batch": 16, "accumulation": 2, "warmup": 20, "epochs": 3, "amp": "none", "size": 64},
    "paper": {"lr": 1e-5, "micro_batch": 2, "accumulation": 4, "warmup": 100, "epochs": 3, "amp": "bf16", "size": 224},
}


class LastTokenClassifier(nn.Module):
    """A causal model's last token, which has seen the photograph and the whole question, and a linear head."""

    base_model_prefix = "backbone"  # transformers asks every model that PEFT wraps

    def __init__(self, backbone: Any, classes: int = 2) -> None:
        super().__init__()
        self.backbone, self.config = backbone, backbone.config
        self.score = nn.Linear(backbone.config.text_config.hidden_size, classes)

    def forward(self, attention_mask: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
        hidden = self.backbone(attention_mask=attention_mask, **inputs).last_hidden_state
        return {
            "logits": self.score(pool_last_token(hidden, attention_mask=attention_mask).to(self.score.weight.dtype))
        }


def with_lora(backbone: Any, seed: int) -> Any:
    """LoRA on the language model's attention, all of the head; the rest, the vision tower included, is frozen."""
    from peft import LoraConfig, get_peft_model

    toolkit.seed_everything(seed)
    config = LoraConfig(
        r=32,
        lora_alpha=64,
        lora_dropout=0.05,
        target_modules=r".*language_model.*\.(q|k|v|o)_proj",
        modules_to_save=["score"],
    )
    return get_peft_model(LastTokenClassifier(backbone), config)


class Questions(Dataset[dict[str, Any]]):
    """One photograph, the question with what is known of the patient, label and group."""

    def __init__(self, data: Any, small: bool) -> None:
        self.label, self.group = data.label, data.group
        if small:
            self.images = vlm.disc_region(data.images, data.eye)
            self.texts = [vlm.prompt(a, s, "glaucoma") for a, s in zip(data.age, data.sex, strict=True)]
        else:
            self.images = data.images
            question = f"{vlm.START}{vlm.IMAGE}{vlm.END}Based on the fundus image, does the patient have glaucoma?"
            self.texts = [f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"] * len(data)

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {
            "image": self.images[i],
            "text": self.texts[i],
            "labels": int(self.label[i]),
            "groups": int(self.group[i]),
        }


def collator(reader: vlm.Reader) -> Callable[[list[dict[str, Any]]], dict[str, Tensor]]:
    def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        ids = {name: torch.tensor([row[name] for row in rows]) for name in ("labels", "groups")}
        return {**reader([row["image"] for row in rows], [row["text"] for row in rows]), **ids}

    return collate


def make_trainer(
    model: Any, method: str, train: Any, reader: vlm.Reader, args: argparse.Namespace, seed: int, *, small: bool
) -> Any:
    """All that a Trainer needs for groups: ``FairTrainer``, the criterion, and a column of ids."""
    from transformers import PrinterCallback, TrainingArguments

    from fairloss.integrations.transformers import FairTrainer

    options = TrainingArguments(
        str(args.out / "trainer"), per_device_train_batch_size=args.micro_batch, per_device_eval_batch_size=64,
        gradient_accumulation_steps=args.accumulation, num_train_epochs=args.epochs, learning_rate=args.lr,
        warmup_steps=args.warmup, weight_decay=0.01, bf16=args.amp == "bf16", fp16=args.amp == "fp16", seed=seed,
        use_cpu=args.device == "cpu", remove_unused_columns=False, save_strategy="no", logging_strategy="no",
        report_to=[], disable_tqdm=True, dataloader_pin_memory=args.device != "cpu",
    )  # fmt: skip
    trainer = FairTrainer(
        model=model,
        args=options,
        train_dataset=Questions(train, small),
        data_collator=collator(reader),
        fair_loss=METHODS[method].build(train.group_counts),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


class Source(NamedTuple):
    """Where backbones and photographs come from."""

    backbone: Callable[[], Any]
    reader: vlm.Reader
    train: Callable[[int], Any]
    test: Any
    small: bool
    shares: Sequence[float] | None


def open_source(args: argparse.Namespace) -> Source:
    if args.model is None:
        settings = (
            {"images": 96, "epochs": 1, "tiny": True} if args.tiny else {"images": args.first_images, "epochs": 4}
        )
        first = vlm.trained_small_model(args.cache, size=args.size, **settings).state_dict()

        def backbone() -> Any:
            from transformers import Qwen2_5_VLModel

            model = Qwen2_5_VLModel(vlm.small_config(args.tiny))
            model.load_state_dict(first)
            return model

        reader = vlm.small_reader()
    else:
        backbone, reader = large_model(args)
    if args.data_dir is not None:
        train, _, test = loaders.load(args.data_dir, attribute=args.attribute, size=args.size, limit=args.limit)
        return Source(backbone, reader, lambda seed: train, test, args.model is None, None)
    task = fundus.TASKS["standard"]
    test = fundus.make(task, counts=[args.test_images] * 3, seed=0, size=args.size, split="test")
    return Source(
        backbone, reader, lambda seed: fundus.make(task, images=args.images, seed=seed, size=args.size), test,
        args.model is None, task.shares,
    )  # fmt: skip


def large_model(args: argparse.Namespace) -> tuple[Callable[[], Any], vlm.Reader]:
    """A published Qwen2.5-VL: weights in bfloat16 (LoRA and head stay in float32), its own tokenizer and image processor."""
    from transformers import AutoTokenizer, Qwen2_5_VLModel
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    tokenizer = AutoTokenizer.from_pretrained(args.model, padding_side="left")
    reader = vlm.Reader(Qwen2VLImageProcessorPil.from_pretrained(args.model), tokenizer)
    dtype = torch.bfloat16 if args.amp == "bf16" else torch.float32
    return lambda: Qwen2_5_VLModel.from_pretrained(args.model, dtype=dtype), reader


def run(source: Source, method: str, seed: int, args: argparse.Namespace) -> np.ndarray:
    """Train one method on one seed; the probability of glaucoma for every test photograph."""
    trainer = make_trainer(
        with_lora(source.backbone(), seed), method, source.train(seed), source.reader, args, seed, small=source.small
    )
    trainer.train()
    logits = trainer.predict(Questions(source.test, source.small)).predictions
    return torch.from_numpy(np.asarray(logits)).float().softmax(1)[:, 1].numpy()


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, intervals.Estimate]]:
    parser = toolkit.argument_parser(__doc__, name="vlm_lora", seeds=3, data_dir="HAM10000 or FairVLMed, as downloaded")
    parser.add_argument("--model", help="path or id of a Qwen2.5-VL; default: a small one, trained in place")
    parser.add_argument("--preset", choices=list(PRESETS), default="small", help="settings that are not given (small)")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), help="default: all")
    parser.add_argument("--attribute", help="with --data-dir: the attribute whose groups are compared")
    parser.add_argument("--limit", type=int, help="with --data-dir: read about this many images")
    parser.add_argument("--images", type=int, default=1500, help="training photographs (1500)")
    parser.add_argument("--test-images", type=int, default=500, help="test photographs of every group (500)")
    parser.add_argument(
        "--first-images", type=int, default=4000, help="photographs of the small model's first training (4000)"
    )
    parser.add_argument("--cache", type=Path, default=Path(".cache") / "vlm_lora", help="where the small model is kept")
    for name in ("lr", "micro_batch", "accumulation", "warmup", "epochs", "size"):
        kind = float if name == "lr" else int
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help="default: the preset's")
    parser.add_argument(
        "--floor",
        type=float,
        help="accuracy that Vanilla must reach on the largest group (0.85 on rendered photographs)",
    )
    parser.set_defaults(amp=None)
    args = parser.parse_args(argv)
    for name, value in PRESETS[args.preset].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.tiny:
        args.images, args.test_images, args.size, args.epochs, args.seeds = 120, 20, 64, 1, min(args.seeds, 2)
    if args.data_dir is not None and args.model is None:
        raise SystemExit("--data-dir needs --model: the small model has learnt to read rendered photographs alone")
    if args.floor is None:
        args.floor = 0.0 if args.tiny or args.data_dir else 0.85
    toolkit.prepare(args)
    source = open_source(args)
    bootstrap = intervals.PatientBootstrap(
        source.test.patient,
        source.test.group,
        source.test.num_groups,
        shares=source.shares,
        resamples=200 if args.tiny else 1000,
    )
    # Vanilla first, on every seed: where it has not learnt the task, a comparison would compare noise.
    methods = ["Vanilla", *(m for m in args.methods if m != "Vanilla")]
    results, seconds = {}, {}
    with toolkit.progress(None, "training", total=len(methods) * args.seeds) as bar:
        for method in methods:
            start, scores = time.perf_counter(), []
            for seed in range(args.seeds):
                bar.set_description(f"{method}, seed {seed}")
                scores.append(run(source, method, seed, args))
                bar.update()
            seconds[method] = (time.perf_counter() - start) / args.seeds
            results[method] = bootstrap.evaluate(source.test.label, np.stack(scores))
            if method == "Vanilla":
                check_floor(results[method], source, args)
    report(args, results, source.test, seconds)
    return results


def check_floor(vanilla: dict[str, intervals.Estimate], source: Source, args: argparse.Namespace) -> None:
    largest = int(np.argmax(source.train(0).group_counts))
    reached = vanilla[f"accuracy:{largest}"].value
    if reached < args.floor:
        raise SystemExit(
            f"Vanilla reaches {reached:.3f} on the largest group ({source.test.group_names[largest]}), less than --floor "
            f"{args.floor}: the methods are not compared. Train longer (--epochs), on more (--images), or with another --lr"
        )


def report(
    args: argparse.Namespace, results: dict[str, dict[str, intervals.Estimate]], data: Any, seconds: dict[str, float]
) -> None:
    """Table, sentences, picture and a results file."""
    names = data.group_names
    metrics = ["accuracy", *(f"accuracy:{g}" for g in range(len(names))), "gap_accuracy"]
    header = ["method", "accuracy", *names, "MaxAccGap", "gap's seed std"]
    rows = [
        [*row, f"{results[str(row[0])]['gap_accuracy'].seed_std:.3f}"] for row in toolkit.result_rows(results, metrics)
    ]
    source = args.data_dir or "rendered task 'standard'"
    title = f"{args.model or 'small Qwen2.5-VL'}, {source}, {len(data)} test photographs, {args.seeds} seeds; [95 % interval]"
    toolkit.print_table(title, header, rows)
    sentences = [
        s
        for metric in ("gap_accuracy", "worst_accuracy", "accuracy")
        for s in intervals.compare(results, metric, baseline="Vanilla")
    ]
    print("\n".join(sentences))
    picture = plots.plot_comparison(args.out / "vlm_lora.png", results, names)
    (args.out / "vlm_lora.md").write_text(
        toolkit.markdown_table(header, rows) + "\n" + "".join(f"- {s}\n" for s in sentences), encoding="utf-8"
    )
    toolkit.save_json(
        args.out / "vlm_lora.json", {"settings": vars(args), "seconds_a_run": seconds, "results": results}
    )
    print(f"picture: {picture}   table: {args.out / 'vlm_lora.md'}   numbers: {args.out / 'vlm_lora.json'}")


if __name__ == "__main__":
    main()

"""Tiny random models, data and arguments for the tests of the Trainer's mixin."""

import numpy as np
import torch

from fairloss import FairCrossEntropyLoss, GroupMemory

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


def lora(seed=0):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(
        r=2, lora_alpha=4, lora_dropout=0.05, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
        modules_to_save=["score"], task_type="SEQ_CLS",
    )  # fmt: skip
    return get_peft_model(backbone().float(), config)


def fair():
    return FairCrossEntropyLoss(3, gap_weight=0.5, group_counts=COUNTS, memory=GroupMemory(3, capacity=8))

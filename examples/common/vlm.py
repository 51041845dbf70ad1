"""A Qwen2.5-VL small enough for two cores, built from its configuration, with tokenizer and image processor built in place.

Nothing is downloaded. A random model knows nothing that LoRA could adapt, so the small one is first trained for a minute or
two: on rendered photographs of all groups in equal numbers, to name the cup-to-disc ratio in two digits and to outline cup and
rim. It never sees a diagnosis: that is what LoRA learns, from photographs that are 90 % of one group.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from . import fundus, toolkit

IMAGE, VIDEO, START, END = "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"
WORDS = (
    "<|endoftext|>",
    IMAGE,
    VIDEO,
    START,
    END,
    *"0123456789",
    *["a", "year-old", "woman", "man", ".", "cup-to-disc", "ratio", "glaucoma", "?"],
)
PATCH = 8


def prompt(age: int, sex: int, question: str) -> str:
    """The photograph, who it is of, and the question, as the small tokenizer reads them."""
    return f"{START} {IMAGE} {END} a {' '.join(str(age))} year-old {('woman', 'man')[sex]} . {question} ?"


def disc_region(images: np.ndarray, eye: np.ndarray) -> np.ndarray:
    """The half of the rendered photograph around the disc, left eyes mirrored: (N, S, S, ...) -> (N, S/2, S/2, ...)."""
    size = images.shape[1]
    turned = images.copy()
    turned[eye == 1] = turned[eye == 1][:, :, ::-1]
    top, left = size // 4, round(size * 0.41)
    return turned[:, top : top + size // 2, left : left + size // 2]


class Reader(NamedTuple):
    """Image processor and tokenizer of a Qwen2.5-VL: (photographs, prompts) to the model's inputs."""

    images: Any
    tokenizer: Any

    def __call__(self, photographs: Sequence[np.ndarray], texts: Sequence[str]) -> dict[str, Tensor]:
        seen = self.images(images=list(photographs), return_tensors="pt", input_data_format="channels_last")
        unit = self.images.merge_size**2
        full = [
            text.replace(
                IMAGE,
                " ".join([IMAGE] * (int(grid.prod()) // unit)) if self.small else IMAGE * (int(grid.prod()) // unit),
            )
            for text, grid in zip(texts, seen["image_grid_thw"], strict=True)
        ]
        words = self.tokenizer(full, padding=True, return_tensors="pt", return_token_type_ids=False)
        kinds = (words["input_ids"] == self.tokenizer.convert_tokens_to_ids(IMAGE)).long()
        return {**words, "mm_token_type_ids": kinds, **seen}

    @property
    def small(self) -> bool:
        """Whether this is the tokenizer built here, which splits at spaces."""
        return len(self.tokenizer) == len(WORDS)


def small_reader() -> Reader:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    table = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token=WORDS[0]))
    table.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=table, pad_token=WORDS[0], eos_token=WORDS[0], padding_side="left",
        additional_special_tokens=list(WORDS[1:5]),
    )  # fmt: skip
    images = Qwen2VLImageProcessorPil(
        patch_size=PATCH,
        merge_size=2,
        temporal_patch_size=1,
        do_resize=False,
        image_mean=[0.5] * 3,
        image_std=[0.25] * 3,
    )
    return Reader(images, tokenizer)


def small_config(tiny: bool = False) -> Any:
    """About two million parameters; ``tiny``: a few thousand."""
    from transformers import Qwen2_5_VLConfig

    width, layers, see, depth = (32, 1, 32, 1) if tiny else (160, 5, 128, 4)
    heads = max(1, width // 32)
    text = {
        "vocab_size": len(WORDS), "hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": heads, "max_position_embeddings": 1024,
        "rope_parameters": {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 1e4},
        "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
    }  # fmt: skip
    vision = {
        "depth": depth, "hidden_size": see, "intermediate_size": 2 * see, "num_heads": see // 32, "patch_size": PATCH,
        "temporal_patch_size": 1, "spatial_merge_size": 2, "window_size": 1024, "out_hidden_size": width,
        "fullatt_block_indexes": list(range(depth)),
    }  # fmt: skip
    ids = {name: WORDS.index(word) for name, word in (
        ("image_token_id", IMAGE), ("video_token_id", VIDEO), ("vision_start_token_id", START), ("vision_end_token_id", END),
    )}  # fmt: skip
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids)


def trained_small_model(
    folder: Path,
    *,
    images: int,
    epochs: int,
    size: int,
    lr: float = 1.5e-3,
    batch: int = 32,
    seed: int = 7,
    tiny: bool = False,
) -> Any:
    """The small model's backbone, trained as the module says; kept in ``folder`` under a name made of these settings."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    settings = {"images": images, "epochs": epochs, "size": size, "lr": lr, "batch": batch, "seed": seed, "tiny": tiny}
    config = small_config(tiny)
    name = hashlib.sha256(json.dumps([settings, config.to_dict()], sort_keys=True, default=str).encode()).hexdigest()[
        :12
    ]
    path = folder / f"qwen2_5_vl-{name}"
    if (path / "config.json").exists():
        return Qwen2_5_VLForConditionalGeneration.from_pretrained(path).model
    toolkit.seed_everything(seed)
    model = Qwen2_5_VLForConditionalGeneration(config)
    data = fundus.make("standard", images=images, shares=[1, 1, 1], seed=seed, size=size)
    with toolkit.progress(None, "training the small model", total=epochs * (len(data) // batch)) as bar:
        error = _train(model, data, epochs, batch, lr, bar.update)
    print(
        f"small model: {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters; off by {error:.3f} in the ratio"
    )
    path.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(path)
    return model.model


def _train(model: Any, data: fundus.FundusSet, epochs: int, batch: int, lr: float, tick: Callable[[], Any]) -> float:
    """Next-token loss on the ratio's two digits, and every pixel's class from its patch; the mean error of the last batches."""
    reader = small_reader()
    photographs, masks = disc_region(data.images, data.eye), disc_region(data.masks, data.eye)
    texts = [prompt(a, s, "cup-to-disc ratio") for a, s in zip(data.age, data.sex, strict=True)]
    digits = np.clip((data.vcdr * 100).astype(int), 0, 99)
    outline = nn.Linear(model.config.vision_config.hidden_size, 3 * PATCH * PATCH)
    parameters = [*model.parameters(), *outline.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.05)
    steps = epochs * (len(data) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.15)
    zero = reader.tokenizer.convert_tokens_to_ids("0")
    errors = []
    model.train()
    for _ in range(epochs):
        for rows in (
            np.random.default_rng(len(errors)).permutation(len(data))[: len(data) // batch * batch].reshape(-1, batch)
        ):
            inputs = reader(photographs[rows], [f"{texts[i]} {' '.join(f'{digits[i]:02d}')}" for i in rows])
            labels = inputs["input_ids"].clone()
            labels[:, :-2] = -100
            seen: list[Tensor] = []
            hook = model.model.visual.register_forward_hook(lambda m, i, o, seen=seen: seen.append(o.last_hidden_state))
            out = model(**inputs, labels=labels)
            hook.remove()
            pixels = outline(seen[0]).reshape(-1, 3, PATCH * PATCH)
            loss = out.loss + nn.functional.cross_entropy(pixels, _patches(masks[rows], reader))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            tens = out.logits[:, -3, zero : zero + 10].softmax(1) @ torch.arange(0.05, 1, 0.1)
            errors.append((tens.detach() - torch.from_numpy(data.vcdr[rows])).abs().mean().item())
            tick()
    model.eval()
    return float(np.mean(errors[-20:]))


def _patches(masks: np.ndarray, reader: Reader) -> Tensor:
    """(patches, PATCH * PATCH) classes in the order of the processor's patches; windows as large as the image keep it."""
    as_images = np.repeat(masks[..., None], 3, -1)
    values = reader.images(
        images=list(as_images),
        return_tensors="pt",
        input_data_format="channels_last",
        do_rescale=False,
        do_normalize=False,
    )["pixel_values"]
    return values[:, : PATCH * PATCH].round().long()

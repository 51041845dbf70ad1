"""A LLaVA of transformers' classes, small enough for one core: CLIP's vision tower, projector, Mistral, tokenizer of words.

Nothing is downloaded. A random model has nothing to align, so the small one first learns from image-text pairs: rendered
photographs of all groups in equal numbers with a caption of the cup-to-disc ratio and the findings beside the disc, and the
outline of cup and rim from the patches. It never sees a diagnosis. Afterwards the vision tower is frozen, as in LLaVA-Med, so
that its features are computed once for every photograph and the language model is all that training has to run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fairloss import format_instruction

from . import toolkit

IMAGE, PATCH, SIDE = "<image>", 8, 32
SPECIAL = ("<pad>", "<eos>", IMAGE, "<unk>")


class Processor(NamedTuple):
    """Tokenizer and image processor of a LLaVA, and how many tokens stand for one image."""

    tokenizer: Any
    images: Any
    image_tokens: int

    def pixels(self, photographs: np.ndarray) -> Tensor:
        """(N, H, W, 3) bytes to the vision tower's input."""
        seen = self.images(images=list(photographs), return_tensors="pt", input_data_format="channels_last")
        return seen["pixel_values"]

    def ids(self, text: str) -> list[int]:
        """Token ids of a text; its image placeholder takes as many places as the image has features."""
        text = text.replace(IMAGE, f"{IMAGE} " * self.image_tokens)
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def texts(self, ids: Tensor) -> list[str]:
        return self.tokenizer.batch_decode(ids, skip_special_tokens=True)


def small_processor(texts: Iterable[str]) -> Processor:
    """A tokenizer that knows the words and marks of ``texts``, digits one by one, and CLIP's image processor."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    split = pre_tokenizers.Sequence([
        pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation(), pre_tokenizers.Digits(individual_digits=True)
    ])  # fmt: skip
    words = {w for text in texts for w, _ in split.pre_tokenize_str(text.replace(IMAGE, " ").lower())}
    table = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*SPECIAL, *sorted(words)])}, unk_token="<unk>"))
    table.normalizer, table.pre_tokenizer = normalizers.Lowercase(), split
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=table,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        additional_special_tokens=[IMAGE],
    )
    images = CLIPImageProcessorPil(
        do_resize=False, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.25] * 3, do_convert_rgb=False
    )
    return Processor(tokenizer, images, (SIDE // PATCH) ** 2)


def small_config(vocabulary: int, tiny: bool = False) -> Any:
    """Six hundred thousand parameters; ``tiny``: some fifty thousand."""
    from transformers import CLIPVisionConfig, LlavaConfig, MistralConfig

    width, layers = (32, 1) if tiny else (96, 3)
    vision = CLIPVisionConfig(
        hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers, num_attention_heads=width // 32,
        image_size=SIDE, patch_size=PATCH,
    )  # fmt: skip
    text = MistralConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers,
        num_attention_heads=width // 32, num_key_value_heads=width // 32, head_dim=32, max_position_embeddings=256,
        sliding_window=None, pad_token_id=0, bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    return LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=SPECIAL.index(IMAGE), vision_feature_layer=-1,
        image_seq_length=(SIDE // PATCH) ** 2, pad_token_id=0, eos_token_id=1, bos_token_id=1,
    )  # fmt: skip


class CachedTower(nn.Module):
    """Stands in for a frozen vision tower: what comes in as pixels are its features already."""

    def __init__(self, layer: int) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, pixel_values: Tensor, **_: Any) -> Any:
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        return BaseModelOutputWithPooling(last_hidden_state=pixel_values, hidden_states={self.layer: pixel_values})


@torch.no_grad()
def features(tower: nn.Module, pixels: Tensor, layer: int, *, device: str = "cpu", chunk: int = 256) -> Tensor:
    """(N, 1 + patches, D) hidden states of the tower's ``layer``, kept on the CPU."""
    dtype = next(tower.parameters()).dtype
    parts = [
        tower(part.to(device, dtype), output_hidden_states=True).hidden_states[layer].cpu()
        for part in pixels.split(chunk)
    ]
    return torch.cat(parts)


def detach_tower(llava: Any) -> Any:
    """Take the vision tower out of the model, which reads features from then on; returns the tower."""
    layer = llava.config.vision_feature_layer
    if not isinstance(layer, int):
        raise SystemExit(f"this model reads several layers of its vision tower ({layer}); one is supported")
    tower = llava.model.vision_tower.eval().requires_grad_(False)
    llava.model.vision_tower = CachedTower(layer)
    return tower


def large_model(path: str, dtype: torch.dtype) -> tuple[Any, Processor]:
    """A published LLaVA in transformers' format, from a path or an id."""
    from transformers import AutoTokenizer, LlavaForConditionalGeneration
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    llava = LlavaForConditionalGeneration.from_pretrained(path, dtype=dtype)
    vision = llava.config.vision_config
    tokens = (vision.image_size // vision.patch_size) ** 2
    tokens += llava.config.vision_feature_select_strategy == "full"
    return llava, Processor(AutoTokenizer.from_pretrained(path), CLIPImageProcessorPil.from_pretrained(path), tokens)


def caption(vcdr: float, others: Sequence[str]) -> str:
    """What the small model's first training has it say: the ratio in two digits and the findings beside the disc."""
    return ", ".join([f"cup-to-disc ratio {min(int(vcdr * 100), 99):02d}", *others])


CAPTION_PROMPT = format_instruction("Describe the photograph.", image=IMAGE)


def trained_small_model(
    folder: Path, processor: Processor, photographs: Callable[[], tuple[np.ndarray, np.ndarray, list[str]]], *,
    epochs: int, lr: float = 2e-3, batch: int = 64, seed: int = 7, tiny: bool = False, key: Any = None,
) -> Any:  # fmt: skip
    """The small model after its first training, kept in ``folder`` under a name made of all settings (and of ``key``)."""
    from transformers import LlavaForConditionalGeneration

    config = small_config(len(processor.tokenizer), tiny)
    settings = [key, epochs, lr, batch, seed, config.to_dict(), processor.tokenizer.get_vocab()]
    name = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:12]
    path = folder / f"llava-{name}"
    if not (path / "config.json").exists():
        toolkit.seed_everything(seed)
        model = LlavaForConditionalGeneration(config)
        images, masks, captions = photographs()
        _train(model, processor, images, masks, captions, epochs, lr, batch)
        path.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(path)
    return LlavaForConditionalGeneration.from_pretrained(path)


def _train(
    model: Any, processor: Processor, images: np.ndarray, masks: np.ndarray, captions: list[str], epochs: int, lr: float,
    batch: int,
) -> None:  # fmt: skip
    """Next-token loss on the captions, and every pixel's class (fundus, rim, cup) from its patch."""
    pixels = processor.pixels(images)
    prompt, eos = processor.ids(CAPTION_PROMPT), processor.tokenizer.eos_token_id
    answers = [[*processor.ids(text), eos] for text in captions]
    longest = max(map(len, answers))
    labels = torch.tensor([[-100] * len(prompt) + a + [-100] * (longest - len(a)) for a in answers])
    ids = torch.where(labels < 0, 0, labels)
    ids[:, : len(prompt)] = torch.tensor(prompt)
    n, cells = len(masks), SIDE // PATCH
    classes = torch.from_numpy(masks.reshape(n, cells, PATCH, cells, PATCH).transpose(0, 1, 3, 2, 4).copy()).long()
    classes = classes.reshape(n, cells * cells, PATCH * PATCH)
    outline = nn.Linear(model.config.vision_config.hidden_size, 3 * PATCH * PATCH)
    parameters = [*model.parameters(), *outline.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.05)
    steps = epochs * (n // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.15)
    seen: list[Tensor] = []
    layer = model.config.vision_feature_layer
    hook = model.model.vision_tower.register_forward_hook(lambda m, i, o: seen.append(o.hidden_states[layer][:, 1:]))
    model.train()
    with toolkit.progress(None, "training the small model", total=steps) as bar:
        for epoch in range(epochs):
            order = np.random.default_rng(epoch).permutation(n)[: n // batch * batch].reshape(-1, batch)
            for rows in torch.from_numpy(order):
                seen.clear()
                out = model(
                    input_ids=ids[rows], pixel_values=pixels[rows], labels=labels[rows],
                    attention_mask=((ids != 0) | (labels >= 0))[rows].long(),
                )  # fmt: skip
                drawn = outline(seen[0]).reshape(len(rows), cells * cells, 3, -1).transpose(1, 2)
                loss = out.loss + nn.functional.cross_entropy(drawn, classes[rows])
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                schedule.step()
                bar.update()
    hook.remove()
    model.eval()
    print(
        f"small model: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters; caption loss {out.loss.item():.3f}"
    )

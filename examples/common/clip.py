"""A CLIP small enough for two cores, first trained on rendered photographs and captions, or a real one; both read alike.

The small one is transformers' ``CLIPModel`` built from its configuration, with a tokenizer of one token a word built in place:
nothing is downloaded. It is trained contrastively on photographs of all rendered tasks in their own shares, so that it has seen
few of every minority, of other patients than any that an example trains or tests on. Not every caption says all: the ratio, the
diagnosis and the other findings are each there or not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import fundus, toolkit
from .vlm import disc_region

PAD, START, END = "<pad>", "<start>", "<end>"
RATIOS = [f"{r / 100:.2f}" for r in range(10, 100, 5)]
WORDS = (
    *(PAD, START, "<unknown>", END),
    *("fundus", "photograph", ",", "cup-to-disc", "ratio", "no", *RATIOS),
    *sorted({word for finding in fundus.FINDINGS for word in finding.split()}),
)
PROMPTS = ("fundus photograph , no glaucoma", "fundus photograph , glaucoma")
REAL_PROMPTS = ("a fundus photograph of a healthy eye without glaucoma", "a fundus photograph of an eye with glaucoma")
LESION_PROMPTS = (
    "a dermoscopic photograph of a benign skin lesion",
    "a dermoscopic photograph of a malignant skin lesion",
)
SIZE, PATCH, LONGEST = 32, 8, 20


@dataclass(frozen=True)
class Clip:
    """A ``CLIPModel``, how it reads photographs and words, and the prompts of the two classes."""

    model: Any
    tokenizer: Any
    mean: tuple[float, ...]
    std: tuple[float, ...]
    small: bool

    def pixels(self, data: Any, rows: Any = slice(None)) -> Tensor:
        """Photographs as the model takes them, (n, 3, S, S)."""
        images = data.images[rows]
        if self.small and hasattr(data, "eye"):
            images = disc_region(images, data.eye[rows])
        x = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float().div_(255)
        size = self.model.config.vision_config.image_size
        if x.shape[-1] != size:
            x = F.interpolate(x, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
        return (x - torch.tensor(self.mean).reshape(3, 1, 1)) / torch.tensor(self.std).reshape(3, 1, 1)

    def embed(self, pixels: Tensor, model: Any = None) -> Tensor:
        """(n, D) image embeddings of length 1, by ``model`` in place of the frozen one."""
        found = (model or self.model).get_image_features(pixel_values=pixels)
        return F.normalize(getattr(found, "pooler_output", found), dim=-1)

    @torch.no_grad()
    def features(self, pixels: Tensor, model: Any = None, batch: int = 500) -> Tensor:
        """The same for many photographs, without gradient, in eval mode."""
        (model or self.model).eval()
        device = next(self.model.parameters()).device
        return torch.cat([self.embed(part.to(device), model).float() for part in pixels.split(batch)])

    @torch.no_grad()
    def prototypes(self, prompts: Sequence[str]) -> Tensor:
        """(C, D): the prompts' embeddings times the model's logit scale, so that features @ prototypes.T are CLIP's logits."""
        self.model.eval()
        device = next(self.model.parameters()).device
        words = self.tokenizer(list(prompts), padding=True, return_tensors="pt", return_token_type_ids=False).to(device)
        found = self.model.get_text_features(**words)
        return F.normalize(getattr(found, "pooler_output", found), dim=-1).float() * self.model.logit_scale.exp()


def real_clip(name: str) -> Clip:
    """A CLIP of transformers by its path or name."""
    from transformers import AutoTokenizer, CLIPModel

    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    return Clip(CLIPModel.from_pretrained(name), AutoTokenizer.from_pretrained(name), mean, std, small=False)


def small_tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    table = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token=WORDS[2]))
    table.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    table.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, 1), (END, 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=table, pad_token=PAD, bos_token=START, eos_token=END, unk_token=WORDS[2]
    )


def small_config(tiny: bool = False) -> Any:
    """About 200,000 parameters; ``tiny``: a tenth of that."""
    from transformers import CLIPConfig

    width, layers = (32, 1) if tiny else (64, 3)
    both = {"hidden_size": width, "intermediate_size": 2 * width, "num_attention_heads": width // 32}
    text = {"vocab_size": len(WORDS), "num_hidden_layers": min(layers, 2), "max_position_embeddings": LONGEST}
    # The end of the text is where its embedding is read; transformers takes an id of 2 for an old, broken configuration.
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": WORDS.index(END)}
    vision = {"num_hidden_layers": layers, "image_size": SIZE, "patch_size": PATCH}
    return CLIPConfig(text_config={**both, **text, **ids}, vision_config={**both, **vision}, projection_dim=width)


def captions(data: fundus.FundusSet, rng: np.random.Generator) -> list[str]:
    """What a caption may say of each photograph: cup-to-disc ratio, diagnosis, other findings, each in seven of ten."""
    texts = []
    told = rng.random((len(data), 2 + len(fundus.FINDINGS) - 1)) < 0.7
    for i in range(len(data)):
        parts = ["fundus photograph"]
        if told[i, 0]:
            parts.append(
                f"cup-to-disc ratio {RATIOS[int(np.clip(round(float(data.vcdr[i]) * 20) - 2, 0, len(RATIOS) - 1))]}"
            )
        if told[i, 1]:
            parts.append("glaucoma" if data.label[i] else "no glaucoma")
        others = zip(fundus.FINDINGS[1:3], data.findings[i, 1:3], told[i, 2:4], strict=True)
        parts += [name for name, found, said in others if found and said]
        texts.append(" , ".join(parts))
    return texts


def small_clip(
    folder: Path, *, images: int, epochs: int, size: int = 64, lr: float = 2e-3, batch: int = 128, seed: int = 10_000,
    tiny: bool = False,
) -> Clip:  # fmt: skip
    """The small model, trained as the module says; kept in ``folder`` under a name made of these settings."""
    from transformers import CLIPModel

    settings = {"images": images, "epochs": epochs, "size": size, "lr": lr, "batch": batch, "seed": seed, "tiny": tiny}
    config = small_config(tiny)
    path = folder / f"clip-{toolkit.digest({**settings, 'config': config.to_dict()})}"
    tokenizer = small_tokenizer()
    half = (0.5, 0.5, 0.5)
    if (path / "config.json").exists():
        return Clip(CLIPModel.from_pretrained(path), tokenizer, half, half, small=True)
    toolkit.seed_everything(seed)
    made = Clip(CLIPModel(config), tokenizer, half, half, small=True)
    sets = [fundus.make(name, images=images // len(fundus.TASKS), size=size, seed=seed) for name in fundus.TASKS]
    steps = epochs * (sum(map(len, sets)) // batch)
    with toolkit.progress(None, "training the small CLIP", total=steps) as bar:
        loss = _train(made, sets, steps, batch, lr, seed, bar.update)
    print(
        f"small CLIP: {made.model.num_parameters():,} parameters, contrastive loss {loss:.3f} (chance {np.log(batch):.3f})"
    )
    path.mkdir(parents=True, exist_ok=True)
    made.model.save_pretrained(path)
    return made


def _train(
    clip: Clip, sets: list[fundus.FundusSet], steps: int, batch: int, lr: float, seed: int, tick: Callable[[], Any]
) -> float:
    """CLIP's own loss on batches over all tasks, photographs shifted by up to two pixels; mean of the last 20 losses."""
    rng = np.random.default_rng(seed)
    pixels = torch.cat([clip.pixels(data) for data in sets])
    optimizer = torch.optim.AdamW(clip.model.parameters(), lr=lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    losses: list[float] = []
    queue: list[np.ndarray] = []
    clip.model.train()
    for _ in range(steps):
        if not queue:  # a new epoch: another order, and captions that leave out other parts
            texts = [text for data in sets for text in captions(data, rng)]
            words = clip.tokenizer(
                texts, padding="max_length", max_length=LONGEST, return_tensors="pt", return_token_type_ids=False
            )
            queue = list(rng.permutation(len(texts))[: len(texts) // batch * batch].reshape(-1, batch))
        rows = torch.from_numpy(queue.pop())
        down, right = rng.integers(-2, 3, 2)
        x = pixels[rows].roll((int(down), int(right)), (2, 3))
        loss = clip.model(pixel_values=x, **{k: v[rows] for k, v in words.items()}, return_loss=True).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(clip.model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        tick()
    clip.model.eval()
    return float(np.mean(losses[-20:]))

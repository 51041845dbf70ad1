"""What the segmentation examples share: MONAI's U-Net, its training loop, and the overlap of every photograph's structures."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fairloss import GroupHeads
from fairloss.metrics import dice, iou

CLASSES = 3  # fundus, rim, cup
STRUCTURES = {"disc": (1, 2), "cup": (2,)}


def unet(width: int, outputs: int = CLASSES) -> nn.Module:
    from monai.networks.nets import UNet

    channels = [width * 2**k for k in range(4)]
    return UNet(
        spatial_dims=2, in_channels=3, out_channels=outputs, channels=channels, strides=[2, 2, 2], num_res_units=1
    )


class GroupUNet(nn.Module):
    """The U-Net with one last layer a group, a 1 x 1 convolution each: domain-independent training (InD).

    A photograph is segmented by its own group's layer, one of unknown group (-1) by the mean of all layers' logits.
    """

    def __init__(self, width: int, num_groups: int) -> None:
        super().__init__()
        self.trunk = unet(width, outputs=width)
        self.heads = GroupHeads(num_groups, in_features=width, num_classes=CLASSES)
        with torch.no_grad():  # all layers start alike: a rare group's is not left where chance put it
            for parameter in self.heads.parameters():
                parameter.copy_(parameter[:1].expand_as(parameter))

    def forward(self, images: Tensor, group: Tensor) -> Tensor:
        return self.heads(self.trunk(images), group)


def forward(model: nn.Module, images: Tensor, group: Tensor) -> Tensor:
    """Logits (n, CLASSES, H, W); the group is only shown to a network that has parts of its own for every group."""
    return model(images, group) if isinstance(model, GroupUNet) else model(images)


def fit(
    model: nn.Module,
    tensors: dict[str, Tensor],
    loss: Callable[[Tensor, Tensor, Tensor], Tensor],
    *,
    order: Callable[[], Tensor],
    epochs: int,
    steps: int,
    batch: int,
    lr: float,
    context: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    tick: Callable[[], Any] = lambda: None,
) -> None:
    """Train on ``tensors`` (images, masks, group): AdamW, one cycle, random flips.

    Args:
        model: a U-Net or a :class:`GroupUNet`.
        tensors: images (N, 3, H, W), masks (N, H, W), group (N,).
        loss: of (logits, masks, groups).
        order: rows of an epoch, at least ``steps * batch`` of them.
        epochs: number of epochs.
        steps: of an epoch.
        batch: photographs of a step.
        lr: highest rate of the one-cycle schedule.
        context: autocast, or nothing.
        tick: called after each epoch.
    """
    images, masks, group = tensors["images"], tensors["masks"], tensors["group"]
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=epochs * steps)
    model.train()
    for _ in range(epochs):
        for rows in order().to(images.device)[: steps * batch].split(batch):
            flip = torch.rand(len(rows), device=images.device) < 0.5
            x = torch.where(flip.reshape(-1, 1, 1, 1), images[rows].flip(3), images[rows])
            y = torch.where(flip.reshape(-1, 1, 1), masks[rows].flip(2), masks[rows])
            with context():
                logits = forward(model, x, group[rows])
            optimizer.zero_grad()
            loss(logits, y, group[rows]).backward()
            optimizer.step()
            schedule.step()
        tick()


@torch.no_grad()
def predict(
    model: nn.Module,
    images: Tensor,
    group: Tensor,
    context: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
) -> np.ndarray:
    """(N, H, W) class of every pixel."""
    model.eval()
    device = next(model.parameters()).device
    with context():
        parts = [
            forward(model, x.to(device), g.to(device)).argmax(1).to(torch.uint8).cpu()
            for x, g in zip(images.split(250), group.split(250), strict=True)
        ]
    return torch.cat(parts).numpy()


def overlaps(true: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """Dice and IoU of every photograph, of each structure and their mean."""
    found = {}
    for name, metric in (("dice", dice), ("iou", iou)):
        for structure, classes in STRUCTURES.items():
            found[f"{name}_{structure}"] = metric(np.isin(true, classes), np.isin(predicted, classes), empty=1.0)
        found[name] = np.mean([found[f"{name}_{s}"] for s in STRUCTURES], axis=0)
    return found

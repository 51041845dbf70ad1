"""A Lightning module as each spawned process imports it, its criterion with state."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fairloss

lightning = pytest.importorskip("lightning")

STEPS = 4


class WithState(lightning.LightningModule):
    """GroupDRO and a gap with a memory; each rank saves the state that it ends with."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = folder
        self.model = torch.nn.Linear(2, 1)
        self.dro = fairloss.GroupDROLoss(2)
        self.gap = fairloss.MaxAccGapLoss(2, memory=fairloss.GroupMemory(2, capacity=64))

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        x, y, groups = batch
        logits = self.model(x).squeeze(1)
        each = torch.nn.functional.binary_cross_entropy_with_logits(logits, y.float(), reduction="none")
        return self.dro(each, groups) + self.gap(logits, y, groups)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)

    def on_train_end(self) -> None:
        state = {"dro": self.dro.seen, "memory": self.gap.memory.seen, "log_q": self.dro.log_q}
        torch.save(state, Path(self.folder) / f"rank{self.global_rank}.pt")


def loader() -> torch.utils.data.DataLoader:
    """Four samples per step and rank."""
    generator = torch.Generator().manual_seed(0)
    n = 8 * STEPS
    x, y = torch.randn(n, 2, generator=generator), torch.randint(0, 2, (n,), generator=generator)
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y, torch.arange(n) % 2), batch_size=4)

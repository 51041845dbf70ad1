"""What several files of this folder start from."""

import pytest
import torch


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, 5, (40,), generator=generator), torch.randint(-1, 3, (40,), generator=generator)

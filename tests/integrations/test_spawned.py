"""Lightning's ddp_spawn on the CPU: what is sent to the ranks lies in shared memory, the criterion's state must not."""

from __future__ import annotations

import pytest
import torch


@pytest.mark.frameworks
@pytest.mark.filterwarnings("ignore")  # Lightning's own, of few batches and idle workers
def test_ranks_share_no_state(tmp_path):
    lightning = pytest.importorskip("lightning")
    from tests.integrations.spawned import STEPS, WithState, loader

    model = WithState(str(tmp_path))
    trainer = lightning.Trainer(
        strategy="ddp_spawn",
        accelerator="cpu",
        devices=2,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(model, loader())
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    for state in ranks:  # of its own samples alone
        assert state["memory"].sum() == 4 * STEPS
        assert state["dro"].sum().item() == pytest.approx(4 * STEPS, rel=0.01)
    assert not torch.equal(ranks[0]["log_q"], ranks[1]["log_q"])
    assert torch.equal(model.dro.seen, ranks[0]["dro"])  # which Lightning brings back

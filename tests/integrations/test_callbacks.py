"""The monitor as a callback: what it logs is what the model does on the validation data."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from fairloss.integrations.callbacks import lightning_callback, trainer_callback
from fairloss.training import FairnessMonitor

pytestmark = pytest.mark.frameworks


def held_out():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(90, 4, generator=generator)
    return x, (x[:, 0] > 0).long(), torch.arange(90) % 2


def by_hand(logits, y, groups):
    right = (logits.argmax(1) == y).float()
    values = [float(right[groups == g].mean()) for g in (0, 1)]
    return float(right.mean()), abs(values[0] - values[1])


def test_the_trainers_evaluations_are_counted(tmp_path):
    transformers = pytest.importorskip("transformers")

    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x, labels=None):
            assert labels is None or self.training or labels.shape[0] == x.shape[0]
            logits = self.layer(x)
            loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
            return {"logits": logits} if loss is None else {"loss": loss, "logits": logits}

    x, y, groups = held_out()
    rows = [{"x": x[i], "labels": y[i], "groups": groups[i]} for i in range(90)]
    args = transformers.TrainingArguments(
        output_dir=str(tmp_path), remove_unused_columns=False, report_to=[], use_cpu=True, per_device_eval_batch_size=32
    )

    class Trainer(transformers.Trainer):
        def prediction_step(self, model, inputs, *args, **kwargs):
            return super().prediction_step(model, {k: v for k, v in inputs.items() if k != "groups"}, *args, **kwargs)

    model = Small()
    trainer = Trainer(model=model, args=args, eval_dataset=rows)
    trainer.add_callback(trainer_callback(FairnessMonitor(2)))
    trainer.evaluate()
    accuracy, gap = by_hand(model(x)["logits"], y, groups)
    logged = next(line for line in trainer.state.log_history if "fair/accuracy" in line)
    assert logged["fair/accuracy"] == pytest.approx(accuracy)
    assert logged["fair/gap_accuracy"] == pytest.approx(gap)


def test_lightnings_validation_epochs_are_counted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lightning = pytest.importorskip("lightning.pytorch")

    class Small(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def validation_step(self, batch, index):
            x, y, groups = batch
            return {"logits": self.layer(x), "target": y, "groups": groups}

    x, y, groups = held_out()
    module = Small()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y, groups), batch_size=32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            callbacks=[lightning_callback(FairnessMonitor(2))],
        )
        (logged,) = trainer.validate(module, loader, verbose=False)
    accuracy, gap = by_hand(module.layer(x), y, groups)
    assert logged["fair/accuracy"] == pytest.approx(accuracy, abs=1e-6)
    assert logged["fair/gap_accuracy"] == pytest.approx(gap, abs=1e-6)
    assert np.isfinite(list(logged.values())).all()


def test_batches_without_groups_are_refused_by_name():
    callback = lightning_callback(FairnessMonitor(2))
    with pytest.raises(ValueError, match="validation_step: expected a mapping with 'logits'"):
        callback.on_validation_batch_end(None, None, torch.zeros(3), None, 0)

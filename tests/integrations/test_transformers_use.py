"""FairTrainer in use: columns, arguments and trainers that do not fit, kinds of models, metrics of tokens."""

import json
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from fairloss import FairCrossEntropyLoss
from fairloss.integrations import transformers as integration
from fairloss.integrations.transformers import STATE_FILE, argmax_for_metrics, group_metrics
from tests.integrations.trainers import dataset, fair, lora, losses, trainer

pytestmark = [
    pytest.mark.frameworks,
    pytest.mark.filterwarnings("default"),  # transformers warns of its own deprecations
]


def test_missing_and_dropped_columns_name_column_and_setting(tmp_path):
    from transformers import default_data_collator

    lacking = dataset().remove_columns("groups")
    with pytest.raises(ValueError, match=r"train_dataset: .*'groups', got .*group_column.*remove_unused_columns=False"):
        trainer(tmp_path, data=lacking)
    with pytest.raises(ValueError, match=r"eval_dataset\['dev'\]: .*'groups'"):
        trainer(tmp_path, wanted={"eval_dataset": {"dev": lacking}})
    with pytest.raises(ValueError, match="train_dataset: .*'sex'"):
        trainer(tmp_path, wanted={"group_column": "sex"})
    with pytest.raises(ValueError, match=r"args: .*got \['labels'\].*label_names=\['labels', 'groups'\]"):
        trainer(tmp_path, label_names=["labels"])
    dropped = r"inputs: .*'groups', got .*'labels'.*label_names=\['labels', 'groups'\].*remove_unused_columns"
    with pytest.raises(ValueError, match=dropped):
        trainer(tmp_path, data=lacking, remove_unused_columns=False).train()

    def collate(rows):
        return default_data_collator([{k: v for k, v in row.items() if k != "groups"} for row in rows])

    with pytest.raises(ValueError, match=dropped):
        trainer(tmp_path, wanted={"data_collator": collate}).train()
    # An evaluation set given later, without groups, where the Trainer would quietly report no metrics.
    instance = trainer(tmp_path, remove_unused_columns=False)
    with pytest.raises(ValueError, match=dropped):
        instance.evaluate(lacking)
    # Prediction without labels is no error, and the groups do not reach the model.
    scores = instance.predict(dataset().remove_columns("labels"))
    assert scores.predictions.shape == (20, 2)
    assert scores.label_ids is None
    with pytest.raises(
        ValueError, match=r"prediction: .*label_ids=\(labels, groups\).*label_names=\['labels', 'groups'\]"
    ):
        group_metrics(SimpleNamespace(predictions=np.zeros((3, 2)), label_ids=np.zeros(3)), num_groups=2)


def test_the_collator_may_make_the_column(tmp_path):
    from transformers import default_data_collator

    def collate(rows):
        return default_data_collator([{("who" if k == "groups" else k): v for k, v in row.items()} for row in rows]) | {
            "groups": torch.tensor([row["groups"] for row in rows])
        }

    def drop(rows):
        batch = collate(rows)
        batch.pop("who")
        return batch

    wanted = {"data_collator": drop}
    instance = trainer(tmp_path, wanted=wanted, remove_unused_columns=False)
    instance.train()
    assert len(losses(instance)) == 3


def test_arguments_that_do_not_go_together(tmp_path):
    with pytest.raises(TypeError, match="fair_loss: .*module.*function"):
        trainer(tmp_path, lambda *a: 0)
    with pytest.raises(ValueError, match="fair_loss: .*parameters"):
        trainer(tmp_path, nn.Linear(2, 2))
    with pytest.raises(ValueError, match="fair_loss: .*reduction=.*'none'"):
        trainer(tmp_path, FairCrossEntropyLoss(3, reduction="none"))
    with pytest.raises(ValueError, match="label_smoothing_factor"):
        trainer(tmp_path, label_smoothing_factor=0.1)
    with pytest.raises(ValueError, match="compute_loss_func: .*fair_loss takes its place"):
        trainer(tmp_path, wanted={"compute_loss_func": lambda *a, **k: 0})
    instance = trainer(tmp_path, kind="tokens")
    instance._fair_shift = None
    with pytest.raises(ValueError, match="shift_labels: .*shift_labels=True.*shift_labels=False"):
        instance.train()
    with pytest.raises(ValueError, match=r"group_names: .*\b1\b"):
        group_metrics(SimpleNamespace(predictions=None, label_ids=()), num_groups=2, group_names=["a"])


def test_trainers_that_do_not_fit_are_refused(tmp_path, monkeypatch):
    from transformers import Trainer

    with pytest.raises(
        ImportError, match=r"get_batch_samples is missing; put the mixin before Trainer.*made for 5\.23"
    ):
        type("Wrong", (integration.FairTrainerMixin, object), {})(fair_loss=FairCrossEntropyLoss(2))

    class Changed(Trainer):
        def compute_loss(self, model, batch):
            raise AssertionError

    with pytest.raises(ImportError, match="compute_loss takes"):
        trainer(tmp_path, cls=type("Wrong", (integration.FairTrainerMixin, Changed), {}))
    monkeypatch.delitem(vars(integration), "FairTrainer", raising=False)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"fairloss\[transformers\]"):
        _ = integration.FairTrainer
    with pytest.raises(AttributeError, match="no attribute 'Trainer'"):
        _ = integration.Trainer


def test_older_versions_divide_too(tmp_path):
    """Without ``loss_is_scaled_for_ga`` the Trainer goes by the model's signature, which the mixin overrules."""
    instance = trainer(tmp_path)
    assert instance.model_accepts_loss_kwargs is False
    assert instance.compute_loss_func is None


def test_plain_modules_and_tuples_serve_as_models(tmp_path):
    class Plain(nn.Module):
        def __init__(self, as_tuple):
            super().__init__()
            self.embedding, self.head, self.as_tuple = nn.Embedding(17, 4), nn.Linear(4, 2), as_tuple

        def forward(self, input_ids, attention_mask=None):
            logits = self.head(self.embedding(input_ids).mean(1))
            return (logits,) if self.as_tuple else logits

    for as_tuple in (False, True):
        wanted = {"eval_dataset": dataset(), "compute_metrics": lambda p: group_metrics(p, num_groups=3)}
        instance = trainer(tmp_path, model=Plain(as_tuple), wanted=wanted)
        instance.train()
        assert 0 <= instance.evaluate()["eval_accuracy"] <= 1


def test_bfloat16_autocast_trains(tmp_path):
    instance = trainer(tmp_path, fair(), model=lora(), bf16=True)
    instance.train()
    assert all(np.isfinite(losses(instance)))
    assert instance.fair_loss.memory.values.dtype == torch.float32


def test_checkpoints_hold_the_memory_in_a_file_of_its_own(tmp_path):
    from safetensors.torch import load_file

    instance = trainer(tmp_path, fair(), model=lora(), save_strategy="steps", save_steps=2)
    instance.train()
    folder = Path(tmp_path) / "checkpoint-2"
    assert json.loads((folder / "trainer_state.json").read_text())["global_step"] == 2
    other = fair()
    other.load_state_dict(load_file(folder / STATE_FILE))
    assert 0 < other.memory.seen.sum() <= 8
    trainer(tmp_path / "none", model=lora(), save_strategy="steps", save_steps=2).train()
    assert not (tmp_path / "none" / "checkpoint-2" / STATE_FILE).exists()  # nothing to save


def test_the_model_computes_no_loss_of_its_own(tmp_path):
    instance = trainer(tmp_path, kind="tokens")
    seen = []
    instance.model.register_forward_pre_hook(lambda module, args, inputs: seen.append(set(inputs)), with_kwargs=True)
    instance.train()
    assert seen
    assert all(names == {"input_ids", "attention_mask"} for names in seen)


def test_token_metrics_through_the_trainer(tmp_path):
    wanted = {
        "eval_dataset": dataset("tokens", seed=1),
        "preprocess_logits_for_metrics": argmax_for_metrics,
        "compute_metrics": lambda p: group_metrics(p, num_groups=3, shift_labels=True),
    }
    instance = trainer(tmp_path, kind="tokens", wanted=wanted)
    found = instance.evaluate()
    batch = {k: torch.tensor(v) for k, v in dataset("tokens", seed=1)[:].items()}
    with torch.no_grad():
        logits = instance.model(input_ids=batch["input_ids"]).logits
    right = []
    for scores, labels in zip(logits, batch["labels"], strict=True):
        kept = [(int(s.argmax()), int(t)) for s, t in zip(scores[:-1], labels[1:], strict=True) if t != -100]
        right.append(all(a == b for a, b in kept))
    assert found["eval_accuracy"] == pytest.approx(np.mean(right))
    # Perfect answers are counted as such.
    perfect = SimpleNamespace(
        predictions=np.roll(batch["labels"].numpy(), -1, 1),
        label_ids=(batch["labels"].numpy(), batch["groups"].numpy()),
    )
    assert group_metrics(perfect, num_groups=3, shift_labels=True)["accuracy"] == 1


def test_outputs_that_are_no_tensors_do_not_reach_the_metrics(tmp_path, monkeypatch):
    """transformers 5.24 returns caches among the outputs, with None in them, which accelerate refuses to gather."""
    import transformers

    plain = transformers.Trainer.prediction_step

    def with_cache(self, model, inputs, prediction_loss_only, ignore_keys=None):
        loss, logits, labels = plain(self, model, inputs, prediction_loss_only, ignore_keys=ignore_keys)
        return loss, (logits, {"layers": (None, None)}), labels

    monkeypatch.setattr(transformers.Trainer, "prediction_step", with_cache)
    instance = trainer(tmp_path, data=dataset())
    instance.compute_metrics = partial(group_metrics, num_groups=3)
    assert 0 <= instance.evaluate(dataset())["eval_accuracy"] <= 1

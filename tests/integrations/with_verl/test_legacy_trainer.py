"""FairGRPO in verl's legacy trainer: its ``fit`` and its ``compute_advantage`` on a real ``DataProto``."""

import itertools

import numpy as np
import pytest
import torch

from fairloss import FairGRPOAdvantage
from tests.integrations.with_verl.trainers import Legacy, config, extra_info, flat_rows
from tests.policy.rollouts import batch as random_batch
from tests.policy.test_fair_grpo import released

pytestmark = pytest.mark.filterwarnings("default")  # verl warns that this trainer is deprecated


def values(seed=0, q=12, r=4):
    rewards, groups, domains = random_batch(seed, q=q, r=r, num_groups=3, num_domains=3, dtype=torch.float32)
    groups[1::5] = -1
    return rewards, groups, domains


def check(found, expected):
    """Advantages of rows in any order, of one prompt in the order of its rollouts or another."""
    index, advantages = found
    assert len(index) == expected.numel()
    for q in range(len(expected)):
        mine = torch.stack([a for i, a in zip(index, advantages, strict=True) if i == q])
        torch.testing.assert_close(mine.sort().values, expected[q].sort().values, rtol=2e-6, atol=2e-6)


def test_fit_equals_the_library(monkeypatch):
    rewards, groups, domains = values()
    legacy = Legacy(monkeypatch, rewards, groups, domains, "trainer.total_epochs=3")
    legacy.trainer.fit()
    assert len(legacy.seen) == 3
    alone = FairGRPOAdvantage(3, num_domains=3)
    for step in range(3):
        found = legacy.advantages(step)
        assert found[0] != sorted(found[0])  # verl has balanced the batch
        check(found, alone(rewards, groups, domains))
        row = alone.table()[0]
        assert legacy.logged[step]["fair/prompts/xray/young"] == row.prompts
        assert "fair/weight/xray/young" in legacy.logged[step]
    torch.testing.assert_close(
        legacy.trainer._fair_grpo.fair.history.totals(), alone.history.totals(), rtol=1e-6, atol=0
    )


def test_fit_gives_the_released_outputs(monkeypatch):
    from verl.utils.dataset.rl_dataset import collate_fn

    steps = [released("grpo", step) for step in range(3)]
    rewards, groups, domains = (torch.cat(parts) for parts in list(zip(*steps, strict=True))[:3])
    legacy = Legacy(monkeypatch, rewards, groups, domains, "+algorithm.fair.variant=released")
    # The recorded batches are of 24, 32 and 40 prompts.
    starts = np.cumsum([0] + [len(step[1]) for step in steps])
    trainer = legacy.trainer
    data = [trainer.train_dataset[i] for i in range(len(groups))]
    trainer.train_dataloader = [collate_fn(data[a:b]) for a, b in itertools.pairwise(starts)]
    trainer.total_training_steps = 3
    trainer.fit()
    assert len(legacy.seen) == 3
    for step in range(3):
        index, advantages = legacy.advantages(step)
        check(([i - starts[step] for i in index], advantages), steps[step][3])


def data_proto(rows, width=5):
    from verl import DataProto

    mask, scores = torch.ones(len(rows), width, dtype=torch.int64), torch.zeros(len(rows), width)
    for i, row in enumerate(rows):
        mask[i, 2 + row.rollout % 3 :] = 0
        scores[i, 1] = row.reward
    columns = {"uid": [f"u{row.prompt}" for row in rows], "extra_info": [extra_info(row) for row in rows]}
    columns["data_source"] = [row.domain for row in rows]
    objects = {name: np.fromiter(column, dtype=object, count=len(rows)) for name, column in columns.items()}
    return DataProto.from_dict({"token_level_rewards": scores, "response_mask": mask}, non_tensors=objects)


@pytest.mark.parametrize("prefix", ["grpo", "grpound", "grpond"])
def test_the_released_outputs_through_compute_advantage(prefix):
    import sklearn
    from verl.trainer.ppo.ray_trainer import compute_advantage

    from fairloss.integrations.verl import FairGRPOState

    if prefix != "grpo" and not sklearn.__version__.startswith("1.9."):
        pytest.skip(f"recorded with scikit-learn 1.9.1, {sklearn.__version__} is here")
    options = ["+algorithm.fair.variant=released"]
    options += [] if prefix == "grpo" else ["+algorithm.fair.discover_groups=kmeans"]
    algorithm = config(*options).algorithm
    state = FairGRPOState.from_config(algorithm)
    for step in range(3):
        rewards, groups, domains, expected = released(prefix, step)
        # The released clusters depend on the order of the rows; known groups do not.
        rows = flat_rows(rewards, groups, domains, step if prefix == "grpo" else None)
        data = data_proto(rows)
        with state.rows(data.non_tensor_batch):
            data = compute_advantage(data, adv_estimator="fair_grpo", config=algorithm)
        wanted = torch.stack([expected[row.prompt, row.rollout] for row in rows])
        torch.testing.assert_close(data.batch["advantages"][:, 0], wanted, rtol=2e-6, atol=2e-6)
        assert torch.equal(data.batch["advantages"] != 0, (data.batch["response_mask"] * wanted.unsqueeze(1)) != 0)


def test_ragged_prompts_in_any_order_in_a_loop_of_ones_own():
    from verl.trainer.ppo.v1.utils import compute_advantage  # a copy of the name, taken by `from ... import`

    from fairloss.integrations.verl import FairGRPOState

    algorithm = config().algorithm
    state, alone = FairGRPOState.from_config(algorithm), FairGRPOAdvantage(3, num_domains=3)
    for seed in range(3):
        rewards, groups, domains = values(seed)
        rewards[torch.rand(rewards.shape, generator=torch.Generator().manual_seed(seed)) < 0.3] = torch.nan
        rows = flat_rows(rewards, groups, domains, seed)
        data = data_proto(rows)
        data.reorder(torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)))
        with state.rows(data.non_tensor_batch):
            data = compute_advantage(data, adv_estimator="fair_grpo", config=algorithm)
        expected = alone(rewards, groups, domains)
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
        wanted = torch.stack([expected[rows[i].prompt, rows[i].rollout] for i in order])
        torch.testing.assert_close(data.batch["advantages"][:, 0], wanted)


def test_outside_a_known_trainer_the_remedy_is_named():
    from verl.trainer.ppo.ray_trainer import compute_advantage

    from fairloss.integrations.verl import FairGRPOState

    algorithm = config().algorithm
    data = data_proto(flat_rows(*values()))
    with pytest.raises(RuntimeError, match=r"neither groups nor domains.*trainer.use_v1=True.*with state.rows\(batch"):
        compute_advantage(data, adv_estimator="fair_grpo", config=algorithm)
    state = FairGRPOState.from_config(algorithm)
    del data.non_tensor_batch["uid"]
    with state.rows(data.non_tensor_batch), pytest.raises(ValueError, match="fair_grpo: .*uid"):
        compute_advantage(data, adv_estimator="fair_grpo", config=algorithm)
    other = data_proto(flat_rows(*values(q=5)))
    with (
        state.rows(data.non_tensor_batch),
        pytest.raises(ValueError, match="rows: .* 20 rows.* of 20, 48, 48 rows"),
    ):
        compute_advantage(other, adv_estimator="fair_grpo", config=algorithm)
    assert state.fair.history.totals().sum() == 0


def test_a_top_level_group_column_is_lost_on_the_way_and_said_to_be(monkeypatch):
    legacy = Legacy(monkeypatch, *values(), "+algorithm.fair.group_key=demo_group")
    with pytest.raises(ValueError, match="group_key: .*'demo_group'.*only .*the legacy trainer drops other columns"):
        legacy.trainer.fit()


def test_a_checkpoint_resumes_the_history(monkeypatch, tmp_path):
    rewards, groups, domains = values()
    where = [f"trainer.default_local_dir={tmp_path}", "trainer.save_freq=1", "trainer.resume_mode=auto"]
    through = Legacy(monkeypatch, rewards, groups, domains, "trainer.total_epochs=3")
    through.trainer.fit()
    Legacy(monkeypatch, rewards, groups, domains, *where, "trainer.total_epochs=2").trainer.fit()
    assert (tmp_path / "global_step_2" / "fair_grpo.safetensors").exists()
    resumed = Legacy(monkeypatch, rewards, groups, domains, *where, "trainer.total_epochs=3")
    resumed.trainer.fit()
    assert len(resumed.seen) == 1
    for a, b in zip(resumed.advantages(), through.advantages(), strict=True):
        assert list(a) == list(b)
    assert torch.equal(
        resumed.trainer._fair_grpo.fair.history.totals(), through.trainer._fair_grpo.fair.history.totals()
    )


def test_runs_in_one_process_share_nothing_and_other_estimators_are_untouched(monkeypatch):
    rewards, groups, domains = values()
    first = Legacy(monkeypatch, rewards, groups, domains)
    first.trainer.fit()
    second = Legacy(monkeypatch, rewards, groups, domains)
    second.trainer.fit()
    assert torch.equal(first.advantages()[1], second.advantages()[1])
    plain = Legacy(monkeypatch, rewards, groups, domains, labels=["algorithm.adv_estimator=grpo"])
    plain.trainer.fit()
    assert not hasattr(plain.trainer, "_fair_grpo")
    assert not any(key.startswith("fair/") for key in plain.logged[0])

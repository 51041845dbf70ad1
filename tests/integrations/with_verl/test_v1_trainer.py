"""FairGRPO in verl's v1 trainer: its advantage step on a real TransferQueue."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fairloss import FairGRPOAdvantage
from tests.integrations.with_verl.trainers import DOMAINS, LABELS, V1, flat_rows, nothing
from tests.policy.rollouts import batch as random_batch
from tests.policy.test_fair_grpo import released

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.usefixtures("queue")]  # verl's own deprecations


def ragged(seed, q=14, r=5):
    rewards, groups, domains = random_batch(seed, q=q, r=r, num_groups=3, num_domains=3, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    rewards[torch.rand(q, r, generator=generator) < 0.2] = torch.nan
    rewards[:, 0] = rewards[:, 0].nan_to_num(1.0)
    groups[seed::5], domains[seed::6] = -1, -1
    return rewards, groups, domains


def in_order(expected, rows):
    return torch.stack([expected[row.prompt, row.rollout] for row in rows])


@pytest.mark.parametrize("options", [[], ["+algorithm.fair.max_ratio=2", "+algorithm.fair.history=ema"]])
def test_steps_equal_the_library_for_ragged_shuffled_padded_and_balanced_batches(options):
    v1 = V1(*options, "actor_rollout_ref.actor.ppo_mini_batch_size=4", "actor_rollout_ref.rollout.n=4", replicas=4)
    alone = FairGRPOAdvantage(3, num_domains=3, **({"max_ratio": 2, "history": "ema"} if options else {}))
    padded = 0
    for seed in range(3):
        rewards, groups, domains = ragged(seed)
        rows = flat_rows(rewards, groups, domains, seed)
        found, metrics = v1.advantages(rows)
        torch.testing.assert_close(found, in_order(alone(rewards, groups, domains), rows))
        assert metrics["fair/prompts/xray/young"] == alone.history.totals()[0, 0, 0]
        padded += v1.padded
    assert padded > 0
    found, wanted = v1.trainer._fair_grpo.fair.history.totals(), alone.history.totals()
    assert torch.equal(found[:5], wanted[:5])
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0)  # squares are summed in another order


def test_metrics_are_each_groups_reward_and_weight():
    v1 = V1()
    rewards = torch.tensor([[1.0, 0, 1, 1], [1, 1, 0, 1], [0, 0, 1, 0], [0, 1, 1, 0]])
    groups, domains = torch.tensor([0, 0, 2, -1]), torch.tensor([0, 0, 0, 1])
    _, metrics = v1.advantages(flat_rows(rewards, groups, domains, 3))
    alone = FairGRPOAdvantage(3, num_domains=3)
    alone(rewards, groups, domains)
    weights = alone.last.weights
    assert metrics["fair/reward/xray/young"] == 0.75
    assert metrics["fair/reward/xray/old"] == 0.25
    assert metrics["fair/reward/skin/group_unknown"] == 0.5
    assert metrics["fair/weight/xray/young"] == pytest.approx(float(weights[0]))
    assert metrics["fair/weight/xray/old"] == pytest.approx(float(weights[2]))
    assert metrics["fair/prompts/xray/young"] == 2
    assert not any(key.startswith("fair/reward/eye") for key in metrics)


def test_released_outputs():
    v1 = V1("+algorithm.fair.variant=released")
    for step in range(3):
        rewards, groups, domains, expected = released("grpo", step)
        rows = flat_rows(rewards, groups, domains, step)
        found, _ = v1.advantages(rows)
        torch.testing.assert_close(found, in_order(expected, rows), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("prefix", ["grpound", "grpond"])
def test_released_outputs_with_its_clusters_for_rows_without_a_group(prefix):
    import sklearn

    if not sklearn.__version__.startswith("1.9."):
        pytest.skip(f"recorded with scikit-learn 1.9.1, {sklearn.__version__} is here")
    v1 = V1("+algorithm.fair.variant=released", "+algorithm.fair.discover_groups=kmeans")
    for step in range(3):
        rewards, groups, domains, expected = released(prefix, step)
        rows = flat_rows(rewards, groups, domains)  # its clusters depend on the order of the rows
        batch = v1.trainer._compute_advantage(v1.put(rows), {})
        found = torch.stack([values[0] for values, _ in v1.read(batch)])
        torch.testing.assert_close(found, in_order(expected, rows), rtol=2e-6, atol=2e-6)


def test_the_last_output_of_a_rollout_is_scored_and_all_get_its_advantage():
    v1 = V1()
    rewards, groups, domains = ragged(5)
    rows = flat_rows(rewards, groups, domains)
    several = []
    for i, row in enumerate(rows):
        outputs = 1 + i % 3
        for k in range(outputs):
            changed = {"output": k, "reward": row.reward if k == outputs - 1 else 7.0}
            several.append(SimpleNamespace(**{**vars(row), **changed}))
    np.random.default_rng(0).shuffle(several)
    found, metrics = v1.advantages(several)
    torch.testing.assert_close(found, in_order(FairGRPOAdvantage(3, num_domains=3)(rewards, groups, domains), several))
    assert max(value for key, value in metrics.items() if key.startswith("fair/reward")) <= 1


def test_powers_zero_are_verls_grpo():
    rewards, groups, domains = ragged(2)
    rows = flat_rows(rewards, groups, domains, 1)
    zero = [f"+algorithm.fair.{name}" for name in ("size_power=0", "reward_power=0", "batch_normalize=False")]
    fair, _ = V1(*zero).advantages(rows)
    plain, metrics = V1(labels=["algorithm.adv_estimator=grpo"]).advantages(rows)
    alone = torch.tensor([int((~rewards[row.prompt].isnan()).sum()) == 1 for row in rows])
    torch.testing.assert_close(fair[~alone], plain[~alone])
    assert torch.equal(fair[alone], torch.zeros(int(alone.sum())))  # verl leaves a single rollout's reward as it is
    assert not any(key.startswith("fair/") for key in metrics)


def test_one_value_for_the_whole_batch_and_another_column():
    rewards, groups, domains = ragged(1)
    rows = flat_rows(rewards, groups, torch.zeros_like(domains), 1)
    v1 = V1("+algorithm.fair.num_groups=3", "+algorithm.fair.group_key=sex", labels=[LABELS[0], LABELS[2]])
    found, _ = v1.advantages(rows, sex=lambda row: int(groups[row.prompt]))
    expected = FairGRPOAdvantage(3, num_domains=3)(rewards, groups, torch.zeros_like(domains))
    torch.testing.assert_close(found, in_order(expected, rows))
    one = V1("+algorithm.fair.num_groups=1", labels=[LABELS[0]])
    found, _ = one.advantages(rows, extra_info=lambda row: {"demo_group": 0})
    torch.testing.assert_close(found, in_order(FairGRPOAdvantage(1)(rewards, torch.zeros_like(groups)), rows))


def test_rewards_with_a_divergence_in_them_and_rollout_correction():
    rewards, groups, domains = ragged(3)
    rows = flat_rows(rewards, groups, domains, 1)
    v1 = V1(
        "algorithm.use_kl_in_reward=True",
        "algorithm.rollout_correction.rollout_is=token",
        "+algorithm.fair.reward_shift=min",
    )
    found, metrics = v1.advantages(rows, ref_log_prob=lambda row: torch.zeros(2 + (row.prompt + row.rollout) % 4))
    expected = FairGRPOAdvantage(3, num_domains=3, reward_shift="min")(rewards, groups, domains)
    torch.testing.assert_close(found, in_order(expected, rows))
    assert "actor/reward_kl_penalty" in metrics


def test_missing_columns_keys_and_labels_are_named():
    rewards, groups, domains = ragged(0)
    rows = flat_rows(rewards, groups, domains)
    v1 = V1()
    with pytest.raises(ValueError, match="group_key: .*'extra_info'.*only 'data_source'.*verl keeps extra_info"):
        v1.advantages(rows, extra_info=None)
    with pytest.raises(ValueError, match="group_key: .*'demo_group' in extra_info .*got 'index', 'sex'; .*another key"):
        v1.advantages(rows, extra_info=lambda row: {"index": 0, "sex": "f"})
    with pytest.raises(ValueError, match="'ancient'.*'young', 'middle', 'old'|'young', 'middle', 'old'.*'ancient'"):
        v1.advantages(rows, extra_info=lambda row: {"demo_group": "ancient"})
    with pytest.raises(ValueError, match="data_source: .*('mri'.*'xray'|'xray'.*'mri')"):
        v1.advantages(rows, data_source=lambda row: "mri")
    with pytest.raises(ValueError, match="groups: .*of a prompt"):
        v1.advantages(rows, extra_info=lambda row: {"demo_group": ["young", "old"][row.rollout % 2]})
    assert v1.trainer._fair_grpo.fair.history.totals().sum() == 0  # nothing of the refused batches is remembered


def test_a_step_of_the_trainer(monkeypatch):
    v1 = V1("actor_rollout_ref.actor.ppo_mini_batch_size=4", "actor_rollout_ref.rollout.n=4", replicas=2)
    rewards, groups, domains = ragged(4)
    rows = flat_rows(rewards, groups, domains, 0)
    batch, trainer, updated = v1.put(rows), v1.trainer, []
    trainer.replay_buffer = SimpleNamespace(sample=lambda **k: (batch, {}))
    trainer.reward_loop_manager = SimpleNamespace(reward_loop_worker_handles=[])
    trainer.use_reference_policy = False
    for name in ("on_sample_begin", "on_sample_end"):
        monkeypatch.setattr(trainer, name, nothing)
    monkeypatch.setattr(trainer, "_compute_old_log_prob", lambda batch, metrics: batch)
    monkeypatch.setattr(trainer, "_update_actor", lambda batch, metrics: updated.append(v1.read(batch)) or batch)
    metrics = {}
    out = trainer._step_once(metrics, {}, 1)
    expected = FairGRPOAdvantage(3, num_domains=3)(rewards, groups, domains)
    for (values, _), tag in zip(updated[0], out.tags, strict=True):
        if not tag.get("is_padding"):
            row = rows[tag["row"]]
            torch.testing.assert_close(values[0], expected[row.prompt, row.rollout])
    assert any(key.startswith("fair/weight/skin") for key in metrics)


def test_columns_of_a_data_set_reach_the_advantages(queue, tmp_path):
    """From a Parquet file through verl's data set, agent loop and queue."""
    import asyncio
    import uuid

    import pandas as pd
    from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput
    from verl.trainer.ppo.v1 import AgentLoopWorkerTQ
    from verl.utils import tensordict_utils as tu
    from verl.utils.dataset.rl_dataset import RLHFDataset, collate_fn

    rewards, groups, domains = random_batch(1, q=8, r=4, num_groups=3, num_domains=3, dtype=torch.float32)
    names = ["young", "middle", "old"]
    frame = pd.DataFrame({
        "prompt": [[{"role": "user", "content": str(i)}] for i in range(8)],
        "data_source": [DOMAINS[d] for d in domains.tolist()],
        "extra_info": [{"index": i, "demo_group": None if i == 5 else names[int(g)]} for i, g in enumerate(groups)],
    })  # fmt: skip
    groups[5] = -1
    frame.to_parquet(tmp_path / "train.parquet")
    v1 = V1("data.filter_overlong_prompts=False", f"+data.cache_dir={tmp_path}", "actor_rollout_ref.rollout.n=4")
    data = RLHFDataset(str(tmp_path / "train.parquet"), None, v1.trainer.config.data)
    batch = collate_fn([data[i] for i in range(8)])
    batch["uid"] = np.array([str(uuid.uuid4()) for _ in range(8)], dtype=object)
    rows = tu.get_tensordict(batch)
    tu.assign_non_tensor_data(rows, "global_steps", 1)
    order = {uid: i for i, uid in enumerate(rows["uid"])}

    actual = AgentLoopWorkerTQ.__ray_metadata__.modified_class
    worker = SimpleNamespace(config=v1.trainer.config)

    async def score(outputs, kwargs):
        for output in outputs:
            output.reward_score = float(rewards[kwargs["index"], kwargs["session_id"]])
            output.extra_fields["reward_extra_info"] = {}

    async def no_teacher(*args, **kwargs):
        return None

    async def loop(sampling, *, trajectory, trace, **kwargs):
        kwargs.pop("agent_name")
        output = AgentLoopOutput(
            prompt_ids=[1, 2], response_ids=[3, 4, 5], response_mask=[1, 1, 1], metrics=AgentLoopMetrics()
        )
        await actual._agent_loop_postprocess(worker, output, False, **kwargs)

    worker._compute_score, worker._compute_teacher_logprobs, worker._run_agent_loop = score, no_teacher, loop
    worker._compute_multi_modal_inputs = lambda output, ids: {}
    worker._compute_position_ids = lambda ids, mask, inputs: torch.arange(ids.shape[1]).unsqueeze(0)
    worker._run_prompt = lambda *a, **k: actual._run_prompt(worker, *a, **k)
    worker.background_tasks = set()

    async def generate():
        await actual.generate_sequences(worker, rows)
        await asyncio.gather(*worker.background_tasks)

    asyncio.run(generate())
    mine = {k: t for k, t in queue.kv_list("train")["train"].items() if k.split("_")[0] in order and "_" in k}
    assert len(mine) == 32
    keys = sorted(mine)
    found = v1.trainer._compute_advantage(
        queue.KVBatchMeta(partition_id="train", keys=keys, tags=[mine[k] for k in keys]), {}
    )
    expected = FairGRPOAdvantage(3, num_domains=3)(rewards, groups, domains)
    for key, (values, _) in zip(keys, v1.read(found), strict=True):
        uid, session, _ = key.split("_")
        torch.testing.assert_close(values, expected[order[uid], int(session)].expand(3))


def test_a_checkpoint_resumes_the_history(tmp_path):
    where = [f"trainer.default_local_dir={tmp_path}", "trainer.resume_mode=auto"]
    batches = [ragged(seed) for seed in range(3)]
    through, first = V1(*where), V1(*where)
    for trial in (through, first):
        for values in batches[:2]:
            trial.advantages(flat_rows(*values))
    first.trainer.global_steps = 7
    first.trainer._save_checkpoint()
    assert (tmp_path / "global_step_7" / "fair_grpo.safetensors").exists()
    assert (tmp_path / "latest_checkpointed_iteration.txt").read_text() == "7"
    for options in (
        where,
        [where[0], "trainer.resume_mode=resume_path", f"trainer.resume_from_path={tmp_path}/global_step_7"],
    ):
        resumed = V1(*options)
        resumed.trainer._load_checkpoint()
        assert resumed.trainer.global_steps == 7
    rows = flat_rows(*batches[2])
    torch.testing.assert_close(resumed.advantages(rows)[0], through.advantages(rows)[0], rtol=0, atol=0)
    swapped = V1(*where, labels=[LABELS[0], "+algorithm.fair.groups=[old,middle,young]", LABELS[2]])
    with pytest.raises(ValueError, match=r'groups \["old".*, got \["young", "middle", "old"\]; .*start anew'):
        swapped.trainer._load_checkpoint()
    (tmp_path / "global_step_7" / "fair_grpo.safetensors").unlink()
    with pytest.warns(UserWarning, match="history starts anew"):
        V1(*where).trainer._load_checkpoint()
    scratch = V1(f"trainer.default_local_dir={tmp_path}/none")
    scratch.trainer._load_checkpoint()
    assert scratch.trainer.global_steps == 0


def test_a_trainer_with_a_wrong_configuration_is_not_made():
    with pytest.raises(
        ValueError, match=r"algorithm.fair: .*adv_estimator=fair_grpo needs it; add \+algorithm.fair.groups"
    ):
        V1(labels=LABELS[:1])
    with pytest.raises(ValueError, match="'alpha'.*size_power|size_power.*'alpha'"):
        V1("+algorithm.fair.alpha=1")
    with pytest.raises(ValueError, match="norm_adv_by_std_in_grpo: .*False"):
        V1("algorithm.norm_adv_by_std_in_grpo=False")
    with pytest.raises(ValueError, match="max_ratio"):
        V1("+algorithm.fair.max_ratio=0.5")

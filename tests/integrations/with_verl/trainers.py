"""verl's own configuration, queue and trainers, with stand-ins for the GPU engines alone."""

import importlib.util
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

if importlib.util.find_spec("verl") is None:
    pytest.skip(
        "verl is not installed here, it pins its own transformers: `make test-verl` runs these tests",
        allow_module_level=True,
    )

GROUPS, DOMAINS = ["young", "middle", "old"], ["xray", "skin", "eye"]
LABELS = [
    "algorithm.adv_estimator=fair_grpo",
    f"+algorithm.fair.groups=[{','.join(GROUPS)}]",
    f"+algorithm.fair.domains=[{','.join(DOMAINS)}]",
]


def config(*overrides, labels=LABELS):
    """verl's configuration as its command line composes it."""
    from hydra import compose, initialize_config_module

    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", overrides=[*labels, *overrides])


def label(names, id_):
    return names[id_] if id_ >= 0 else None


def flat_rows(rewards, groups, domains, seed=None):
    """A (Q, R) batch, NaN where a rollout is missing, as rows: prompt, rollout, reward, group, domain; shuffled by seed."""
    rows = []
    for q, row in enumerate(rewards.tolist()):
        names = {"group": label(GROUPS, int(groups[q])), "domain": label(DOMAINS, int(domains[q]))}
        rows += [SimpleNamespace(prompt=q, rollout=r, reward=x, **names) for r, x in enumerate(row) if x == x]
    if seed is not None:
        np.random.default_rng(seed).shuffle(rows)
    return rows


def extra_info(row):
    return {"index": row.prompt} | ({} if row.group is None else {"demo_group": row.group})


def nothing(*args, **kwargs):
    return None


def workers(replicas):
    """What the trainers ask of their workers here."""
    ranks = {"actor": list(range(replicas))}
    return SimpleNamespace(_dispatch_info=ranks, world_size=replicas, save_checkpoint=nothing, load_checkpoint=nothing)


class V1:
    """A v1 trainer on a running TransferQueue."""

    fresh = itertools.count()

    def __init__(self, *overrides, replicas=1, **options):
        from verl.trainer.ppo.v1 import PPOTrainerSync

        self.trainer = PPOTrainerSync(config(*overrides, **options))
        self.trainer.global_steps = 1
        self.trainer.tokenizer = SimpleNamespace(eos_token_id=0)
        ranks = SimpleNamespace(
            _dispatch_info={"actor": list(range(replicas))}, save_checkpoint=nothing, load_checkpoint=nothing
        )
        self.trainer.actor_rollout_wg = ranks
        self.trainer.train_dataloader = SimpleNamespace(state_dict=dict, load_state_dict=nothing)

    def put(self, rows, **changes):
        """Rows in the queue, in the form in which verl's agent loop leaves them; the batch that refers to them."""
        import transfer_queue as tq
        from verl.utils.tensordict_utils import list_of_dict_to_tensordict

        run, keys, fields, tags = next(self.fresh), [], [], []
        for i, row in enumerate(rows):
            length = 2 + (row.prompt + row.rollout) % 4
            uid, mask = f"run{run}-{row.prompt}", torch.ones(length, dtype=torch.int64)
            mask[1] = 0  # a token that the model did not write
            scores = torch.zeros(length)
            scores[-1] = row.reward
            field = {
                "uid": uid, "prompts": torch.arange(3), "responses": torch.arange(length), "response_mask": mask,
                "rm_scores": scores, "extra_info": extra_info(row), "data_source": row.domain, "num_turns": 1,
                "input_ids": torch.arange(3 + length), "position_ids": torch.arange(3 + length), "multi_modal_inputs": {},
                "old_log_probs": torch.zeros(length), "rollout_log_probs": torch.zeros(length),
            }  # fmt: skip
            field |= {name: value(row) for name, value in changes.items() if value is not None}
            fields.append({k: v for k, v in field.items() if changes.get(k, True) is not None})
            keys.append(f"{uid}_{row.rollout}_{getattr(row, 'output', 0)}")
            tags.append({"status": "success", "prompt_len": 3, "response_len": length, "seq_len": 3 + length,
                         "global_steps": 1, "min_global_steps": 1, "max_global_steps": 1, "row": i})  # fmt: skip
        tq.kv_batch_put(keys=keys, fields=list_of_dict_to_tensordict(fields), tags=tags, partition_id="train")
        return tq.KVBatchMeta(partition_id="train", keys=keys, tags=tags)

    def read(self, batch, field="advantages"):
        """A field of each row of the batch, in its order, with the response mask."""
        import transfer_queue as tq

        data = tq.kv_batch_get(keys=batch.keys, partition_id="train", select_fields=[field, "response_mask"])
        return list(zip(data[field].unbind(), data["response_mask"].unbind(), strict=True))

    def advantages(self, rows, **changes):
        """What ``_compute_advantage`` writes for each row, after the batch was padded and balanced, and its metrics."""
        metrics = {}
        batch = self.trainer._balance_batch(self.put(rows, **changes), metrics)
        batch = self.trainer._compute_advantage(batch, metrics)
        found = [None] * len(rows)
        self.padded = 0
        for (values, mask), tag in zip(self.read(batch), batch.tags, strict=True):
            assert torch.equal(values * (1 - mask), torch.zeros_like(values))
            if tag.get("is_padding"):
                self.padded += 1
                assert torch.equal(values, torch.zeros_like(values))
                continue
            assert len(set(values[mask.bool()].tolist())) == 1
            found[tag["row"]] = values[0].item()
        return torch.tensor(found), metrics


class Questions(torch.utils.data.Dataset):
    """Rows as verl's data set gives them, from a (Q, R) batch."""

    def __init__(self, groups, domains):
        self.groups, self.domains = groups, domains

    def __len__(self):
        return len(self.groups)

    def __getitem__(self, i):
        row = SimpleNamespace(prompt=i, group=label(GROUPS, int(self.groups[i])))
        return {
            "dummy_tensor": torch.zeros(1, dtype=torch.uint8), "raw_prompt": [{"role": "user", "content": str(i)}],
            "data_source": label(DOMAINS, int(self.domains[i])), "extra_info": extra_info(row), "index": i,
            "demo_group": row.group, "reward_model": {"ground_truth": ""},
        }  # fmt: skip


class Legacy:
    """verl's ``RayPPOTrainer`` and its ``fit``; generation, log-probabilities and the update are stand-ins."""

    def __init__(self, monkeypatch, rewards, groups, domains, *overrides, replicas=2, **options):
        from verl.trainer.ppo.ray_trainer import RayPPOTrainer
        from verl.trainer.ppo.utils import Role

        data, (self.rewards, rollouts) = Questions(groups, domains), (rewards, rewards.shape[1])
        sizes = [
            f"data.train_batch_size={len(groups)}",
            f"actor_rollout_ref.rollout.n={rollouts}",
            "trainer.use_v1=False",
        ]
        defaults = ["trainer.val_before_train=False", "trainer.test_freq=-1", "data.dataloader_num_workers=0",
                    "trainer.total_epochs=1", "trainer.device=cpu", "trainer.resume_mode=disable"]  # fmt: skip
        self.seen, self.logged = [], []
        settings = config(*defaults, *sizes, *overrides, **options)
        self.trainer = trainer = RayPPOTrainer(
            settings, None, {Role.ActorRollout: None}, SimpleNamespace(get_n_gpus=lambda: 1),
            train_dataset=data, val_dataset=data, train_sampler=torch.utils.data.SequentialSampler(data),
        )  # fmt: skip
        trainer.checkpoint_manager = SimpleNamespace(update_weights=nothing, sleep_replicas=nothing)
        trainer.async_rollout_manager = SimpleNamespace(generate_sequences=self.generate)
        trainer.actor_rollout_wg = SimpleNamespace(
            _dispatch_info={"actor": list(range(replicas))},
            world_size=replicas,
            save_checkpoint=nothing,
            load_checkpoint=nothing,
        )
        trainer._compute_old_log_prob, trainer._update_actor = self.old_log_prob, self.update
        logged = self.logged

        class Tracking:
            def __init__(self, *args, **kwargs):
                pass

            def log(self, data, step):
                logged.append(data)

        monkeypatch.setattr("verl.utils.tracking.Tracking", Tracking)

    def generate(self, prompts):
        """Answers of several lengths, with rewards on the last token."""
        from verl import DataProto

        assert "demo_group" in prompts.non_tensor_batch  # it goes to generation and does not come back
        size, width = len(prompts), 6
        index = [info["index"] for info in prompts.non_tensor_batch["extra_info"]]
        seen = dict.fromkeys(index, 0)
        mask, scores = torch.zeros(size, width, dtype=torch.int64), torch.zeros(size, width)
        for i, q in enumerate(index):
            length = 2 + (q + seen[q]) % 4
            mask[i, :length] = 1
            scores[i, length - 1] = self.rewards[q, seen[q]]
            seen[q] += 1
        prompt = torch.ones(size, 3, dtype=torch.int64)
        tensors = {
            "prompts": prompt, "responses": mask.clone(), "response_mask": mask, "rm_scores": scores,
            "input_ids": torch.cat([prompt, mask], 1), "attention_mask": torch.cat([prompt, mask], 1),
        }  # fmt: skip
        objects = {"multi_modal_inputs": np.array([{}] * size, dtype=object)}
        return DataProto.from_dict(tensors, non_tensors=objects, meta_info={"timing": {}})

    def old_log_prob(self, batch):
        from verl import DataProto

        zeros = torch.zeros_like(batch.batch["responses"], dtype=torch.float32)
        return DataProto.from_dict({"old_log_probs": zeros, "entropys": zeros.clone()}), 0.0

    def update(self, batch):
        self.seen.append(batch)
        return SimpleNamespace(meta_info={"metrics": {"actor/grad_norm": [1.0]}})

    def advantages(self, step=-1):
        """Rows and advantages that reached the update of a step, in the order in which they did."""
        batch = self.seen[step]
        mask, values = batch.batch["response_mask"], batch.batch["advantages"]
        assert torch.equal(values * (1 - mask), torch.zeros_like(values))
        assert torch.equal(batch.batch["returns"], values)
        assert batch.batch["returns"].data_ptr() != values.data_ptr()
        assert torch.equal(values, values[:, :1] * mask)
        return [info["index"] for info in batch.non_tensor_batch["extra_info"]], values[:, 0]

"""How fairloss gets into verl's processes, and the page that tells users how."""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.integrations.with_verl.trainers import LABELS, config

pytestmark = pytest.mark.filterwarnings("default")

PAGE = Path(__file__).resolve().parents[3] / "docs" / "integrations" / "verl.md"

WRAPPED = """
import sys
import verl.trainer.ppo.ray_trainer, verl.trainer.ppo.v1.utils, verl.trainer.ppo.v1
from verl.trainer.ppo import core_algos
{load}
from verl.trainer.ppo import ray_trainer, v1
assert core_algos.get_adv_estimator_fn("fair_grpo").__module__ == "fairloss.integrations.verl"
wrapped = [ray_trainer.compute_advantage, v1.PPOTrainerSync._compute_advantage, v1.PPOTrainerSeparateAsync._load_checkpoint]
wrapped += [ray_trainer.RayPPOTrainer.fit, ray_trainer.RayPPOTrainer._save_checkpoint]
assert all(function._wrapped_by_fairloss for function in wrapped)
assert verl.trainer.ppo.v1.utils.compute_advantage is ray_trainer.compute_advantage
assert not sys.modules["fairloss.integrations.verl"]._UNFIT
print("as it should be")
"""


@pytest.mark.parametrize(
    ("environment", "load"),
    [
        ({}, ""),  # an installed package is found as a plug-in
        ({"VERL_USE_EXTERNAL_PLUGINS": "none", "VERL_USE_EXTERNAL_MODULES": "fairloss.integrations.verl"}, ""),
        ({"VERL_USE_EXTERNAL_PLUGINS": "none"}, "import fairloss.integrations.verl"),  # later than the trainers
    ],
)
def test_each_way_of_loading_wraps_every_trainer(environment, load):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("VERL_USE")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WRAPPED.format(load=load)],
        env=clean | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "as it should be" in done.stdout, done.stderr[-2000:]


def test_processes_of_ray_load_it_by_their_environment(queue):
    import ray

    @ray.remote
    def names():
        import verl  # noqa: F401 - reads the environment
        from verl.trainer.ppo import core_algos

        return list(core_algos.ADV_ESTIMATOR_REGISTRY)

    variables = {"VERL_USE_EXTERNAL_PLUGINS": "none"}
    without = names.options(num_cpus=0, runtime_env={"env_vars": variables}).remote()
    variables = variables | {"VERL_USE_EXTERNAL_MODULES": "fairloss.integrations.verl"}
    loaded = names.options(num_cpus=0, runtime_env={"env_vars": variables}).remote()
    assert "fair_grpo" not in ray.get(without)
    assert "fair_grpo" in ray.get(loaded)


def test_the_lines_of_the_page_are_a_configuration():
    from fairloss.integrations.verl import FairGRPOState

    blocks = [block.split("```")[0] for block in PAGE.read_text().split("```bash")[1:]]
    words = [word for block in blocks for word in shlex.split(block, comments=True) if "=" in word]
    lines = [word for word in words if not word.startswith("VERL_")]
    assert "algorithm.adv_estimator=fair_grpo" in lines
    settings = config(*lines, labels=[])
    state = FairGRPOState.from_config(settings.algorithm)
    assert state.fair.num_groups == 2
    assert state.fair.num_domains == 2
    variables = settings.ray_kwargs.ray_init.runtime_env.env_vars
    assert variables.VERL_USE_EXTERNAL_MODULES == "fairloss.integrations.verl"


def test_the_python_of_the_page_runs(tmp_path):
    from verl import DataProto
    from verl.trainer.ppo.ray_trainer import compute_advantage

    blocks = [block.split("```")[0] for block in PAGE.read_text().split("```python")[1:]]
    names = {"question": "?", "answer": "!", "folder": tmp_path, "compute_advantage": compute_advantage}
    names["config"] = config("+algorithm.fair.domains=[chest_xray]", labels=LABELS[:2])
    exec(blocks[0], names)
    row = names["row"]
    names["batch"] = batch = DataProto.from_dict(
        {"token_level_rewards": torch.tensor([[0.0, 1.0], [0.0, 0.0]]), "response_mask": torch.ones(2, 2)},
        non_tensors={"uid": np.array(["u", "u"], dtype=object)}
        | {name: np.array([row[name]] * 2, dtype=object) for name in ("data_source", "extra_info")},
    )
    exec(blocks[1], names)
    assert len(blocks) == 2
    assert (batch.batch["advantages"][0] > 0).all()
    assert (tmp_path / "fair_grpo.safetensors").exists()


def test_methods_of_another_version_are_left_alone_and_named(monkeypatch):
    import fairloss.integrations.verl as integration

    monkeypatch.setattr(integration, "_UNFIT", [])

    class PPOTrainer:
        def _compute_advantage(self, data):
            return data

    before = PPOTrainer._compute_advantage
    integration._wrap_v1(SimpleNamespace(PPOTrainer=PPOTrainer))
    assert PPOTrainer._compute_advantage is before
    with pytest.raises(
        RuntimeError, match=r"verl 0\.9.*_compute_advantage takes \('self', 'data'\).*_save_checkpoint is miss"
    ):
        integration.fair_grpo(None, None)
    with pytest.raises(RuntimeError, match="keys of rows.*'abc'"):
        integration._session("abc")


def test_an_estimator_of_that_name_by_someone_else_is_not_replaced():
    from verl.trainer.ppo import core_algos

    with pytest.raises(ValueError, match="fair_grpo has already been registered"):
        core_algos.register_adv_est("fair_grpo")(print)

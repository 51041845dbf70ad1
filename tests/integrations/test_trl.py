"""FairGRPOTrainer against the installed TRL, on a tiny random language model built in place."""

import json
import sys
import warnings
from types import SimpleNamespace

import pytest
import torch

from fairloss import FairGRPOAdvantage
from fairloss.integrations.trl import STATE_FILE, FairGRPOMixin
from fairloss.policy import GroupDROAdvantage
from tests.two_processes import two_processes

pytestmark = [
    pytest.mark.frameworks,
    pytest.mark.filterwarnings("default"),  # TRL and transformers warn of their own deprecations
]

WORDS = ["<pad>", "<eos>", *"abcdefgh"]


def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", padding_side="left")


def model(seed=0):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=32, pad_token_id=0, eos_token_id=1, bos_token_id=1,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def dataset(n=12, **columns):
    from datasets import Dataset

    rows = {
        "prompt": [f"{WORDS[2 + i % 4]} {WORDS[3 + i % 3]} {WORDS[2 + i % 7]}" for i in range(n)],
        "group": [[0, 1, 1, -1][i % 4] for i in range(n)],
        "domain": [i % 2 for i in range(n)],
        "row": list(range(n)),
    }
    return Dataset.from_dict({**rows, **columns})


def reward(completions, row, **_):
    """Varies within every prompt; some completions cannot be scored."""
    lengths = [sum(map(ord, text)) for text in completions]
    return [None if n % 11 == 0 else float(n % 3 == i % 2) for n, i in zip(lengths, row, strict=True)]


def config(folder, **options):
    from trl import GRPOConfig

    defaults = {
        "output_dir": str(folder), "per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 4,
        "gradient_accumulation_steps": 2, "max_steps": 2, "logging_steps": 1, "save_strategy": "no", "report_to": [],
        "use_cpu": True, "disable_tqdm": True, "seed": 3, "bf16": False, "learning_rate": 1e-2, "beta": 0.0,
    }  # fmt: skip
    return GRPOConfig(**{**defaults, **options})


def trainer(folder, fair=None, cls=None, data=None, columns=None, **options):
    from fairloss.integrations.trl import FairGRPOTrainer

    arguments = {"model": model(), "processing_class": tokenizer(), "reward_funcs": reward}
    arguments |= {"args": config(folder, **options), "train_dataset": dataset() if data is None else data}
    if cls is not None:
        return cls(**arguments)
    fair = FairGRPOAdvantage(2, num_domains=2) if fair is None else fair
    return FairGRPOTrainer(**arguments, fair=fair, **({"domain_column": "domain"} if columns is None else columns))


def record(instance):
    """Keep each generation batch's rewards and rows, TRL's own advantages, ours, and what reaches the loss."""
    seen = SimpleNamespace(rewards=[], rows=[], plain=[], fair=[], used=[], modes=[])
    calculate = instance._calculate_rewards
    score, loss = instance._generate_and_score_completions, instance._compute_loss
    inner = super(FairGRPOMixin, instance)._generate_and_score_completions

    def calculate_rewards(inputs, *rest):
        seen.rewards.append(calculate(inputs, *rest))
        seen.rows.append([x["row"] for x in inputs])
        return seen.rewards[-1]

    def base(inputs):
        output = inner(inputs)
        seen.plain.append(output["advantages"].clone())
        return output

    def generate_and_score(inputs):
        output = score(inputs)
        seen.fair.append(output["advantages"].clone())
        seen.modes.append(instance.model.training)
        return output

    def compute_loss(model, inputs):
        seen.used.append(inputs["advantages"].clone())
        return loss(model, inputs)

    instance._calculate_rewards, instance._compute_loss = calculate_rewards, compute_loss
    instance._generate_and_score_completions = generate_and_score
    parent = type(instance).__mro__[2]
    instance.__class__ = type("Recorded", (FairGRPOMixin, type("Base", (parent,), {})), {})
    instance.__class__.__mro__[2]._generate_and_score_completions = lambda self, inputs: base(inputs)
    return seen


def expected_advantages(plain, rewards, rows, fair, data, size=4, unscaled=False):
    """TRL's advantages times the weights that the module gives the same rewards, over the run's deviation unless unscaled."""
    rewards = torch.where(torch.isnan(rewards[:, 0]), torch.nan, rewards[:, 0]).view(-1, size)
    first = rows[::size]
    groups, domains = (torch.tensor([data[i][name] for i in first]) for name in ("group", "domain"))
    scores = torch.where(rewards.isnan(), torch.nan, plain.view(-1, size))
    # TRL's rounding noise is no signal.
    equal = ~(rewards.nan_to_num(-9).amax(1) > rewards.nan_to_num(9).amin(1))
    found, weights = fair.weigh_scores(
        rewards, groups, domains, scores=torch.where(equal.unsqueeze(1), scores * 0, scores)
    )
    return (plain * weights.repeat_interleave(size) if unscaled else found.flatten()), weights


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_iterations": 2, "max_steps": 4},
        {"gradient_accumulation_steps": 1, "steps_per_generation": 2, "max_steps": 4},
        {"scale_rewards": "none"},
        {"scale_rewards": "batch", "loss_type": "sapo"},
        {"multi_objective_aggregation": "normalize_then_sum"},
    ],
)
def test_advantages_are_trls_times_the_fair_weights(tmp_path, options):
    instance = trainer(tmp_path, max_steps=options.pop("max_steps", 3), **options)
    seen, data = record(instance), dataset()
    instance.train()
    assert len(seen.fair) >= 2
    alone, spread, unscaled = FairGRPOAdvantage(2, num_domains=2), [], instance.scale_rewards == "none"
    for plain, fair, rewards, rows in zip(seen.plain, seen.fair, seen.rewards, seen.rows, strict=True):
        wanted, weights = expected_advantages(plain, rewards, rows, alone, data, unscaled=unscaled)
        torch.testing.assert_close(fair, wanted)
        spread.append(float(weights.max() - weights.min()))
    assert max(spread) > 0.1
    # Once a generation batch, whatever the accumulation and the iterations.
    assert torch.equal(instance.fair.history.totals()[:5], alone.history.totals()[:5])
    torch.testing.assert_close(instance.fair.history.totals(), alone.history.totals(), rtol=1e-5, atol=0)
    # Both of TRL's loss paths, the fused one included, read the advantages that reach the loss here.
    fed = torch.cat(seen.used).sort().values
    repeats = len(fed) // sum(map(len, seen.fair))
    made = torch.cat(seen.fair).repeat(repeats).sort().values
    torch.testing.assert_close(fed, made)
    assert repeats == instance.num_iterations


def test_logs_hold_each_groups_reward_and_weight_and_the_advantages_in_use(tmp_path):
    columns = {"domain_column": "domain", "group_names": ["young", "old"]}
    instance = trainer(tmp_path, columns=columns, max_steps=6)  # every prompt once
    seen = record(instance)
    instance.train()
    logged = {key for line in instance.state.log_history for key in line}
    for name in ("domain_0/young", "domain_0/old", "domain_1/old", "domain_1/group_unknown"):
        assert f"fair/weight/{name}" in logged
        assert f"fair/reward/{name}" in logged
    last = list(instance._logs["advantages"])[-len(seen.fair[-1]) :]
    assert last == seen.fair[-1].tolist()
    assert last != seen.plain[-1].tolist()


def test_powers_zero_train_as_plain_trl(tmp_path):
    from trl import GRPOTrainer

    plain = trainer(tmp_path / "plain", cls=GRPOTrainer)
    plain.train()
    fair = trainer(
        tmp_path / "fair", FairGRPOAdvantage(2, num_domains=2, size_power=0, reward_power=0, batch_normalize=False)
    )
    fair.train()
    for a, b in zip(plain.model.parameters(), fair.model.parameters(), strict=True):
        assert torch.equal(a, b)
    other = trainer(tmp_path / "other")
    other.train()
    assert any(not torch.equal(a, b) for a, b in zip(plain.model.parameters(), other.model.parameters(), strict=True))


def test_evaluation_is_weighted_and_not_remembered(tmp_path):
    instance = trainer(tmp_path)
    instance.eval_dataset = dataset(4)
    instance.train()
    before = instance.fair.history.totals()
    seen = record(instance)
    metrics = instance.evaluate()
    assert seen.modes
    assert not any(seen.modes)
    assert torch.equal(instance.fair.history.totals(), before)
    assert any(key.startswith("eval_fair/weight/") for key in metrics | instance.state.log_history[-1])


def test_a_checkpoint_resumes_the_history(tmp_path):
    through = trainer(tmp_path / "through", max_steps=4)
    through.train()
    trainer(tmp_path / "half", max_steps=4, save_strategy="steps", save_steps=2).train()
    folder = tmp_path / "half" / "checkpoint-2"
    assert (folder / STATE_FILE).exists()
    resumed = trainer(tmp_path / "half", max_steps=4)
    totals = []
    step = resumed._generate_and_score_completions

    def watch(inputs):
        totals.append(resumed.fair.history.totals()[0].sum().item())
        return step(inputs)

    resumed._generate_and_score_completions = watch
    resumed.train(resume_from_checkpoint=str(folder))
    assert totals[0] > 0
    assert torch.equal(resumed.fair.history.totals(), through.fair.history.totals())
    for a, b in zip(through.model.parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    other = {"domain_column": "domain", "group_names": ["old", "young"]}
    with pytest.raises(ValueError, match=r"fair_grpo.safetensors: expected this run's groups .*old.*young"):
        trainer(tmp_path / "half", columns=other, max_steps=4).train(resume_from_checkpoint=str(folder))
    (folder / STATE_FILE).unlink()
    with pytest.warns(UserWarning, match="starts anew"):
        trainer(tmp_path / "half", max_steps=4).train(resume_from_checkpoint=str(folder))


def test_discovered_groups_and_group_dro(tmp_path):
    unknown = dataset(group=[None] * 12)
    for fair in (
        FairGRPOAdvantage(2, discover_groups="kmeans"),
        FairGRPOAdvantage(2, discover_groups="kmeans", variant="paper"),
    ):
        instance = trainer(tmp_path, fair, data=unknown, columns={}, max_steps=2)
        instance.train()
        assert int(instance.fair.discovery.seen.sum()) == instance.fair.history.totals()[0].sum()
    dro = trainer(tmp_path, GroupDROAdvantage(2, step_size=1.0), columns={}, max_steps=2)
    dro.train()
    assert dro.fair.log_q.abs().max() > 0


def two_step(rank, folder):
    instance = trainer(folder, max_steps=2, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    assert instance.accelerator.num_processes == 2
    seen = record(instance)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        instance.train()
    return (
        seen.plain,
        seen.fair,
        seen.rewards,
        seen.rows,
        instance.fair.state_dict(),
        list(instance._logs["advantages"]),
    )


@pytest.mark.processes
def test_two_processes_share_statistics_and_history(tmp_path):
    # Two completions a device and step: each prompt's four completions lie on both processes.
    first, second = two_processes(two_step, tmp_path, str(tmp_path))
    data, alone = dataset(), FairGRPOAdvantage(2, num_domains=2)
    for step in range(len(first[0])):
        plain, fair = (torch.cat([first[k][step], second[k][step]]) for k in (0, 1))
        assert torch.equal(first[2][step].nan_to_num(-1), second[2][step].nan_to_num(-1))
        wanted, _ = expected_advantages(plain, first[2][step], first[3][step] + second[3][step], alone, data)
        torch.testing.assert_close(fair, wanted)
    for name in alone.state_dict():
        assert torch.equal(first[4][name], second[4][name])
    of_ranks = FairGRPOAdvantage(2, num_domains=2)
    of_ranks.load_state_dict(first[4])
    assert torch.equal(of_ranks.history.totals()[:5], alone.history.totals()[:5])
    torch.testing.assert_close(of_ranks.history.totals(), alone.history.totals(), rtol=1e-5, atol=0)
    assert first[5][-len(fair) :] == fair.tolist()


def test_missing_and_dropped_columns_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"train_dataset: .*'sex', got 'prompt', 'group', 'domain'.*group_column"):
        trainer(tmp_path, columns={"group_column": "sex"})
    with pytest.raises(ValueError, match="args: .*remove_unused_columns=False.*drops 'group', 'domain'"):
        trainer(tmp_path, remove_unused_columns=True)
    from datasets import IterableDataset

    lacking = IterableDataset.from_generator(lambda: iter(dataset().remove_columns("group")))
    stream = trainer(tmp_path, data=lacking, columns={})  # which does not know its columns
    with pytest.raises(ValueError, match="inputs: .*'group', got .*remove_unused_columns"):
        stream.train()


def test_trainers_that_do_not_fit_are_refused(tmp_path):
    from trl import GRPOTrainer

    with pytest.raises(
        ImportError, match=r"_calculate_rewards is missing.*trl .* is installed, FairGRPOMixin was made for"
    ):
        type("Wrong", (FairGRPOMixin, object), {})(fair=FairGRPOAdvantage(2))

    class Changed(GRPOTrainer):
        def _calculate_rewards(self, inputs, completions):
            raise AssertionError

    with pytest.raises(ImportError, match="_calculate_rewards takes"):
        trainer(tmp_path, cls=lambda **k: type("Wrong", (FairGRPOMixin, Changed), {})(**k, fair=FairGRPOAdvantage(2)))

    class Silent(GRPOTrainer):
        def _generate_and_score_completions(self, inputs):
            return {"advantages": torch.zeros(len(inputs))}

    silent = trainer(
        tmp_path, cls=lambda **k: type("Wrong", (FairGRPOMixin, Silent), {})(**k, fair=FairGRPOAdvantage(2))
    )
    with pytest.raises(RuntimeError, match="scores completions in another way"):
        silent.train()


def test_a_process_group_is_refused(tmp_path):
    fair = FairGRPOAdvantage(2)
    fair.process_group = object()
    with pytest.raises(ValueError, match="fair: .*without process_group"):
        trainer(tmp_path, fair)


def test_without_trl_the_extra_is_named(monkeypatch):
    import fairloss.integrations.trl as module

    monkeypatch.delitem(vars(module), "FairGRPOTrainer", raising=False)
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(ImportError, match=r"fairloss\[trl\]"):
        _ = module.FairGRPOTrainer
    with pytest.raises(AttributeError, match="no attribute 'Trainer'"):
        _ = module.Trainer


def test_the_model_card_can_be_written(tmp_path):
    instance = trainer(tmp_path, save_strategy="steps", save_steps=2)
    instance.train()
    assert json.loads((tmp_path / "checkpoint-2" / "trainer_state.json").read_text())["global_step"] == 2

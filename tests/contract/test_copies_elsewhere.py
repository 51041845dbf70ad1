"""State in other hands: process groups in copies, spawned processes, distributed checkpoints, from_pretrained, closures."""

from __future__ import annotations

import contextlib
import copy
import io
import warnings

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import fairloss
from fairloss.core.state import StatefulModule
from tests.contract.case import all_cases
from tests.two_processes import two_processes

VALUES, IDS = torch.tensor([1.0, 3.0, 0.5]), torch.tensor([0, 1, 0])


def copies_of_every_loss(rank: int) -> list[str]:
    """Names of the cases whose copies lost their process group or gave another value."""
    alone = dist.new_group([0])
    wrong = []
    for group in (dist.group.WORLD, *([alone] if rank == 0 else [])):
        for case in all_cases():
            module = case.make(process_group=group)
            if not hasattr(module, "process_group"):
                continue
            buffer = io.BytesIO()
            torch.save(module, buffer)
            buffer.seek(0)
            averaged = torch.optim.swa_utils.AveragedModel(torch.nn.Sequential(torch.nn.Linear(1, 1), module))
            made = [copy.deepcopy(module), torch.load(buffer, weights_only=False), averaged.module[1]]
            if any(m.process_group is not group for m in made):
                wrong.append(case.name)
    return wrong


@pytest.mark.processes
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_copies_keep_their_process_group(tmp_path):
    assert two_processes(copies_of_every_loss, tmp_path) == [[], []]


def saved_loss(rank: int, folder: str) -> None:
    torch.save(fairloss.GroupDROLoss(2, process_group=dist.group.WORLD), f"{folder}/loss{rank}.pt")


@pytest.mark.processes
def test_a_process_without_the_group_drops_it_with_a_warning(tmp_path):
    two_processes(saved_loss, tmp_path, str(tmp_path))
    with pytest.warns(UserWarning, match="GroupDROLoss: its process group does not exist in this process"):
        loss = torch.load(tmp_path / "loss1.pt", weights_only=False)
    assert loss.process_group is None
    assert torch.isfinite(loss(VALUES, IDS))


def train(rank: int, module: torch.nn.Module, folder: str) -> None:
    torch.set_num_threads(1)
    for _ in range(rank + 1):
        module(VALUES, IDS)
    torch.save([m.seen.sum() for m in module.modules() if isinstance(m, StatefulModule)], f"{folder}/seen{rank}.pt")


@pytest.mark.processes
@pytest.mark.parametrize(
    "module",
    [fairloss.GroupDROLoss(2), fairloss.FISLoss(2, memory=fairloss.GroupMemory(2, capacity=9))],
    ids=["dro", "memory"],
)
def test_spawned_processes_share_no_state(module, tmp_path):
    """ddp_spawn on the CPU: tensors sent to the ranks lie in shared memory."""
    mp.spawn(train, args=(module, str(tmp_path)), nprocs=2)
    seen = [torch.load(tmp_path / f"seen{rank}.pt")[0].item() for rank in range(2)]
    assert seen == pytest.approx([3, 6], rel=1e-2)
    assert all((m.seen == 0).all() for m in module.modules() if isinstance(m, StatefulModule))


@pytest.mark.parametrize("case", [c for c in all_cases() if c.make().state_dict()], ids=lambda c: c.name)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_distributed_checkpoints(case, tmp_path):
    import torch.distributed.checkpoint as dcp

    module, other = case.make(), case.make()
    for step in range(3):
        module(**case.draw(step, 9))
    dcp.save({"criterion": module.state_dict()}, checkpoint_id=str(tmp_path))
    state = {"criterion": other.state_dict()}
    dcp.load(state, checkpoint_id=str(tmp_path))
    other.load_state_dict(state["criterion"])
    assert torch.equal(module(**case.draw(9, 9)), other(**case.draw(9, 9)))


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_a_distributed_checkpoint_of_a_state_that_grew(tmp_path):
    """dcp.load refuses it by its size; converted, it loads."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    from fairloss.policy import FairGRPOAdvantage

    def make():
        return FairGRPOAdvantage(2, discover_groups="kmeans", variant="released")

    fair, other = make(), make()
    for _ in range(3):
        fair((torch.rand(6, 4) < 0.5).float(), torch.tensor([0, 1, -1, -1, 0, -1]))
    folder = tmp_path / "checkpoint"
    dcp.save({"fair": fair.state_dict()}, checkpoint_id=str(folder))
    with pytest.raises(dcp.api.CheckpointException, match="Size mismatch"):
        dcp.load({"fair": other.state_dict()}, checkpoint_id=str(folder))
    dcp_to_torch_save(str(folder), str(tmp_path / "state.pt"))
    other.load_state_dict(torch.load(tmp_path / "state.pt")["fair"])
    assert torch.equal(other.discovery.vectors, fair.discovery.vectors)
    assert len(other.discovery.vectors) == 9


@pytest.mark.frameworks
def test_a_criterion_inside_a_pretrained_model(tmp_path):
    """from_pretrained makes the model on meta."""
    transformers = pytest.importorskip("transformers")

    class Config(transformers.PretrainedConfig):
        model_type = "with-criterion"

    class Model(transformers.PreTrainedModel):
        config_class = Config

        def __init__(self, config: Config) -> None:
            super().__init__(config)
            self.head = torch.nn.Linear(2, 1)
            self.dro = fairloss.GroupDROLoss(3, group_counts=[80, 12, 8], adjustment=0.5)
            memory = fairloss.GroupMemory(2, capacity=5)
            self.gap = fairloss.FairCrossEntropyLoss(2, gap_weight=1.0, group_counts=[3, 1], memory=memory)
            self.post_init()

        def forward(self, x, y, groups):
            logits = self.head(x).squeeze(1)
            each = torch.nn.functional.binary_cross_entropy_with_logits(logits, y.float(), reduction="none")
            return self.dro(each, groups) + self.gap(logits, y, groups)

    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(4, 2, generator=generator), torch.tensor([0, 1, 1, 0]), torch.tensor([0, 1, 0, 1])
    model = Model(Config())
    for _ in range(3):
        model.train()(*batch)
    model.save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = Model.from_pretrained(tmp_path)
    for tensor in (other.dro.log_q, other.dro.adjustments, other.gap.memory.values, other.gap.group_weights):
        assert tensor.device.type == "cpu"
    assert torch.equal(other.dro.log_q, model.dro.log_q)
    assert torch.equal(other.gap.memory.values, model.gap.memory.values)
    assert torch.equal(other.train()(*batch), model.train()(*batch))


def closure_steps(counts_once: bool) -> fairloss.GroupDROLoss:
    torch.manual_seed(0)
    model, criterion = torch.nn.Linear(2, 1), fairloss.GroupDROLoss(2)
    x, y, groups = torch.randn(4, 2), torch.randn(4), torch.tensor([0, 1, 0, 0])
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=20)

    def loss():
        return criterion((model(x).squeeze(1) - y).square(), groups)

    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    first = loss().item()
    for _ in range(3):
        if counts_once:
            loss()
            with fairloss.frozen(criterion):
                optimizer.step(closure)
        else:
            optimizer.step(closure)
    assert loss().item() < first
    return criterion


def test_the_closure_of_lbfgs_counts_once_inside_frozen():
    """Three steps of four samples, and one call before and after: 20 seen; 240 where every evaluation counts."""
    assert closure_steps(True).seen.sum().item() == pytest.approx(20, rel=0.01)
    assert closure_steps(False).seen.sum().item() > 60


@pytest.mark.parametrize("counts_once", [True, False])
def test_the_second_pass_of_sam_reads_the_state_inside_frozen(counts_once):
    """Sharpness-aware minimization by hand: the ascent counts, the pass at the weights it leads to does not."""
    torch.manual_seed(0)
    model, criterion, ascents = torch.nn.Linear(2, 1), fairloss.GroupDROLoss(2), fairloss.GroupDROLoss(2)
    x, y, groups = torch.randn(4, 2), torch.randn(4), torch.tensor([0, 1, 0, 0])
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def each():
        return (model(x).squeeze(1) - y).square()

    for _ in range(5):
        ascents(each().detach(), groups)
        criterion(each(), groups).backward()
        with torch.no_grad():
            norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
            moves = [0.05 * p.grad / norm for p in model.parameters()]
            for p, move in zip(model.parameters(), moves, strict=True):
                p.add_(move)
        optimizer.zero_grad()
        with fairloss.frozen(criterion) if counts_once else contextlib.nullcontext():
            criterion(each(), groups).backward()
        with torch.no_grad():
            for p, move in zip(model.parameters(), moves, strict=True):
                p.sub_(move)
        optimizer.step()
        optimizer.zero_grad()
    assert torch.equal(criterion.log_q, ascents.log_q) == counts_once
    assert criterion.seen.sum().item() == pytest.approx(20 if counts_once else 40, rel=0.01)


def test_a_second_run_starts_anew_after_reset():
    """setfit's model_init, or train() called twice: the criterion kept what it had seen, 16 then 32 samples."""
    criterion = fairloss.FairCrossEntropyLoss(2, gap_weight=1.0, memory=fairloss.GroupMemory(2, capacity=64))
    batch = torch.randn(16, 2), torch.randint(0, 2, (16,)), torch.arange(16) % 2
    first = criterion(*batch)
    criterion(*batch)
    criterion.reset()
    assert criterion.memory.seen.sum() == 0
    assert torch.equal(criterion(*batch), first)
    assert criterion.memory.seen.sum() == 16


def fully_sharded_from_meta(rank: int) -> list[float]:
    """Differences between a model made on meta and sharded over two ranks, its criterion inside, and one process."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    class Model(torch.nn.Module):
        def __init__(self, process_group) -> None:
            super().__init__()
            self.head = torch.nn.Linear(3, 1, dtype=torch.float64)
            self.dro = fairloss.GroupDROLoss(
                2, step_size=0.5, group_counts=[3, 1], adjustment=0.5, process_group=process_group
            )

        def forward(self, x, y, groups):
            return self.dro((self.head(x).squeeze(1) - y).square(), groups)

    whole = Model(None)
    with torch.no_grad():
        whole.head.weight.copy_(torch.tensor([[0.5, -0.25, 1.0]]))
        whole.head.bias.fill_(0.1)
    with torch.device("meta"):
        model = Model(dist.group.WORLD)
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    model.to_empty(device="cpu")
    for own, p in zip(model.head.parameters(), whole.head.parameters(), strict=True):
        own.data.copy_(torch.distributed.tensor.distribute_tensor(p.detach(), own.device_mesh, own.placements))
    generator = torch.Generator().manual_seed(0)
    own, worst = slice(4 * rank, 4 * rank + 4), []
    for _ in range(3):
        x, y = torch.randn(8, 3, generator=generator).double(), torch.randn(8, generator=generator).double()
        groups = torch.randint(-1, 2, (8,), generator=generator)
        model.zero_grad()
        whole.zero_grad()
        value, expected = model(x[own], y[own], groups[own]), whole(x, y, groups)
        value.backward()
        expected.backward()
        worst += [abs(value.item() - expected.item()), (model.dro.q - whole.dro.q).abs().max().item()]
        for p, q in zip(model.parameters(), whole.parameters(), strict=True):
            worst.append((p.grad.full_tensor() - q.grad).abs().max().item())
    return worst


@pytest.mark.processes
def test_a_sharded_model_made_on_meta(tmp_path):
    for worst in two_processes(fully_sharded_from_meta, tmp_path):
        assert max(worst) < 1e-12

"""The contract over every loss: see ``tests/contract/case.py``."""

from __future__ import annotations

import copy
import io
import math
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

import fairloss
from fairloss import functional as ff
from tests.contract.case import Case, all_cases, gradients, to_numpy

CASES = all_cases()
each_case = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)


def fresh(case: Case, **kwargs):
    return case.make(**kwargs)


def value_and_gradients(case, module, batch, grad_output=1.0):
    value = module(**batch)
    return value, gradients(value, batch, case, grad_output)


@each_case
def test_equals_its_oracle(case):
    if case.oracle is None:
        pytest.skip(case.notes)
    for seed, n in enumerate((*case.sizes, 2, 12, 30)):
        batch = case.draw(seed, n)
        assert fresh(case)(**batch).item() == pytest.approx(case.oracle(**to_numpy(batch)), rel=1e-11, abs=1e-12), (
            seed,
            n,
        )


@each_case
def test_gradient(case):
    batch = case.draw(3, 9)
    if case.oracle_gradient is not None:
        _, (grad, *_) = value_and_gradients(case, fresh(case), batch)
        expected = torch.as_tensor(case.oracle_gradient(**to_numpy(batch)))
        torch.testing.assert_close(grad, expected.reshape(grad.shape), rtol=1e-10, atol=1e-13)
        assert grad.abs().sum() > 0
        return
    names = case.differentiable

    def value(*tensors):
        return fresh(case)(**{**batch, **dict(zip(names, tensors, strict=True))})

    assert torch.autograd.gradcheck(value, tuple(batch[name] for name in names), eps=1e-6, atol=1e-7)
    assert any(g.abs().sum() > 0 for g in value_and_gradients(case, fresh(case), batch)[1])


@each_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_narrow_dtypes_against_float64(case, dtype):
    """Inputs are rounded first, so what is left is the arithmetic; gradients come back in the input's own dtype."""
    batch = case.draw(4, 12, dtype)
    # Both see the rounded numbers.
    exact = {k: v.detach().double() if v.dtype.is_floating_point else v for k, v in batch.items()}
    for name in case.differentiable:
        exact[name].requires_grad_()
    value, grads = value_and_gradients(case, fresh(case), batch)
    expected, expected_grads = value_and_gradients(case, fresh(case), exact)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected.item(), rel=case.half, abs=case.half)
    step = {torch.float32: 1e-5, torch.bfloat16: 2**-8, torch.float16: 2**-10}[dtype]
    for grad, wide in zip(grads, expected_grads, strict=True):
        assert grad.dtype == dtype
        scale = float(wide.abs().max())
        assert float((grad.double() - wide).abs().max()) <= 2 * step * scale + 1e-7


@each_case
def test_module_equals_function(case):
    if case.function is None:
        pytest.skip("the module keeps state that the function takes as an argument; tested on its own")
    batch = case.draw(5, 11)
    assert torch.equal(fresh(case)(**batch), case.function(**batch))


@each_case
def test_order_of_the_samples_does_not_matter(case):
    if not case.permute:
        pytest.skip(case.notes)
    batch = case.draw(6, 11, grad=False)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(0))
    permuted = {k: v[order] if v.ndim and v.shape[0] == 11 else v for k, v in batch.items()}
    torch.testing.assert_close(fresh(case)(**permuted), fresh(case)(**batch), rtol=1e-11, atol=1e-13)


@each_case
def test_names_of_the_groups_do_not_matter(case):
    if not case.relabel:
        pytest.skip("the arguments name the groups")
    batch = case.draw(7, 11, grad=False)
    renamed = torch.tensor([2, 0, 1, -1])[batch["groups"]]
    torch.testing.assert_close(
        fresh(case)(**{**batch, "groups": renamed}), fresh(case)(**batch), rtol=1e-11, atol=1e-13
    )


@each_case
def test_an_unused_id_changes_nothing(case):
    if "unused id" in case.notes:
        pytest.skip(case.notes)
    for n in (9, 3):
        batch = case.draw(8, n)
        value, grads = value_and_gradients(case, fresh(case), batch)
        wider, wider_grads = value_and_gradients(case, fresh(case, num_groups=4), batch)
        torch.testing.assert_close(wider, value, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(wider_grads, grads, rtol=1e-12, atol=1e-14)


class HostCopies(TorchDispatchMode):
    """Counts tensors made of Python numbers: on a GPU each is a copy that waits for the device and breaks CUDA graphs."""

    made = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.made += func is torch.ops.aten.lift_fresh.default
        return func(*args, **(kwargs or {}))


@each_case
def test_nothing_is_copied_from_the_host(case):
    """What ``tests/gpu`` asserts on the device itself, for machines without one."""
    module, batch = fresh(case), case.draw(13, 9)
    module(**batch)
    with HostCopies() as copies:
        value_and_gradients(case, module, batch)
    assert copies.made == 0


def with_groups(batch, ids):
    groups = torch.tensor(ids)
    if batch["groups"].ndim == 2:
        groups = groups.clamp(max=1).unsqueeze(1).expand(-1, batch["groups"].shape[1])
    return {**batch, "groups": groups}


@each_case
@pytest.mark.parametrize(
    ("ids", "few"),
    [
        ([0, 0, 1, 1, 1, -1], False),
        ([0, 1, 2, -1, -1, -1], False),
        ([-1] * 6, True),
        ([1] * 6, True),
        ([1, -1, 1, -1, 1, -1], True),
        ([0, -1, -1, -1, -1, -1], True),
    ],
    ids=["absent", "singletons", "all_unknown", "one_group", "one_group_and_unknown", "one_known"],
)
def test_degenerate_groups(case, ids, few):
    batch = with_groups(case.draw(9, 6), ids)
    value, grads = value_and_gradients(case, fresh(case), batch)
    assert math.isfinite(value.item())
    assert all(torch.isfinite(g).all() for g in grads)
    if few and case.zero_without_two_groups:
        assert value.item() == 0
        assert all((g == 0).all() for g in grads)


@each_case
def test_an_empty_batch_is_finite(case):
    batch = case.draw(10, 0)
    value, grads = value_and_gradients(case, fresh(case), batch)
    assert value.item() == 0
    assert all(g.shape[0] == 0 for g in grads)


@each_case
def test_strides_inputs_and_scale_of_the_gradient(case):
    batch = case.draw(11, 9)
    before = {k: v.detach().clone() for k, v in batch.items()}
    value, grads = value_and_gradients(case, fresh(case), batch)
    for name, tensor in batch.items():
        # Bytes: missing labels are NaN.
        same = torch.equal(tensor.detach().contiguous().view(torch.uint8), before[name].view(torch.uint8))
        assert same, f"{name} was modified"
    # Every second row of a tensor twice as long: same numbers, other strides.
    strided = {k: torch.stack([v.detach()] * 2, 1).flatten(0, 1)[::2] if v.ndim else v for k, v in batch.items()}
    for name in case.differentiable:
        strided[name].requires_grad_()
    other, other_grads = value_and_gradients(case, fresh(case), strided, grad_output=2.0)
    torch.testing.assert_close(other, value, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(other_grads, [2 * g for g in grads], rtol=1e-12, atol=1e-14)


@each_case
def test_extreme_logits(case):
    if not case.logits:
        pytest.skip("takes no logits")
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        batch = case.draw(12, 9, dtype)
        name = case.differentiable[0]
        batch[name] = (batch[name].detach().sign() * 1e4).requires_grad_()
        value, grads = value_and_gradients(case, fresh(case), batch)
        assert math.isfinite(value.item())
        assert all(torch.isfinite(g).all() for g in grads)


def trained(case, steps=3):
    module = fresh(case)
    for step in range(steps):
        module(**case.draw(20 + step, 9))
    return module


@each_case
def test_copies_and_saved_state(case, tmp_path):
    module, batch = trained(case), case.draw(30, 9)
    states = [
        copy.deepcopy(module),
        pickle.loads(pickle.dumps(module)),
        fresh(case),
        fresh(case),
        fresh(case),
    ]
    states[2].load_state_dict(module.state_dict())
    if module.state_dict():
        save_file(module.state_dict(), tmp_path / "state.safetensors")
        states[3].load_state_dict(load_file(tmp_path / "state.safetensors"))
    else:
        states.pop(3)
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    buffer.seek(0)
    states[-1].load_state_dict(torch.load(buffer))
    expected = [module(**batch) for _ in range(2)]
    for other in states:
        assert all(torch.equal(other(**batch), value) for value in expected)
        for name, tensor in module.state_dict().items():
            assert torch.equal(other.state_dict()[name], tensor), name


@each_case
def test_casts_of_the_module_change_nothing(case):
    module, batch = trained(case), case.draw(31, 9)
    cast = copy.deepcopy(module).bfloat16().to("cpu").half()
    for name, tensor in module.state_dict().items():
        assert torch.equal(cast.state_dict()[name], tensor) or not name.endswith("extra_state"), name
    if not list(module.parameters()):
        torch.testing.assert_close(cast.float()(**batch), module(**batch), rtol=5e-3, atol=5e-3)


@each_case
def test_state_moves_in_training_with_gradients_alone(case):
    module = trained(case)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    module.eval()
    module(**case.draw(32, 9))
    module.train()
    with torch.no_grad():
        module(**case.draw(33, 9))
    assert all(torch.equal(module.state_dict()[k], v) for k, v in before.items())


@each_case
def test_bad_groups_are_named_and_change_nothing(case):
    module, batch = trained(case), case.draw(34, 6)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    groups = batch["groups"]
    bad = [
        groups.double(),
        groups[:-1],
        torch.full_like(groups, 7),
        torch.full_like(groups, -2),
        groups.unsqueeze(0).unsqueeze(0),
        groups.tolist(),
    ]
    for ids in bad:
        with pytest.raises((ValueError, TypeError), match="groups"):
            module(**{**batch, "groups": ids})
    assert all(torch.equal(module.state_dict()[k], v) for k, v in before.items())


@each_case
def test_bool_and_narrow_ids(case):
    batch = with_groups(case.draw(35, 6), [0, 1, 1, 0, 1, 0])
    value = fresh(case)(**batch)
    for dtype in (torch.int32, torch.int8, torch.uint8, torch.bool):
        assert torch.equal(fresh(case)(**{**batch, "groups": batch["groups"].to(dtype)}), value)


@each_case
def test_autocast_keeps_statistics_wide(case):
    batch = case.draw(36, 9, torch.bfloat16)
    expected = fresh(case)(**batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = fresh(case)(**batch)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)


def test_half_precision_in_statistics():
    """3.4e38 into float16 in pytorch-metric-learning; Sinkhorn libraries call themselves unfit for mixed precision."""
    losses = torch.tensor([300.0, 310.0, 290.0, 305.0])
    ids = torch.tensor([0, 0, 1, 1])
    wide = ff.transport_distances(losses.double(), ids, num_groups=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = ff.transport_distances(losses.half(), ids, num_groups=2)
    torch.testing.assert_close(narrow.double(), wide, rtol=1e-6, atol=1e-6)
    z = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).half() * 1e4
    loss = fairloss.CrossGroupContrastiveLoss(margin=-2.0)
    assert torch.isfinite(loss(z, torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0, 1, 0, 1, 0, 1])))

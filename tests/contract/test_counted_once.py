"""State moves once per step: activation checkpointing in every form, forwards for a log between, two calls, closures."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import fairloss
from fairloss.core.state import StatefulModule
from tests.contract.case import all_cases, gradients

CASES = all_cases()


def stateful(module):
    return [m for m in module.modules() if isinstance(m, StatefulModule)]


REMEMBERING = [case for case in CASES if stateful(case.make())]
each_case = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
each_state = pytest.mark.parametrize("case", REMEMBERING, ids=lambda c: c.name)


def states(module):
    return [getattr(m, name).clone() for m in stateful(module) for name in m._state_names if name != "_fresh"]


def checkpointed(case, function, reentrant):
    """``function(**batch)`` under activation checkpointing, of which the differentiable arguments are the tensors."""
    names = case.differentiable

    def call(**batch):
        rest = {k: v for k, v in batch.items() if k not in names}

        def of_tensors(*tensors):
            return function(**rest, **dict(zip(names, tensors, strict=True)))

        return checkpoint(of_tensors, *(batch[name] for name in names), use_reentrant=reentrant)

    return call


def run(case, module, call, *, log=None, sizes=(9, 4, 12, 30, 9)):
    """Values, gradients and state of a few steps, with forwards for a log between each forward and its backward."""
    record = []
    for step, n in enumerate(sizes):
        batch = case.draw(50 + step, n)
        value = call(**batch)
        if log is not None:
            with torch.no_grad():
                log(**batch)
            with torch.inference_mode():
                module(**batch)
            module.eval()
            log(**case.draw(90, 6))
            module.train()
        record += [value.detach(), *gradients_of(value, batch, case), *states(module)]
    return record


def gradients_of(value, batch, case):
    """Through ``backward``, as the reentrant form asks."""
    value.backward()
    return [
        torch.zeros_like(batch[name]) if batch[name].grad is None else batch[name].grad for name in case.differentiable
    ]


def equal(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


FORMS = {
    "plain": lambda case, f: f,
    "non_reentrant": lambda case, f: checkpointed(case, f, False),
    "reentrant": lambda case, f: checkpointed(case, f, True),
    "nested": lambda case, f: checkpointed(case, checkpointed(case, f, False), False),
    "non_reentrant_in_reentrant": lambda case, f: checkpointed(case, checkpointed(case, f, False), True),
    "reentrant_in_non_reentrant": lambda case, f: checkpointed(case, checkpointed(case, f, True), False),
    "nested_reentrant": lambda case, f: checkpointed(case, checkpointed(case, f, True), True),
}


@each_case
@pytest.mark.parametrize("form", FORMS)
def test_checkpointing_counts_once(case, form):
    module, other = case.make(), case.make()
    found = run(case, other, FORMS[form](case, other), log=other)
    equal(found, run(case, module, module))


def compiled_forms():
    found = []
    for case in REMEMBERING:
        for form in ("plain", "non_reentrant", "reentrant"):
            for where in ("inside", "outside"):
                fast = form == "non_reentrant" and case.name in ("group_dro-default", "max_acc_gap-memory")
                marks = () if fast else pytest.mark.slow
                found.append(pytest.param(case, form, where, id=f"{case.name}-{form}-{where}", marks=marks))
    return found


@pytest.mark.parametrize(("case", "form", "where"), compiled_forms())
def test_compiled_checkpointing_counts_once(case, form, where):
    torch._dynamo.reset()
    module, other = case.make(), case.make()

    def compiled(f):
        return torch.compile(f, backend="aot_eager", fullgraph=True, dynamic=True)

    if where == "inside":
        call = log = compiled(other)
        call = FORMS[form](case, call)
    else:
        call = log = compiled(FORMS[form](case, other))
    found = run(case, other, call, log=log)
    equal(found, run(case, module, module))


@each_state
@pytest.mark.parametrize("form", ["non_reentrant", "reentrant"])
@pytest.mark.parametrize("same", [False, True], ids=["other_data", "same_data"])
def test_two_calls_in_one_backward_pass_raise_or_are_right(case, form, same):
    """Two heads or deep supervision: which call a repeat repeats cannot be told."""
    module, other = case.make(), case.make()
    call = FORMS[form](case, other)
    seeds = (60, 60 if same else 61)
    pair, twin = ([case.draw(seed, 9) for seed in seeds] for _ in range(2))
    total, raised = call(**pair[0]) + call(**pair[1]), ""
    after = states(other)
    try:
        total.backward()
    except RuntimeError as error:
        raised = str(error)
    if raised:
        assert "one call per backward pass" in raised
        assert form == "reentrant" or equal_states(states(other), after)
        return
    (module(**twin[0]) + module(**twin[1])).backward()
    equal(*([b[name].grad for b in two for name in case.differentiable] for two in (pair, twin)))
    equal(states(other), states(module))


def equal_states(found, expected):
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@each_state
def test_a_backward_pass_that_failed_is_over(case):
    """Reentrant: the step that ran out of memory is tried again with less."""
    module, other = case.make(), case.make()
    call = FORMS["reentrant"](case, other)
    batch = case.draw(65, 9)
    value = call(**batch)
    for name in case.differentiable:
        batch[name].register_hook(lambda grad: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        value.backward()
    module(**case.draw(65, 9))  # its forward pass was run: that step counts
    batch, twin = case.draw(66, 4), case.draw(66, 4)
    call(**batch).backward()
    module(**twin).backward()
    equal([batch[k].grad for k in case.differentiable], [twin[k].grad for k in case.differentiable])
    equal(states(other), states(module))


@each_state
def test_calls_that_each_have_their_backward_pass_all_count(case):
    """Micro-batches: plain steps, then checkpointed ones, each with a backward pass of its own."""
    module, other = case.make(), case.make()
    for step in range(6):
        batch, twin = case.draw(70 + step, 9), case.draw(70 + step, 9)
        module(**twin).backward()
        (checkpointed(case, other, False) if step > 2 else other)(**batch).backward()
        equal([batch[k].grad for k in case.differentiable], [twin[k].grad for k in case.differentiable])
    equal(states(other), states(module))


@each_case
def test_frozen_modules_move_no_state_and_have_gradients(case):
    module, batch = case.make(), case.draw(80, 9)
    module(**case.draw(81, 9))
    before = {k: v.clone() for k, v in module.state_dict().items()}
    with fairloss.frozen(module):
        copied = copy.deepcopy(module)
        first, second = module(**batch), module(**batch)
        grads = gradients(first, batch, case)
        under = checkpointed(case, module, False)(**batch)
        under.backward()
    assert torch.equal(first, second)
    for name, grad in zip(case.differentiable, grads, strict=True):
        torch.testing.assert_close(batch[name].grad, grad)
    assert all(torch.equal(module.state_dict()[k], v) for k, v in before.items())
    assert not any(m._frozen for m in [*stateful(module), *stateful(copied)])


@each_state
def test_state_that_would_move_is_named_under_torch_func(case):
    module, batch = case.make(), case.draw(82, 9, grad=False)
    name = case.differentiable[0]
    rest = {k: v for k, v in batch.items() if k != name}
    before = states(module)
    with pytest.raises(RuntimeError, match=r"frozen\(module\)"):
        torch.func.grad(lambda x: module(**rest, **{name: x}))(batch[name])
    assert equal_states(states(module), before)


@each_case
def test_reset_is_a_fresh_module(case):
    module, fresh = case.make(), case.make()
    for step in range(3):
        module(**case.draw(20 + step, 9))
    module.reset()
    fresh.load_state_dict(module.state_dict() if "prefilled" in case.notes else fresh.state_dict())
    assert all(torch.equal(module.state_dict()[k], v) for k, v in fresh.state_dict().items())
    assert all((m.seen == 0).all() for m in stateful(module))
    for step in range(2):
        assert torch.equal(module(**case.draw(step, 9)), fresh(**case.draw(step, 9)))


@each_state
@pytest.mark.parametrize("form", ["plain", "non_reentrant"])
def test_a_run_saved_between_forward_and_backward_resumes_to_the_bit(case, form):
    module = case.make()
    for step in range(3):
        FORMS[form](case, module)(**case.draw(step, 9)).backward()
    batch = case.draw(3, 9)
    value = FORMS[form](case, module)(**batch)
    saved = {k: v.clone() for k, v in module.state_dict().items()}
    module.load_state_dict(saved)  # in the middle of the step: the repeat is still a repeat
    value.backward()
    other = case.make()
    other.load_state_dict(saved)
    for step in range(4, 7):
        found = [FORMS[form](case, m)(**case.draw(step, 9)) for m in (module, other)]
        for v in found:
            v.backward()
        assert torch.equal(*found)
    assert equal_states(states(module), states(other))


@each_case
def test_modules_made_on_meta_have_their_constants_and_take_saved_state(case):
    module = case.make()
    for step in range(2):
        module(**case.draw(step, 9))
    with torch.device("meta"):
        other = case.make()
    other.to_empty(device="cpu")
    other.load_state_dict(module.state_dict())
    for step in range(2, 4):
        assert torch.equal(other(**case.draw(step, 9)), module(**case.draw(step, 9)))

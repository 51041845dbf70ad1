"""What a step launches on a GPU: counted on meta tensors, with the opaque ops opened."""

from __future__ import annotations

import pytest
import torch

from fairloss import EmbeddingQueue, FEBSLoss
from fairloss.functional import cross_group_contrastive, sample_likelihood
from fairloss.ops.segments import segment_totals
from tests.ops.launches import Launches, count_step, kernels_counted, on_meta
from tests.ops.test_kernels import needs_triton


def tokens(shape, dtype):
    logits = torch.empty(shape, dtype=dtype, device="meta", requires_grad=True)
    target = torch.empty(shape[:-1], dtype=torch.int64, device="meta")
    return lambda: sample_likelihood(logits, target).prob.sum()


def febs(shape, **options):
    logits = torch.empty(shape, device="meta", requires_grad=True)
    target = torch.empty(shape[0], *shape[2:], dtype=torch.int64, device="meta")
    groups = torch.empty(shape[0], dtype=torch.int64, device="meta")
    criterion = FEBSLoss(3, num_classes=shape[1], **options)
    return lambda: criterion(logits, target, groups)


TOKENS = [((8, 512, 32_000), torch.bfloat16), ((8, 1024, 151_936), torch.bfloat16), ((512, 1000), torch.float16)]
VOLUMES = [(2, 14, 128, 128, 128), (32, 2, 512, 512), (4, 104, 64, 64, 64)]


@pytest.mark.parametrize(("shape", "dtype"), TOKENS, ids=str)
def test_the_likelihood_without_the_kernel(shape, dtype):
    count = count_step(tokens(shape, dtype))
    assert sum(count.values()) <= 200, count


@needs_triton
@pytest.mark.parametrize(("shape", "dtype"), TOKENS, ids=str)
def test_the_likelihood_with_the_kernel(shape, dtype, monkeypatch):
    with kernels_counted(monkeypatch) as kernels:
        count = count_step(tokens(shape, dtype))
    assert kernels == {"nll_forward_kernel": 1, "nll_backward_kernel": 1}
    assert sum(count.values()) + sum(kernels.values()) <= 20, count


@pytest.mark.parametrize("shape", VOLUMES, ids=str)
def test_segmentation_without_the_kernel(shape):
    count = count_step(febs(shape))
    assert sum(count.values()) <= (150 if shape[0] == 2 else 350), count  # some twenty for each block of 16 million


@pytest.mark.parametrize(
    "options",
    [{"activation": "sigmoid", "dice_weight": 0.5}, {"ignore_index": 1, "dice_weight": 0.5}, {"squared_pred": False}],
    ids=str,
)
def test_segmentation_in_its_other_forms_runs_off_the_cpu(options):
    count_step(febs((2, 3, 9, 9), **options))


@needs_triton
@pytest.mark.parametrize("shape", VOLUMES, ids=str)
def test_segmentation_with_the_kernel(shape, monkeypatch):
    with kernels_counted(monkeypatch) as kernels:
        count = count_step(febs(shape))
    assert kernels["dice_forward_kernel"] == kernels["dice_backward_kernel"] == 1
    assert sum(count.values()) + sum(kernels.values()) <= 60, count


@needs_triton
@pytest.mark.parametrize(("n", "held", "most"), [(512, 0, 24), (16_384, 0, 24), (512, 4096, 42)])
def test_the_contrastive_loss_prepares_its_rows_once(n, held, most, monkeypatch):
    rows = torch.empty(n, 64, dtype=torch.bfloat16, device="meta", requires_grad=True)
    labels = torch.empty(n, dtype=torch.int64, device="meta")
    queue = on_meta(EmbeddingQueue(held, dim=64)).eval() if held else None
    with kernels_counted(monkeypatch) as kernels:
        count = count_step(lambda: cross_group_contrastive(rows, labels, labels, memory=queue))
    expected = {"prepare_kernel": 2 if held else 1, "walk_kernel": 2, "join_kernel": 1, "backward_kernel": 2}
    assert kernels == {**expected, "project_kernel": 1}
    assert sum(count.values()) + sum(kernels.values()) <= most, count


@needs_triton
@pytest.mark.parametrize("columns", [1, 3_000_000])
def test_sums_by_group_are_one_walk_forward_and_one_launch_backward_whatever_the_columns(columns, monkeypatch):
    """Programs' rows are added afterwards. A grid's second and third axes end at 65,535, which the counting stub asserts."""
    values = torch.empty(10_000, columns, device="meta", requires_grad=True)
    slots, grad = torch.empty(10_000, dtype=torch.int64, device="meta"), torch.empty(4, columns, device="meta")
    with kernels_counted(monkeypatch) as kernels, Launches() as launches:
        torch.autograd.grad(segment_totals(values, slots, 4)[0], values, grad)
    assert kernels == {"segment_kernel": 1, "lookup_kernel": 1}
    assert launches.count == {"sum": 2}  # of sums and of counts


def test_the_count_is_that_of_torchs_own_cross_entropy():
    """log_softmax, nll_loss and their backward passes, and the fill of the first gradient; a mean divides inside."""
    logits = torch.empty(32, 2, device="meta", requires_grad=True)
    target = torch.empty(32, dtype=torch.int64, device="meta")
    count = count_step(lambda: torch.nn.functional.cross_entropy(logits, target))
    assert sum(count.values()) == 5, count

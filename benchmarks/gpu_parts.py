"""The parts of benchmarks/gpu.py: what is run, at which sizes, beside whom. The most important sizes of a part come first."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import fairloss
from benchmarks.gpu_measure import SMALL, Outputs, Rows, Variant, Work, milliseconds
from fairloss import functional as ff
from fairloss.groups.ids import GroupIds
from fairloss.ops import contrastive_triton, dice_sums, nll
from fairloss.ops.fair_grpo_setting import Setting
from fairloss.policy import rewards as policy_rewards
from fairloss.policy.weights import compute_advantages

COMPILES_S = 10.0
BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


def pick(full: Any, small: Any) -> Any:
    return small if SMALL else full


def rival(package: str, make: Callable[[], Callable[[], Outputs]]) -> Variant | str:
    """What ``make`` returns, or why there is none; it imports ``package``."""
    if importlib.util.find_spec(package) is None:
        return "not installed"
    try:
        return Variant(make())
    except Exception as error:  # a rival that needs what this machine lacks ends nobody's part
        return f"cannot be used here: {type(error).__name__}: {error}"[:300]


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled anew, so that one size's graph is not specialized by another's."""
    torch._dynamo.reset()
    return torch.compile(function)


def with_setting(module: Any, name: str, value: Any, step: Callable[[], Outputs]) -> Callable[[], Outputs]:
    """``step`` under another value of a module's constant."""

    def run() -> Outputs:
        before = getattr(module, name)
        setattr(module, name, value)
        try:
            return step()
        finally:
            setattr(module, name, before)

    return run


def ceilings(rows: Rows) -> None:
    """What the card itself does: copies, matrix products, launches."""
    n = pick(1 << 29, 1 << 10)
    pair = torch.randn(2, n, device="cuda")
    found = milliseconds(lambda: pair[0].copy_(pair[1]))
    rows.write(Work("copy", {"N": n}, FP32), "copy", **found, bytes_per_s=8 * n / found["ms"] * 1e3)
    side = pick(8192, 32)
    for dtype in (BF16, FP32):
        a, b = (torch.randn(side, side, device="cuda", dtype=dtype) for _ in range(2))
        found = milliseconds(lambda a=a, b=b: a @ b)
        rows.write(
            Work("product", {"N": side}, dtype),
            f"product {dtype}",
            **found,
            flops_per_s=2 * side**3 / found["ms"] * 1e3,
        )
    one = torch.zeros(1, device="cuda")
    found = milliseconds(lambda: [one.add_(1) for _ in range(100)])
    rows.write(Work("launch", {"launches": 100}, FP32), "launch", **found, us_per_launch=10 * found["ms"])


def likelihood(rows: Rows) -> None:
    """Cross-entropy of tokens and of classes: kernel, blocks, torch, Liger, the whole criterion."""
    long, short = pick((8, 1024, 151_936), (2, 4, 300)), pick((8, 512, 32_000), (2, 3, 100))
    sizes = [(long, BF16, 0.0), (short, BF16, 0.0), (long, BF16, 0.8), (pick((4096, 1000), (20, 10)), FP16, 0.0)]
    for shape, dtype, ignored in sizes:
        logits = torch.randn(shape, device="cuda", dtype=dtype).requires_grad_()
        target = torch.randint(0, shape[-1], shape[:-1], device="cuda")
        target = target.masked_fill(torch.rand(shape[:-1], device="cuda") < ignored, -100)
        weights = torch.rand(shape[:-1], device="cuda")
        groups = torch.randint(-1, 3, shape[:1], device="cuda")
        criterion = fairloss.FairCrossEntropyLoss(3, gap_weight=0.5, group_counts=[903, 43, 54]).to("cuda")

        def ours(logits=logits, target=target, weights=weights) -> Outputs:
            losses = nll.nll(logits, target)
            (grad,) = torch.autograd.grad((losses * weights).sum(), logits)
            flat = losses.reshape(-1)
            return flat[:64], flat[-64:], grad.flatten(0, -2)[:64], grad.flatten(0, -2)[-64:]

        def reference(logits=logits, target=target, weights=weights) -> Outputs:
            """Of the first and the last rows: rows do not meet."""
            out: list[list[Tensor]] = [[], []]
            for part in (slice(None, 64), slice(-64, None)):
                x = logits.detach().flatten(0, -2)[part].double().requires_grad_()
                losses = F.cross_entropy(x, target.flatten()[part], reduction="none")
                out[0].append(losses)
                out[1] += torch.autograd.grad((losses * weights.flatten()[part]).sum(), x)
            return out[0] + out[1]

        def torchs(logits=logits, target=target) -> Outputs:
            loss = F.cross_entropy(logits.flatten(0, -2), target.flatten())
            return (loss, *torch.autograd.grad(loss, logits))

        def whole(logits=logits, target=target, groups=groups, criterion=criterion) -> Outputs:
            loss = criterion(logits, target, groups)
            return (loss, *torch.autograd.grad(loss, logits))

        def eager(block: int, step: Callable[[], Outputs] = ours) -> Callable[[], Outputs]:
            return with_setting(nll, "_BLOCK_GPU", block, step)

        tolerance = 1e-5 if dtype == FP32 else 1e-2
        checked: dict[str, Any] = {"reference": reference, "tolerance": tolerance}
        variants: dict[str, Variant | str] = {
            "kernel": Variant(ours, "triton", **checked, repeatable=True),
            "eager": Variant(ours, **checked),
            "F.cross_entropy": Variant(torchs),
            "criterion with the kernel": Variant(whole, "triton"),
            "Liger": rival("liger_kernel", lambda logits=logits, target=target: liger(logits, target)),
            "criterion, eager": Variant(whole),
        }
        if shape is long and not ignored:
            variants |= {f"eager, blocks of 2^{k}": Variant(eager(1 << k), **checked) for k in (22, 24, 28)}
        moved = 3 * logits.numel() * logits.element_size()
        size = {"shape": list(shape), "ignored": ignored}
        rows.measure(Work("nll", size, dtype, moved=moved, size=logits.numel()), variants)


def liger(logits: Tensor, target: Tensor) -> Callable[[], Outputs]:
    """Liger writes the gradient over its logits, which are therefore its own; values change from call to call, times do not."""
    from liger_kernel.transformers.functional import liger_cross_entropy

    own = logits.detach().flatten(0, -2).clone().requires_grad_()

    def step() -> Outputs:
        loss = liger_cross_entropy(own, target.flatten())
        return (loss, *torch.autograd.grad(loss, own))

    return step


def dice(rows: Rows) -> None:
    """Sums behind soft Dice, and FEBS: kernel, blocks, the formula as printed, MONAI."""
    volumes, images = pick((2, 14, 128, 128, 128), (2, 3, 4, 4, 4)), pick((16, 2, 512, 512), (3, 2, 6, 6))
    for shape, dtype in [(volumes, FP32), (volumes, BF16), (images, FP32)]:
        logits = torch.randn(shape, device="cuda", dtype=dtype).requires_grad_()
        target = torch.randint(0, shape[1], (shape[0], *shape[2:]), device="cuda")
        groups = torch.randint(-1, 3, shape[:1], device="cuda")
        weights = torch.rand(shape[0], 3, shape[1], device="cuda")
        criterion = fairloss.FEBSLoss(3, num_classes=shape[1], dice_weight=0.5).to("cuda")

        def ours(logits=logits, target=target, weights=weights) -> Outputs:
            sums, entropies = dice_sums.dice_sums(logits.flatten(2), target.flatten(1), True)
            return (sums, entropies, *torch.autograd.grad((sums * weights).sum() + entropies.sum(), logits))

        def reference(logits=logits, target=target, weights=weights) -> Outputs:
            x = logits.detach().double().requires_grad_()
            logp = torch.log_softmax(x.flatten(2), 1)
            p, t = logp.exp(), F.one_hot(target.flatten(1), logits.shape[1]).movedim(-1, 1).double()
            sums = torch.stack([(p * t).sum(2), (p * p).sum(2), t.sum(2)], 1)
            entropies = -(t * logp).sum((1, 2))
            return (sums, entropies, *torch.autograd.grad((sums * weights).sum() + entropies.sum(), x))

        def whole(logits=logits, target=target, groups=groups, criterion=criterion) -> Outputs:
            loss = criterion(logits, target, groups)
            return (loss, *torch.autograd.grad(loss, logits))

        def naive(logits=logits, target=target) -> Outputs:
            p = torch.softmax(logits, 1)
            t = F.one_hot(target, logits.shape[1]).movedim(-1, 1).to(p.dtype)
            axes = tuple(range(2, logits.ndim))
            loss = 1 - (2 * (p * t).sum(axes) / ((p * p).sum(axes) + t.sum(axes) + 1e-5)).mean()
            loss = loss + F.cross_entropy(logits, target)
            return (loss, *torch.autograd.grad(loss, logits))

        checked: dict[str, Any] = {"reference": reference, "tolerance": 1e-4 if dtype == FP32 else 1e-2}
        variants: dict[str, Variant | str] = {
            "kernel": Variant(ours, "triton", **checked, repeatable=True),
            "eager": Variant(ours, **checked),
            "FEBS with the kernel": Variant(whole, "triton"),
            "FEBS, eager": Variant(whole),
            "softmax, one-hot, cross-entropy": Variant(naive),
            "MONAI DiceCELoss": rival("monai", lambda logits=logits, target=target: monai(logits, target)),
        }
        for k in (20, 22, 26):
            variants[f"eager, blocks of 2^{k}"] = Variant(
                with_setting(dice_sums, "_BLOCK_GPU", 1 << k, ours), **checked
            )
        variants["compiled softmax, one-hot, cross-entropy"] = Variant(compiled(naive), seconds=COMPILES_S)
        moved = 3 * logits.numel() * logits.element_size() + 2 * target.numel() * 8
        rows.measure(Work("dice_sums", {"shape": list(shape)}, dtype, moved=moved, size=logits.numel()), variants)


def monai(logits: Tensor, target: Tensor) -> Callable[[], Outputs]:
    from monai.losses import DiceCELoss

    loss_of = DiceCELoss(softmax=True, to_onehot_y=True, squared_pred=True)

    def step() -> Outputs:
        loss = loss_of(logits, target.unsqueeze(1))
        return (loss, *torch.autograd.grad(loss, logits))

    return step


def clustered(n: int, d: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Rows around their label's center, so that anchors have negatives above the margin as well as positives."""
    y = torch.randint(0, 10, (n,), device="cuda")
    centers = torch.randn(10, d, device="cuda") + 1.0
    z = (centers[y] + torch.randn(n, d, device="cuda")).to(dtype)
    return z.requires_grad_(), y, torch.randint(-1, 4, (n,), device="cuda")


def printed_contrastive(z: Tensor, y: Tensor, ids: Tensor, temperature: float = 0.07, margin: float = 0.3) -> Tensor:
    """The formula as printed, with every N x N array at once."""
    z = F.normalize(z.float(), dim=1)
    cosines = z @ z.T
    same = y[:, None] == y
    cross = (ids[:, None] != ids) & (ids[:, None] >= 0) & (ids >= 0)
    positives, negatives = same & cross, ~same & (cosines > margin)
    s = cosines / temperature
    lse = torch.logsumexp(s.masked_fill(~negatives, -torch.inf), dim=1)
    terms = F.softplus(lse[:, None] - s).masked_fill(~positives, 0).sum(1)
    live = positives.any(1)
    return (terms / positives.sum(1).clamp(min=1)).sum() / live.sum().clamp(min=1)


def _contrastive(rows: Rows, n: int, d: int, dtype: torch.dtype, held: int = 0, *, rivals: bool = False) -> None:
    z, y, ids = clustered(n, d, dtype)
    queue = None
    if held:
        queue = fairloss.EmbeddingQueue(held, dim=d).to("cuda")
        kz, ky, kids = clustered(held, d, FP32)
        queue.push(kz.detach(), ky, kids)
        queue.eval()

    def ours(x: Tensor = z) -> Outputs:
        loss = ff.cross_group_contrastive(x, y, ids, memory=queue)
        return (loss, *torch.autograd.grad(loss, x))

    def printed() -> Outputs:
        loss = printed_contrastive(z, y, ids)
        return (loss, *torch.autograd.grad(loss, z))

    checked: dict[str, Any] = {
        "reference": lambda: ours(z.detach().double().requires_grad_()), "tolerance": 2e-4 if dtype == FP32 else 2e-2
    }  # fmt: skip
    variants: dict[str, Variant | str] = {
        "kernel": Variant(ours, "triton", **checked, repeatable=True),
        "eager": Variant(ours, **checked),
    }
    if dtype == FP32 and torch.version.hip is None:
        step = with_setting(contrastive_triton, "FLOAT32_PRODUCTS", "tf32x3", ours)
        variants["kernel, tf32x3"] = Variant(step, "triton", **checked)
    if rivals:
        variants["pytorch-metric-learning SupConLoss"] = rival("pytorch_metric_learning", lambda: metric_learning(z, y))
        if not held:
            variants["the formula"] = Variant(printed)
            torch._dynamo.reset()
            variants["compiled formula"] = Variant(torch.compile(printed), seconds=COMPILES_S)
            variants["compiled eager"] = Variant(torch.compile(ours), seconds=COMPILES_S)
    pairs = n * (n + held)
    # Four products for similarities and two for gradients, a pass over the columns for each block of the gradient's.
    blocks = contrastive_triton.blocks(dtype, d)
    flops = 2 * d * pairs * (2 + 2 * (-(-d // blocks.out)) + 2) if not held else 0
    moved = n * d * z.element_size() * 3 + held * d * 4 * 3
    size = {"N": n, "queue": held, "D": d}
    rows.measure(Work("contrastive_losses", size, dtype, moved=moved, flops=flops, size=pairs), variants)


def metric_learning(z: Tensor, y: Tensor) -> Callable[[], Outputs]:
    from pytorch_metric_learning.losses import SupConLoss

    loss_of = SupConLoss(temperature=0.07)

    def step() -> Outputs:
        loss = loss_of(z, y)
        return (loss, *torch.autograd.grad(loss, z))

    return step


def crossover(rows: Rows) -> None:
    """Kernel and eager alone, small to middling: from where on ``auto`` may take the kernel."""
    for n in pick((32, 128, 512, 1024, 2048), (8, 20)):
        for dtype in (BF16, FP32):
            _contrastive(rows, n, pick(256, 8), dtype)


def contrastive(rows: Rows) -> None:
    for n, d, dtype in pick(
        [(16_384, 256, BF16), (4096, 256, BF16), (65_536, 256, BF16), (4096, 256, FP32), (16_384, 256, FP32)],
        [(24, 8, FP32), (24, 8, BF16)],
    ):
        _contrastive(rows, n, d, dtype, rivals=n <= 16_384)


def queue(rows: Rows) -> None:
    """Few anchors against a long queue."""
    for n, held in pick([(256, 65_536), (256, 4096), (32, 65_536)], [(8, 40)]):
        for dtype in (BF16, FP32):
            _contrastive(rows, n, pick(256, 8), dtype, held)


def advantages(rows: Rows) -> None:
    """FairGRPO's advantages beside GRPO's own (mean and deviation of each prompt), and the masked broadcast."""
    for q, r, length in pick([(512, 10, 0), (640, 8, 4096), (100_000, 8, 0)], [(6, 4, 0), (6, 4, 9)]):
        rewards = (torch.rand(q, r, device="cuda") < 0.4).float()
        domains, groups = torch.randint(0, 3, (q,), device="cuda"), torch.randint(0, 4, (q,), device="cuda")
        mask = torch.rand(q * r, length, device="cuda") < 0.7 if length else None

        def ours(rewards=rewards, domains=domains, groups=groups, mask=mask) -> Outputs:
            found = compute_advantages(policy_rewards.Rows(rewards), domains, groups, Setting(3, 4, 5), mask=mask)
            return [found.advantages if found.tokens is None else found.tokens]

        def reference(rewards=rewards, domains=domains, groups=groups, mask=mask) -> Outputs:
            return ours(rewards.double(), domains, groups, mask)

        def grpo(rewards=rewards, mask=mask) -> Outputs:
            """As a GRPO trainer computes them."""
            scores = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
            return [scores if mask is None else scores.reshape(-1, 1) * mask]

        checked: dict[str, Any] = {"reference": reference, "tolerance": 1e-5, "graph": True}
        moved = q * r * (length * 5 + 8) + q * 16
        work = Work("fair_grpo_advantages", {"Q": q, "R": r, "L": length}, FP32, moved=moved, size=q * r)
        rows.measure(
            work,
            {
                "kernel": Variant(ours, "triton", **checked, repeatable=True),
                "eager": Variant(ours, **checked),
                "GRPO's own": Variant(grpo, graph=True),
                "compiled eager": Variant(compiled(ours), seconds=COMPILES_S),
            },
        )


def segments(rows: Rows) -> None:
    """Counts and sums of four groups, forward and backward."""
    for n in pick((10**7, 10**6, 10**5, 10**4, 1000, 32), (50, 5)):
        values = torch.randn(n, device="cuda", requires_grad=True)
        ids, weights = torch.randint(-1, 4, (n, 1), device="cuda"), torch.rand(4, device="cuda")

        def ours(values=values, ids=ids, weights=weights) -> Outputs:
            sums, counts = GroupIds(ids, (4,)).totals(values)
            return (sums, counts, *torch.autograd.grad((sums * weights).sum(), values))

        def reference(values=values, ids=ids, weights=weights) -> Outputs:
            return ours(values.detach().double().requires_grad_(), ids, weights)

        checked: dict[str, Any] = {"reference": reference, "tolerance": 1e-4, "graph": True}
        work = Work("segment_sums", {"N": n, "G": 4}, FP32, moved=n * (4 + 8) * 2 + n * 4, size=n)
        rows.measure(
            work,
            {"kernel": Variant(ours, "triton", **checked, repeatable=True), "eager": Variant(ours, **checked)},
        )


def losses(rows: Rows) -> None:
    """One step of every loss, eager and as a CUDA graph, beside the cross-entropy; FIS beside geomloss; some compiled."""
    from tests.contract.case import all_cases

    x = torch.randn(32, 2, device="cuda", requires_grad=True)
    y = torch.randint(0, 2, (32,), device="cuda")

    def cross_entropy() -> Outputs:
        loss = F.cross_entropy(x, y)
        return (loss, *torch.autograd.grad(loss, x))

    rows.measure(
        Work("losses", {"loss": "F.cross_entropy", "N": 32}, FP32), {"eager": Variant(cross_entropy, graph=True)}
    )
    fis_beside_geomloss(rows)
    steps = {}
    for case in all_cases():
        batch = {name: t.detach().to("cuda") for name, t in case.draw(0, 32, FP32, grad=False).items()}
        for name in case.differentiable:
            batch[name].requires_grad_()
        module = case.make().to("cuda").eval()

        def step(module=module, batch=batch, case=case) -> Outputs:
            value = module(**batch)
            grads = torch.autograd.grad(value, [batch[name] for name in case.differentiable], allow_unused=True)
            return (value, *(g for g in grads if g is not None))

        steps[case.name] = step
        rows.measure(Work("losses", {"loss": case.name, "N": 32}, FP32), {"eager": Variant(step, graph=True)})
    for name in ("fair_cross_entropy-hybrid", "fis-default", "febs-default"):
        rows.measure(
            Work("losses", {"loss": name, "N": 32}, FP32),
            {"compiled": Variant(compiled(steps[name]), seconds=COMPILES_S)},
        )


def fis_beside_geomloss(rows: Rows) -> None:
    n, groups = pick(4096, 12), 3
    values = torch.rand(n, device="cuda", requires_grad=True)
    ids = torch.randint(0, groups, (n,), device="cuda")

    def ours(values: Tensor = values) -> Outputs:
        loss = ff.fis(values, ids, num_groups=groups)
        return (loss, *torch.autograd.grad(loss, values))

    def geomloss() -> Callable[[], Outputs]:
        from geomloss import SamplesLoss

        distance = SamplesLoss("sinkhorn", p=2, blur=0.01)

        def step() -> Outputs:
            cloud = values.unsqueeze(1)
            loss = sum((distance(cloud[ids == g], cloud) for g in range(groups)), values.new_zeros(()))
            return (loss, *torch.autograd.grad(loss, values))

        return step

    rows.measure(
        Work("fis", {"N": n, "G": groups}, FP32),
        {
            "exact transport": Variant(ours, graph=True),
            "geomloss": rival("geomloss", geomloss),
        },
    )


def memory(rows: Rows) -> None:
    """Small sizes of every kernel under compute-sanitizer, where there is one; no time is worth anything there."""
    tool = shutil.which("compute-sanitizer")
    for part in ("likelihood", "dice", "queue", "segments", "advantages"):
        work = Work("memory", {"part": part}, FP32)
        if tool is None:
            rows.write(work, "compute-sanitizer", left_out="compute-sanitizer was not found")
            continue
        out = Path(tempfile.mkdtemp()) / "rows"
        script = str(Path(__file__).with_name("gpu.py"))
        command = [
            tool,
            "--tool",
            "memcheck",
            "--error-exitcode",
            "9",
            sys.executable,
            script,
            "--out",
            str(out),
            "--only",
            part,
        ]
        done = subprocess.run(command, env={**os.environ, "FAIRLOSS_GPU_SMALL": "1"}, capture_output=True, text=True)
        found = {"failed": (done.stdout + done.stderr)[-500:]} if done.returncode else {"errors_found": 0}
        rows.write(work, "compute-sanitizer", **found)


PARTS: dict[str, Callable[[Rows], None]] = {
    function.__name__: function
    for function in (ceilings, likelihood, dice, crossover, contrastive, queue, advantages, segments, losses, memory)
}

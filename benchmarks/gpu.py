"""The kernels on a GPU against eager code, compiled eager code and the naive rendering: time, peak memory, launches, and the
share of the copy bandwidth measured on the same card. Needs torch, triton and NumPy; a few minutes.

python benchmarks/gpu.py            all of it, written to benchmarks/results/gpu.json
python benchmarks/gpu.py --quick    small sizes, to see that it runs
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

import fairloss
from benchmarks.harness import save
from fairloss import ops as kernels
from fairloss.functional import cross_group_contrastive
from fairloss.groups.ids import GroupIds
from fairloss.ops.fair_grpo_setting import Options
from fairloss.policy.weights import compute_advantages

DEADLINE_S = 480
"""No measurement starts after this, so that a slow card still ends within ten minutes and writes what it has."""
START = time.perf_counter()


def milliseconds(function: Callable[[], Any], budget_s: float = 1.0) -> dict[str, float]:
    """Median and spread of single calls by device events, over at most ``budget_s``; a call is first run warm.

    Every call starts with the L2 cache overwritten, so that small inputs are read from memory as in a training step.
    """
    flush = torch.empty(128 << 20, dtype=torch.int8, device="cuda")
    for _ in range(3):
        function()
    torch.cuda.synchronize()
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < 5 or (time.perf_counter() - begin < budget_s and len(times) < 100):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        flush.zero_()
        start.record()
        function()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    ordered = torch.tensor(times).sort().values
    low, mid, high = (float(ordered[int(q * (len(times) - 1))]) for q in (0.1, 0.5, 0.9))
    return {"p10": low, "median": mid, "p90": high, "calls": len(times)}


def graph_milliseconds(function: Callable[[], Any]) -> float:
    """Median of replays of a CUDA graph: what the device takes when the host is no bottleneck."""
    function()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return milliseconds(graph.replay)["median"]


def peak_bytes(function: Callable[[], Any]) -> int:
    """Most bytes allocated at once by a call, beyond what was held before it."""
    function()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def launches(function: Callable[[], Any]) -> int:
    """Kernels of a call, by the profiler; copies and fills by the copy engine not counted."""
    function()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        function()
        torch.cuda.synchronize()
    events = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    return sum(not e.name.startswith(("Memcpy", "Memset")) for e in events)


def copy_bandwidth() -> float:
    """Bytes a second read plus written by a large device-to-device copy."""
    source = torch.randn(1 << 29, device="cuda")
    target = torch.empty_like(source)
    taken = milliseconds(lambda: target.copy_(source))["median"] / 1e3
    return 2 * source.numel() * 4 / taken


def measure(variants: dict[str, Callable[[], Any]], moved: int, copy: float, *, graph: bool = False) -> dict[str, Any]:
    """Every variant's figures; ``moved`` are the bytes that any version has to read and write at least."""
    rows: dict[str, Any] = {}
    for name, function in variants.items():
        if time.perf_counter() - START > DEADLINE_S:
            rows[name] = {"left_out": "out of time"}
            continue
        backend = "triton" if name.startswith("triton") else "eager"
        try:
            with kernels.backend(backend):
                row: dict[str, Any] = {"ms": milliseconds(function)}
                if graph and "naive" not in name:
                    row["graph_ms"] = graph_milliseconds(function)
                row["peak_bytes"], row["launches"] = peak_bytes(function), launches(function)
            best = row.get("graph_ms", row["ms"]["median"]) / 1e3
            row["share_of_copy_bandwidth"] = moved / best / copy
        except torch.cuda.OutOfMemoryError:
            row = {"left_out": "out of memory"}
        rows[name] = row
        torch.cuda.empty_cache()
        ms = row.get("ms", {}).get("median", float("nan"))
        print(
            f"  {name:<18} {ms:10.3f} ms  graph {row.get('graph_ms', float('nan')):8.3f} ms  "
            f"peak {row.get('peak_bytes', 0) / 1e6:10.1f} MB  launches {row.get('launches', 0):4}  "
            f"{100 * row.get('share_of_copy_bandwidth', 0):5.1f}% of copy  {row.get('left_out', '')}",
            flush=True,
        )
    return rows


def naive_contrastive(z, y, ids, temperature=0.07, margin=0.3):
    """The formula as printed, with every N x N array at once."""
    z = torch.nn.functional.normalize(z.float(), dim=1)
    cosines = z @ z.T
    same = y[:, None] == y
    cross = (ids[:, None] != ids) & (ids[:, None] >= 0) & (ids >= 0)
    positives, negatives = same & cross, ~same & (cosines > margin)
    s = cosines / temperature
    lse = torch.logsumexp(s.masked_fill(~negatives, -torch.inf), dim=1)
    terms = torch.nn.functional.softplus(lse[:, None] - s).masked_fill(~positives, 0).sum(1)
    live = positives.any(1)
    return (terms / positives.sum(1).clamp(min=1)).sum() / live.sum().clamp(min=1)


def contrastive(n: int, d: int, dtype: torch.dtype, copy: float) -> dict[str, Any]:
    z = torch.randn(n, d, device="cuda", dtype=dtype, requires_grad=True)
    y, ids = torch.randint(0, 10, (n,), device="cuda"), torch.randint(-1, 4, (n,), device="cuda")
    compiled, naive_compiled = torch.compile(cross_group_contrastive), torch.compile(naive_contrastive)

    def step(loss: Callable[..., torch.Tensor]) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(loss(z, y, ids), z)

    variants = {"triton": step(cross_group_contrastive), "eager": step(cross_group_contrastive)}
    if n <= 16_384:
        variants |= {"compiled eager": step(compiled), "naive": step(naive_contrastive)}
        variants["compiled naive"] = step(naive_compiled)
    print(f"contrastive N={n} D={d} {dtype}")
    # Rows, labels and groups read twice (two passes), the gradient written; the arithmetic is 12 N^2 D.
    moved = n * d * z.element_size() * 3 + n * 16 * 2
    rows = measure(variants, moved, copy)
    for row in rows.values():
        if "ms" in row:
            row["tflops_of_the_tiles"] = 12 * n * n * d / row["ms"]["median"] / 1e9
    return {"N": n, "D": d, "dtype": str(dtype), "bytes": moved, "variants": rows}


def advantages(q: int, r: int, length: int, copy: float) -> dict[str, Any]:
    rewards = (torch.rand(q, r, device="cuda") < 0.4).float()
    domains, groups = torch.randint(0, 3, (q,), device="cuda"), torch.randint(0, 4, (q,), device="cuda")
    mask = torch.rand(q * r, length, device="cuda") < 0.7
    options = Options()

    def core() -> torch.Tensor | None:
        return compute_advantages(
            rewards, domains, groups, num_domains=3, num_groups=4, options=options, mask=mask
        ).tokens

    def naive() -> torch.Tensor:
        """Group by group, as one would first write it; it waits for the device at every group."""
        scores = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-6)
        weights = torch.ones(q, device="cuda")
        for domain in range(3):
            in_domain = domains == domain
            t_domain = in_domain.sum().item() ** 0.5 * rewards[in_domain].mean().item()
            for group in range(4):
                mine = in_domain & (groups == group)
                if mine.any():
                    weights[mine] = 1 / (t_domain * mine.sum().item() ** 0.5 * rewards[mine].mean().item())
        scaled = scores * weights[:, None]
        return (scaled / scaled.std()).reshape(-1, 1) * mask

    print(f"advantages Q={q} R={r} B={q * r} L={length}")
    moved = q * r * length * (4 + 1) + q * r * 4 * 2 + q * 16
    variants = {"triton": core, "eager": core, "compiled eager": torch.compile(core), "naive": naive}
    return {"Q": q, "R": r, "L": length, "bytes": moved, "variants": measure(variants, moved, copy, graph=True)}


def segments(n: int, groups: int, copy: float) -> dict[str, Any]:
    values, ids = torch.randn(n, device="cuda"), torch.randint(-1, groups, (n, 1), device="cuda")

    def totals() -> Any:
        return GroupIds(ids, (groups,)).totals(values)

    def naive() -> Any:
        return [(values[ids[:, 0] == g].sum(), (ids[:, 0] == g).sum()) for g in range(groups)]

    print(f"segments N={n} G={groups}")
    moved = n * (4 + 8)
    variants = {"triton": totals, "eager": totals, "compiled eager": torch.compile(totals), "naive": naive}
    return {"N": n, "G": groups, "bytes": moved, "variants": measure(variants, moved, copy, graph=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    quick = parser.parse_args().quick
    if not torch.cuda.is_available():
        sys.exit("benchmarks/gpu.py: no CUDA device was found; nothing was measured")
    torch.manual_seed(0)
    properties = torch.cuda.get_device_properties(0)
    copy = copy_bandwidth()
    print(f"{properties.name}: copy {copy / 1e12:.2f} TB/s, torch {torch.__version__}, fairloss {fairloss.__version__}")
    results: dict[str, Any] = {"device": properties.name, "copy_bytes_per_s": copy}
    results["advantages"] = [
        advantages(*s, copy) for s in ([(64, 8, 512)] if quick else [(640, 8, 4096), (640, 8, 512)])
    ]
    shapes = [(2048, 256)] if quick else [(4096, 256), (16_384, 256), (16_384, 1024), (65_536, 256)]
    results["contrastive"] = [
        contrastive(n, d, dtype, copy)
        for n, d in shapes
        for dtype in (torch.bfloat16, torch.float32)
        if dtype == torch.bfloat16 or n * d <= 16_384 * 256
    ]
    results["segments"] = [segments(n, g, copy) for n, g in ([(10_000, 4)] if quick else [(4096, 4), (10_000_000, 4)])]
    print("written to", save("gpu", results, packages=("triton",)))


if __name__ == "__main__":
    main()

"""Every kernel in every dtype and block size that dispatch can choose, compiled ahead of time; no GPU is needed."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget

from fairloss.ops import (
    advantages_triton,
    contrastive,
    contrastive_rows_triton,
    contrastive_triton,
    dice_sums_triton,
    nll_triton,
    segments_triton,
)
from fairloss.ops.dice_sums import MAX_CLASSES
from fairloss.ops.fair_grpo_setting import MAX_ROLLOUTS, SCALE_BLOCKS, noise, programs, score_blocks, weight_blocks

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
# Shared memory that every card of the family gives a block: 99 KiB from compute capability 8.6 on, 64 KiB on gfx942.
SHARED = {"sm_80": 99 * 1024, "sm_90": 99 * 1024, "gfx942": 64 * 1024}
NAMES = {torch.float32: "fp32", torch.float64: "fp64", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True)
class Build:
    """One kernel with one set of argument types and compile-time constants."""

    name: str
    kernel: Any
    types: dict[str, str]
    """Argument -> type; pointers, and the integers named in ``aligned``, are multiples of 16."""
    constants: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)
    aligned: tuple[str, ...] = ()

    def compile(self, target: str) -> Any:
        names = self.kernel.arg_names
        signature = {name: "constexpr" if name in self.constants else self.types[name] for name in names}
        attributes = {
            (i,): [["tt.divisibility", 16]]
            for i, name in enumerate(names)
            if signature[name].startswith("*") or name in self.aligned
        }
        source = triton.compiler.ASTSource(self.kernel, signature, dict(self.constants), attributes)
        # Given in full: Triton 3.9 warns where the choice about fused multiply-adds is left to it.
        options = {"num_warps": 4, "enable_fp_fusion": True, **self.options}
        return triton.compile(source, target=TARGETS[target], options=options)


def _contrastive() -> Iterator[Build]:
    ids = dict.fromkeys(("labels", "key_labels", "other_labels", "groups", "key_groups", "other_groups"), "*i64")
    wide = dict.fromkeys(
        ("anchor_norms", "key_norms", "own_norms", "other_norms", "norms", "scales", "tops", "totals", "losses", "lses",
         "counts", "pulls", "grad", "out_losses", "out_lses", "out_counts", "out_pulls"),
        "*fp32",
    )  # fmt: skip
    numbers = dict.fromkeys(("n", "m", "n_own", "n_other", "rows", "dim", "ignore", "parts", "span"), "i32")
    numbers |= {"inverse_temperature": "fp32", "margin": "fp32"}
    row_blocks = dict(contrastive_rows_triton.ROW_BLOCKS)
    row_options = {"num_warps": row_blocks.pop("num_warps")}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        rows = dict.fromkeys(("anchors", "keys", "own", "other", "x"), f"*{NAMES[dtype]}")
        types = {**ids, **wide, **numbers, **rows}
        for aligned in ((), ("dim",)):
            at = "" if aligned else "-odd-dim"
            for held in (False, True) if aligned else (False,):
                # A queue's rows are float32 whatever the anchors are.
                given = {"x": "*fp32"} if held else {}
                kind = {"UNIT": held, "SCALE": not held and dtype != torch.float16}
                yield Build(
                    f"prepare-{NAMES[dtype]}{at}{'-held' * held}", contrastive_rows_triton.prepare_kernel,
                    {**types, **given, "out": f"*{NAMES[dtype]}"}, {**kind, **row_blocks}, row_options, aligned,
                )  # fmt: skip
            yield Build(
                f"project-{NAMES[dtype]}{at}", contrastive_rows_triton.project_kernel,
                {**types, "out": f"*{NAMES[dtype]}"}, row_blocks, row_options, aligned,
            )  # fmt: skip
            first = {}
            for dim in range(1, contrastive.MAX_DIM + 1):
                first.setdefault(contrastive_triton.blocks(dtype, dim), dim)
            for blocks, dim in first.items():
                last = dim == max(first.values())
                if not aligned and not last:
                    continue
                for attributes in (1, 2) if aligned and last else (1,):
                    constants = {
                        "ATTRIBUTES": attributes, "OWN": blocks.own, "OTHER": blocks.other, "INNER": blocks.inner,
                        "PRECISION": "ieee",
                    }  # fmt: skip
                    options = {"num_warps": blocks.warps, "num_stages": blocks.stages}
                    name = f"{NAMES[dtype]}-d{dim}-k{attributes}{at}"
                    for second in (False, True):
                        yield Build(
                            f"contrastive_walk_{1 + second}-{name}", contrastive_triton.walk_kernel, types,
                            {**constants, "SECOND": second}, options, aligned,
                        )  # fmt: skip
                    tile = tl.float32 if dtype == torch.float32 else contrastive_triton.HALF_TILE
                    for side in ("anchors", "keys"):
                        yield Build(
                            f"contrastive_backward_{side}-{name}", contrastive_triton.backward_kernel,
                            {**types, "out": "*fp32"},
                            {**constants, "OF_KEYS": side == "keys", "OUT": blocks.out, "TILE": tile}, options, aligned,
                        )  # fmt: skip

    yield Build("contrastive_join", contrastive_triton.join_kernel, {**wide, **numbers}, {"OWN": 64})


def _advantages() -> Iterator[Build]:
    sizes = {"DOMAINS": 3, "GROUPS": 4}
    doubles = dict.fromkeys(
        ("partials", "lows", "past", "past_low", "share", "cluster_mean", "cluster_signal", "table", "counts_out",
         "means_out", "totals_out", "batch_out", "low_out", "shift_out", "factor"),
        "*fp64",
    )  # fmt: skip
    types = {
        **doubles, "domains": "*i64", "slots": "*i64",
        **dict.fromkeys(("prompts", "steps", "rollouts", "rows", "length"), "i32"),
    }  # fmt: skip
    for dtype in (torch.float32, torch.float64):
        rewards = dict.fromkeys(("rewards", "scores", "advantages", "weights", "tokens"), f"*{NAMES[dtype]}")
        for rollouts in (8, 64, MAX_ROLLOUTS):
            for width in (8, 32, 128):
                blocks = {"NOISE": noise("default", dtype), **score_blocks(rollouts, 3, width)}
                yield Build(
                    f"score-{NAMES[dtype]}-r{rollouts}-w{width}", advantages_triton.score_prompts_kernel, {**types, **rewards},
                    {**sizes, "WIDTH": width, "EPS": 1e-6, **blocks},
                )  # fmt: skip
        for masked, mask in ((False, NAMES[dtype]), (True, "u8"), (True, "i64")):
            yield Build(
                f"scale-{NAMES[dtype]}-{mask if masked else 'plain'}", advantages_triton.scale_scores_kernel,
                {**types, **rewards, "mask": f"*{mask}"},
                {**sizes, "WIDTH": 5, "HAS_MASK": masked, **SCALE_BLOCKS[masked]},
                aligned=("length",),
            )  # fmt: skip
    for variant in ("default", "paper", "released"):
        for domains, width in ((1, 8), (1, 64), (1, 256), (7, 8), (7, 64), (63, 8)):
            parts = programs(domains, width)
            blocks = weight_blocks(domains, width, parts)
            options = {"num_warps": blocks.pop("num_warps")}
            constants = {
                "DOMAINS": domains, "GROUPS": width - 1, "WIDTH": width, "PROGRAMS": parts, "LOWS": parts, "HAS_PAST": True,
                "SHIFT": "auto", "AMOUNT": 0.0, "HISTORY": "cumulative", "HALF_LIFE": 1000.0, "INCLUDE": True,
                "BY_HISTORY": variant == "default", "VARIANT": variant, "NORMALIZE": True,
                "MAX_RATIO": 10.0, "SIZE_POWER": 0.5, "REWARD_POWER": 1.0, "NEGATIVE_REWARD": -1, "EPS": 1e-6, **blocks,
            }  # fmt: skip
            yield Build(
                f"weights-{variant}-d{domains}-w{width}",
                advantages_triton.cell_weights_kernel,
                types,
                constants,
                options,
            )
    # Clusters, a fixed shift, an all-reduced table, rewards that weigh without their own batch.
    blocks = weight_blocks(3, 8, 1)
    options = {"num_warps": blocks.pop("num_warps")}
    constants |= {"SHIFT": "number", "AMOUNT": 0.1, "INCLUDE": False, "NORMALIZE": False, "MAX_RATIO": 0.0}
    constants |= {"REWARD_POWER": 0.3, "LOWS": 1, "HISTORY": "ema", "BY_HISTORY": True}
    constants |= {
        "NEGATIVE_REWARD": 0,
        "DOMAINS": 3,
        "GROUPS": 4,
        "WIDTH": 8,
        "PROGRAMS": 1,
        "VARIANT": "default",
        **blocks,
    }
    yield Build("weights-clusters-shift", advantages_triton.cell_weights_kernel, types, constants, options)
    yield Build(
        "weights-power",
        advantages_triton.cell_weights_kernel,
        types,
        {**constants, "VARIANT": "released", "BY_HISTORY": False},
        options,
    )


def _segments() -> Iterator[Build]:
    types = {"slots": "*i64", **dict.fromkeys(("n", "steps", "groups", "columns", "column_tiles", "total"), "i32")}
    for dtype, name in NAMES.items():
        wide = "fp64" if dtype == torch.float64 else "fp32"
        for columns in (1, 8, 32):
            constants = {"WIDE": getattr(tl, f"float{wide[2:]}"), **segments_triton.blocks(columns)}
            yield Build(
                f"segments-{name}-f{columns}", segments_triton.segment_kernel,
                {**types, "values": f"*{name}", "counts": f"*{wide}", "sums": f"*{wide}"},
                # Triton compiles an integer argument of 1 in.
                constants if columns > 1 else {**constants, "columns": 1},
            )  # fmt: skip

    for name in NAMES.values():
        for columns in (1, 8):
            yield Build(
                f"lookup-{name}-f{columns}", segments_triton.lookup_kernel,
                {**types, "table": f"*{name}", "out": f"*{name}"},
                {"BLOCK": segments_triton.LOOKUP_BLOCK, **({"columns": 1} if columns == 1 else {})},
            )  # fmt: skip


def _likelihood() -> Iterator[Build]:
    sizes = dict.fromkeys(("rows", "inner", "outer_stride", "inner_stride", "classes", "ignore"), "i32")
    wide = dict.fromkeys(("losses", "tops", "totals", "grad"), "*fp32")
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        types = {**sizes, **wide, "target": "*i64", "logits": f"*{NAMES[dtype]}", "out": f"*{NAMES[dtype]}"}
        for classes in (16, 64, 256, 1024, 4096):
            blocks = nll_triton.blocks(classes)
            options = {"num_warps": blocks.pop("num_warps")}
            for aligned in ((), ("outer_stride", "inner_stride", "classes")) if classes == 4096 else ((),):
                name = f"{NAMES[dtype]}-v{classes}{'-aligned' if aligned else ''}"
                yield Build(f"nll_forward-{name}", nll_triton.nll_forward_kernel, types, blocks, options, aligned)
                yield Build(f"nll_backward-{name}", nll_triton.nll_backward_kernel, types, blocks, options, aligned)


def _dice() -> Iterator[Build]:
    sizes = ("classes", "pixels", "sample_stride", "class_stride", "pixel_stride", "programs", "steps", "tiles")
    wide = dict.fromkeys(("sums", "nlls", "grad_sums", "grad_nll"), "*fp32")
    kernels = {"forward": dice_sums_triton.dice_forward_kernel, "backward": dice_sums_triton.dice_backward_kernel}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for classes in (2, 4, 16, 64, MAX_CLASSES):
            blocks = dice_sums_triton.blocks(classes)
            options = {"num_warps": blocks.pop("num_warps")}
            for soft, with_nll, side_by_side in ((False, False, True), (False, True, True), (True, True, False)):
                if soft and classes != 16:
                    continue
                target = NAMES[dtype] if soft else "i64"
                types = {**dict.fromkeys(sizes, "i32"), **wide, "target": f"*{target}"}
                types |= {"logits": f"*{NAMES[dtype]}", "out": f"*{NAMES[dtype]}"}
                # Triton compiles an integer argument of 1 in.
                constants = {
                    **blocks,
                    "SOFT": soft,
                    "WITH_NLL": with_nll,
                    **({"pixel_stride": 1} if side_by_side else {}),
                }
                for side, kernel in kernels.items():
                    name = f"dice_{side}-{NAMES[dtype]}-c{classes}{'-soft' * soft}{'-nll' * with_nll}"
                    yield Build(name, kernel, types, constants, options, ("pixels", "sample_stride", "class_stride"))


def builds() -> list[Build]:
    """All of them; the names are distinct."""
    found = [*_contrastive(), *_advantages(), *_segments(), *_likelihood(), *_dice()]
    assert len({b.name for b in found}) == len(found)
    return found


# One of each kernel, in the dtypes that people train in: what the fast tests compile.
FAST = (
    "contrastive_walk_1-bf16-d129-k1",
    "contrastive_walk_2-bf16-d129-k1",
    "contrastive_backward_anchors-bf16-d129-k1",
    "contrastive_backward_keys-fp32-d33-k1",
    "prepare-bf16",
    "contrastive_join",
    "project-bf16",
    "score-fp32-r8-w8",
    "weights-default-d7-w8",
    "segments-fp32-f1",
    "lookup-fp32-f1",
    "nll_forward-bf16-v4096-aligned",
    "nll_backward-bf16-v4096-aligned",
    "dice_forward-fp32-c16",
    "dice_backward-fp32-c16",
    "scale-fp32-u8",
)


def resources(compiled: Any) -> dict[str, int]:
    """Registers, shared memory, and spills where the compiler tells: bytes of stack and local stores for NVIDIA."""
    found = {"shared": int(compiled.metadata.shared)}
    if "cubin" in compiled.asm:
        tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(compiled.asm["cubin"])
            file.flush()
            usage = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
            code = subprocess.run([tool, "-sass", file.name], capture_output=True, text=True, check=True).stdout
        found["registers"] = int(re.search(r"REG:(\d+)", usage)[1])
        found["stack_bytes"] = int(re.search(r"STACK:(\d+)", usage)[1])
        found["local_stores"] = len(re.findall(r"\bSTL\b", code))
        found["tensor_core_products"] = len(re.findall(r"\b(?:HGMMA|HMMA|QGMMA)\b", code))
    else:
        found["registers"] = int(re.search(r"\.vgpr_count:\s*(\d+)", compiled.asm["amdgcn"])[1])
        found["spilled_registers"] = int(re.search(r"\.vgpr_spill_count:\s*(\d+)", compiled.asm["amdgcn"])[1])
    return found

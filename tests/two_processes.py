"""Run a function in two gloo processes that meet through a file; what each returns comes back in rank order."""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def _worker(rank, function, folder, arguments):
    torch.set_num_threads(1)
    # What launchers set and accelerate reads; the processes themselves meet through the file.
    launched = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 29500}
    os.environ.update({name: str(value) for name, value in launched.items()})
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(function(rank, *arguments), f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def two_processes(function, tmp_path: Path, *arguments):
    """``function(rank, *arguments)`` on ranks 0 and 1; it must be importable by name."""
    mp.spawn(_worker, (function, str(tmp_path), arguments), nprocs=2)
    return [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2)]

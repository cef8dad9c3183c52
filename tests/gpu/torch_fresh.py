"""What only ranks show that have not computed before they meet: python3 torch_fresh.py RANKS, with
libnccl.so.2 preloaded. Each part runs in processes of its own.

  training   DDP, whose every kernel is loaded by its first step, while streams wait for collectives;
             the losses of one rank, to compare with, are computed afterwards
  a late one the last rank comes 0.3 s late to an all_reduce; meanwhile the others fill the stream behind
             it with 3,000 kernels, more than its queue holds, or free memory, which waits for the
             stream, or both"""
import faulthandler
import sys
import time

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import torch_training
import torch_world

LATE_S, LIMIT_S, KERNELS = 0.3, 5, 3000


def training(rank, size):
    faulthandler.dump_traceback_later(20, exit=True)
    start = time.monotonic()
    seen = torch_training.train(
        DistributedDataParallel(torch_training.make_model(), device_ids=[0]), rank, size)
    seconds = time.monotonic() - start
    want = torch_training.train(torch_training.make_model(), 0, 1)
    off = ((seen - want).abs() / want.abs()).max().item()
    assert off <= torch_training.TOLERANCE, \
        f"losses {seen.tolist()}, one rank {want.tolist()}, off by {off:.1e}"
    if rank == 0:
        print(f"DDP in fresh processes: {seconds:.2f} s, off by {off:.1e} from one rank", flush=True)


def meet_late(rank, size, count, launches, frees):
    """Returns the seconds from all ranks' start to this rank's result."""
    x = torch.full((count,), float(rank + 1), device="cuda")
    y = torch.zeros(count, device="cuda")[:1000]
    large = torch.empty(512 << 20, dtype=torch.uint8, device="cuda") if frees else None
    dist.barrier(device_ids=[0])
    torch.cuda.synchronize()
    start = time.monotonic()
    if rank == size - 1:
        time.sleep(LATE_S)
    dist.all_reduce(x)
    for _ in range(launches):
        y += x[:1000]
    del large
    if frees:
        torch.cuda.empty_cache()
    total = size * (size + 1) / 2
    torch.testing.assert_close(x, torch.full_like(x, total), rtol=0, atol=0)
    torch.testing.assert_close(y, torch.full_like(y, launches * total), rtol=0, atol=0)
    return time.monotonic() - start


def late(rank, size):
    faulthandler.dump_traceback_later(25, exit=True)
    for count in (1000, 1 << 20):
        for launches, frees in ((KERNELS, False), (0, True), (KERNELS, True)):
            what = f"{count} elements, {launches} kernels behind, memory {'freed' if frees else 'kept'}"
            if rank == 0:
                print(f"a rank is late: {what}: ", end="", flush=True)
            seconds = meet_late(rank, size, count, launches, frees)
            if rank == 0:
                print(f"{seconds:.2f} s", flush=True)
            assert seconds < LIMIT_S, f"{what}: {seconds:.1f} s"


if __name__ == "__main__":
    torch_world.run(training, int(sys.argv[1]))
    torch_world.run(late, int(sys.argv[1]))
    print(f"ok: {sys.argv[1]} fresh ranks, training and meeting a late one")

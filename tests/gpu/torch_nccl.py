#!/usr/bin/env python3
"""An unmodified PyTorch on libnccl.so.2, all ranks on one GPU: what its users call, compared with
what one rank computes alone. To be run with the library preloaded:

    LD_PRELOAD=.../tutti-nccl/libnccl.so.2 tests/gpu/torch_nccl.py [RANKS]

Ends with the line `suite torch_nccl: P passed, F failed, S skipped`.
"""
import datetime
import faulthandler
import os
import socket
import sys
import traceback

LIMIT_S = 150

try:
    import torch
    import torch.distributed as dist
    import torch.multiprocessing as mp
    MISSING = None if torch.cuda.is_available() else "no GPU for PyTorch"
except ImportError as error:
    torch, MISSING = None, f"no PyTorch: {error}"


def same(got, want, what):
    if not torch.equal(got, want):
        raise AssertionError(f"{what}: {got.flatten()[:4]} ..., expected {want.flatten()[:4]} ...")


def near(got, want, what):
    if not torch.allclose(got, want, rtol=1e-4, atol=1e-5):
        raise AssertionError(f"{what}: {got.flatten()[:4]} ..., expected {want.flatten()[:4]} ...")


def ramp(rank, count, dtype=None):
    return (torch.arange(count, device="cuda") % 7 + rank).to(dtype or torch.float32)


# ---- what is tried: each a function of (rank, size) ----------------------------------------------

def all_reduce(rank, size):
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int32,
                  torch.int64, torch.uint8, torch.int8):
        for op, want in ((dist.ReduceOp.SUM, sum(ramp(r, 1000, dtype) for r in range(size))),
                         (dist.ReduceOp.MAX, ramp(size - 1, 1000, dtype)),
                         (dist.ReduceOp.MIN, ramp(0, 1000, dtype))):
            data = ramp(rank, 1000, dtype)
            dist.all_reduce(data, op)
            same(data, want.to(dtype), f"all_reduce {op} {dtype}")
    data = ramp(rank, 1000)
    dist.all_reduce(data, dist.ReduceOp.AVG)
    near(data, ramp(0, 1000) + (size - 1) / 2, "average")
    big = torch.full((1 << 22,), float(rank), device="cuda")
    dist.all_reduce(big)
    same(big, torch.full_like(big, size * (size - 1) / 2), "16 MiB")


def premultiplied(rank, size):
    op = dist._make_nccl_premul_sum(0.5)
    data = ramp(rank, 100)
    dist.all_reduce(data, op)
    near(data, sum(ramp(r, 100) for r in range(size)) * 0.5, "half the sum")


def gathers(rank, size):
    out = torch.empty(size * 50, device="cuda")
    dist.all_gather_into_tensor(out, ramp(rank, 50))
    same(out, torch.cat([ramp(r, 50) for r in range(size)]), "all_gather_into_tensor")
    parts = [torch.empty(50 + r, device="cuda") for r in range(size)]
    dist.all_gather(parts, ramp(rank, 50 + rank))
    for r in range(size):
        same(parts[r], ramp(r, 50 + r), "all_gather of uneven parts")
    got = [torch.empty(20, device="cuda") for _ in range(size)] if rank == 0 else None
    dist.gather(ramp(rank, 20), got, dst=0)
    for r in range(size if rank == 0 else 0):
        same(got[r], ramp(r, 20), "gather")
    mine = torch.empty(20, device="cuda")
    dist.scatter(mine, [ramp(r, 20) for r in range(size)] if rank == size - 1 else None,
                 src=size - 1)
    same(mine, ramp(rank, 20), "scatter")


def reduce_scatters(rank, size):
    out = torch.empty(30, device="cuda")
    dist.reduce_scatter_tensor(out, ramp(rank, 30 * size))
    total = sum(ramp(r, 30 * size) for r in range(size))
    same(out, total[30 * rank:30 * (rank + 1)], "reduce_scatter_tensor")
    data = ramp(rank, 30)
    dist.reduce(data, dst=0)
    if rank == 0:
        same(data, sum(ramp(r, 30) for r in range(size)), "reduce")


def all_to_alls(rank, size):
    out = torch.empty(10 * size, device="cuda")
    dist.all_to_all_single(out, ramp(rank, 10 * size))
    same(out, torch.cat([ramp(r, 10 * size)[10 * rank:10 * (rank + 1)] for r in range(size)]),
         "all_to_all_single")
    # from r to s: r + s elements, none from 0 to 0
    mine = torch.cat([torch.full((rank + s,), float(10 * rank + s), device="cuda")
                      for s in range(size)])
    got = torch.empty(sum(r + rank for r in range(size)), device="cuda")
    dist.all_to_all_single(got, mine, [r + rank for r in range(size)],
                           [rank + s for s in range(size)])
    same(got, torch.cat([torch.full((r + rank,), float(10 * r + rank), device="cuda")
                         for r in range(size)]), "uneven all_to_all_single")


def transfers(rank, size):
    after, before = (rank + 1) % size, (rank - 1) % size
    got = torch.empty(1000, device="cuda")
    for request in dist.batch_isend_irecv([dist.P2POp(dist.isend, ramp(rank, 1000), after),
                                           dist.P2POp(dist.irecv, got, before)]):
        request.wait()
    same(got, ramp(before, 1000), "batch_isend_irecv")
    data = ramp(rank, 300)
    if rank == 0:
        dist.send(data, 1)
    elif rank == 1:
        dist.recv(data, 0)
        same(data, ramp(0, 300), "recv")
    data = ramp(rank, 300)
    dist.broadcast(data, src=size - 1)
    same(data, ramp(size - 1, 300), "broadcast")
    dist.barrier()


def coalesced(rank, size):
    data = [ramp(rank + i, 100) for i in range(10)]
    with dist._coalescing_manager(device=torch.device("cuda")):
        for d in data:
            dist.all_reduce(d)
    torch.cuda.synchronize()
    for i in range(10):
        same(data[i], sum(ramp(r + i, 100) for r in range(size)), "coalesced")


def groups_and_overlap(rank, size):
    group = dist.new_group([0, 1])
    if rank < 2:
        data = ramp(rank, 100)
        dist.all_reduce(data, group=group)
        same(data, ramp(0, 100) + ramp(1, 100), "a group of two")
    total, works = ramp(rank, 200000), []
    buffers = [total * i for i in range(8)]
    for b in buffers:
        works.append(dist.all_reduce(b, async_op=True))
        torch.mm(torch.ones(256, 256, device="cuda"), torch.ones(256, 256, device="cuda"))
    for w in works:
        w.wait()
    for i, b in enumerate(buffers):
        same(b, sum(ramp(r, 200000) for r in range(size)) * i, "asynchronous")


def captured(rank, size):
    data = torch.zeros(1000, device="cuda")
    source = torch.zeros(1000, device="cuda")
    dist.all_reduce(data)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        data.copy_(source)
        dist.all_reduce(data)
    for turn in range(5):
        source.copy_(ramp(rank + turn, 1000))
        graph.replay()
        torch.cuda.synchronize()
        same(data, sum(ramp(r + turn, 1000) for r in range(size)), "a graph's replay")


def model():
    torch.manual_seed(7)
    return torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64),
                               torch.nn.ReLU(), torch.nn.Linear(64, 4)).cuda()


def train(net, rank, size, steps=5):
    """Losses over the whole batch, of which this rank sees its share."""
    torch.manual_seed(11)
    inputs, targets = torch.randn(steps, 24, 32).cuda(), torch.randn(steps, 24, 4).cuda()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    losses, share = [], 24 // size
    for step in range(steps):
        part = slice(rank * share, (rank + 1) * share)
        optimizer.zero_grad()
        loss = (net(inputs[step, part]) - targets[step, part]).pow(2).mean()
        loss.backward()
        optimizer.step()
        total = loss.detach().clone()
        if size > 1:
            dist.all_reduce(total)
        losses.append(total / size)
    return torch.stack(losses)


def ddp(rank, size):
    alone = train(model(), 0, 1)
    together = train(torch.nn.parallel.DistributedDataParallel(model(), device_ids=[0]), rank, size)
    near(together, alone, "losses of DDP")


def fsdp(rank, size):
    from torch.distributed.fsdp import FullyShardedDataParallel
    alone = train(model(), 0, 1)
    together = train(FullyShardedDataParallel(model(), device_id=0), rank, size)
    near(together, alone, "losses of FSDP")


def fsdp2(rank, size):
    from torch.distributed.fsdp import fully_shard
    alone = train(model(), 0, 1)
    net = model()
    for layer in net:
        if isinstance(layer, torch.nn.Linear):
            fully_shard(layer)
    together = train(fully_shard(net), rank, size)
    near(together, alone, "losses of fully_shard")


TESTS = [all_reduce, premultiplied, gathers, reduce_scatters, all_to_alls, transfers, coalesced,
         groups_and_overlap, ddp, fsdp, fsdp2, captured]


# ---- running -------------------------------------------------------------------------------------

def work(rank, size, port, failed):
    faulthandler.dump_traceback_later(LIMIT_S, exit=True)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.cuda.set_device(0)
    dist.init_process_group("nccl", rank=rank, world_size=size,
                            timeout=datetime.timedelta(seconds=60))
    for i, test in enumerate(TESTS):
        try:
            test(rank, size)
            torch.cuda.synchronize()
        except Exception:
            failed[i] = 1
            traceback.print_exc()
            if rank == 0:
                print(f"  FAILED  {size} ranks: {test.__name__}", flush=True)
        else:
            if rank == 0 and not failed[i]:
                print(f"  ok      {size} ranks: {test.__name__}", flush=True)
    dist.destroy_process_group()


def main():
    if MISSING:
        print(f"    SKIPPED: {MISSING}\nsuite torch_nccl: 0 passed, 0 failed, 1 skipped")
        return 0
    sizes = [int(a) for a in sys.argv[1:]] or [2, 4]
    print(f"PyTorch {torch.__version__}, NCCL {torch.cuda.nccl.version()}, "
          f"{torch.cuda.get_device_name()}", flush=True)
    wrong = 0
    for size in sizes:
        failed = mp.get_context("spawn").Array("i", len(TESTS))
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        try:
            mp.spawn(work, (size, port, failed), nprocs=size)
            wrong += sum(failed)
        except Exception as error:
            print(f"  FAILED  {size} ranks: {error}", flush=True)
            wrong += max(1, sum(failed))
    print(f"suite torch_nccl: {len(TESTS) * len(sizes) - wrong} passed, {wrong} failed, 0 skipped")
    return wrong != 0


if __name__ == "__main__":
    sys.exit(main())

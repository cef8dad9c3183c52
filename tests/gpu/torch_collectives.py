"""Every torch.distributed call that PyTorch sends through NCCL, on ranks that share one GPU, with exact
results: python3 torch_collectives.py RANKS, with libnccl.so.2 preloaded."""
import sys

import torch
import torch.distributed as dist

import torch_world

TYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.int64,
         torch.uint8, torch.int8]
SIZES = [1, 1000, 300000]
checked = 0


def data(rank, count, dtype):
    """Small integers, exact in every type together with their sums over the ranks."""
    return ((torch.arange(count, device="cuda") * 7 + rank * 5) % 3).to(dtype)


def same(seen, want, what):
    global checked
    checked += 1
    torch.testing.assert_close(seen, want, rtol=0, atol=0, msg=lambda m: f"{what}: {m}")


def collectives(rank, size, count, dtype):
    what = f"{count} {dtype}"
    own = data(rank, count, dtype)
    everyone = torch.stack([data(r, count, dtype) for r in range(size)])
    for op, want in ((dist.ReduceOp.SUM, everyone.sum(0).to(dtype)),
                     (dist.ReduceOp.MAX, everyone.amax(0)), (dist.ReduceOp.MIN, everyone.amin(0)),
                     (dist.ReduceOp.PRODUCT, everyone.prod(0).to(dtype))):
        x = own.clone()
        dist.all_reduce(x, op=op)
        same(x, want, f"all_reduce {op} {what}")
    if dtype.is_floating_point:
        x = own * size
        dist.all_reduce(x, op=dist.ReduceOp.AVG)
        same(x, everyone.sum(0).to(dtype), f"all_reduce avg {what}")
    for root in range(size):
        x = own.clone()
        dist.broadcast(x, src=root)
        same(x, everyone[root], f"broadcast {what}")
        x = own.clone()
        dist.reduce(x, dst=root)
        if rank == root:
            same(x, everyone.sum(0).to(dtype), f"reduce {what}")
    out = torch.empty(size * count, device="cuda", dtype=dtype)
    dist.all_gather_into_tensor(out, own)
    same(out.view(size, count), everyone, f"all_gather_into_tensor {what}")
    parts = [torch.empty_like(own) for _ in range(size)]
    dist.all_gather(parts, own)
    same(torch.stack(parts), everyone, f"all_gather {what}")
    wide = data(rank, size * count, dtype)
    wides = torch.stack([data(r, size * count, dtype) for r in range(size)])
    x = torch.empty_like(own)
    dist.reduce_scatter_tensor(x, wide)
    same(x, wides.sum(0).to(dtype).view(size, count)[rank], f"reduce_scatter_tensor {what}")
    dist.reduce_scatter(x, list(wide.view(size, count).unbind()))
    same(x, wides.sum(0).to(dtype).view(size, count)[rank], f"reduce_scatter {what}")
    y = torch.empty_like(wide)
    dist.all_to_all_single(y, wide)
    want = torch.cat([wides[r].view(size, count)[rank] for r in range(size)])
    same(y, want, f"all_to_all_single {what}")
    outs = [torch.empty_like(own) for _ in range(size)]
    dist.all_to_all(outs, [part.contiguous() for part in wide.view(size, count).unbind()])
    same(torch.cat(outs), want, f"all_to_all {what}")


def uneven_all_to_all(rank, size):
    """rank r sends (r + 1) * (q + 1) elements to rank q."""
    splits = [(rank + 1) * (q + 1) for q in range(size)]
    out_splits = [(r + 1) * (rank + 1) for r in range(size)]
    x = torch.full((sum(splits),), float(rank), device="cuda")
    y = torch.empty(sum(out_splits), device="cuda")
    dist.all_to_all_single(y, x, out_splits, splits)
    same(y, torch.cat([torch.full((n,), float(r), device="cuda") for r, n in enumerate(out_splits)]),
         "all_to_all_single, uneven")


def transfers(rank, size):
    for count in SIZES:
        x, y = data(rank, count, torch.float32), torch.empty(count, device="cuda")
        following, before = (rank + 1) % size, (rank - 1) % size
        if rank % 2 == 0:
            dist.send(x, following)
            dist.recv(y, before)
        else:
            dist.recv(y, before)
            dist.send(x, following)
        same(y, data(before, count, torch.float32), f"send and recv {count}")
        y.fill_(-1)
        work = dist.batch_isend_irecv([dist.P2POp(dist.isend, x, before),
                                       dist.P2POp(dist.irecv, y, following)])
        for w in work:
            w.wait()
        same(y, data(following, count, torch.float32), f"batch_isend_irecv {count}")


def groups(rank, size):
    """A group of half the ranks, and asynchronous calls in flight on both."""
    half = dist.new_group(list(range(size // 2)))
    x = torch.full((1000,), float(rank + 1), device="cuda")
    y = x.clone()
    work = dist.all_reduce(x, async_op=True)
    if rank < size // 2:
        dist.all_reduce(y, group=half)
        same(y, torch.full_like(y, sum(range(1, size // 2 + 1))), "all_reduce of a subgroup")
    work.wait()
    same(x, torch.full_like(x, size * (size + 1) / 2), "asynchronous all_reduce")


def graph(rank, size):
    """An all_reduce between two kernels, captured once and replayed with other data."""
    static, out = torch.zeros(4096, device="cuda"), torch.zeros(4096, device="cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            dist.all_reduce(static.clone())
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured, capture_error_mode="thread_local"):
        x = static * 2
        dist.all_reduce(x)
        out.copy_(x + 1)
    for round_ in range(5):
        static.fill_(rank + round_)
        captured.replay()
        torch.cuda.synchronize()
        want = 2 * sum(r + round_ for r in range(size)) + 1
        same(out, torch.full_like(out, want), f"graph, replay {round_}")
    captured.reset()


def main(rank, size):
    for count in SIZES:
        for dtype in TYPES:
            collectives(rank, size, count, dtype)
    uneven_all_to_all(rank, size)
    transfers(rank, size)
    groups(rank, size)
    dist.barrier(device_ids=[0])
    graph(rank, size)
    dist.barrier(device_ids=[0])
    if rank == 0:
        print(f"ok: {size} ranks, {checked} results exact at rank 0, torch {torch.__version__}")


if __name__ == "__main__":
    torch_world.run(main, int(sys.argv[1]))

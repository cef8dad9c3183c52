"""The PyTorch backend of src/compat/torch, as one rank of a job: RANK, WORLD_SIZE, MASTER_ADDR and
MASTER_PORT in the environment; tests/suites/torch.sh starts them.

    ranks.py CASE...     functions case_* below, one after the other

Every case computes from all ranks' inputs, which are made of their rank and a seed, what each rank
must end with, in double or exactly. Says nothing unless something is wrong.
"""
import os
import signal
import sys
import threading
import time
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
from torch._C._distributed_c10d import _ProcessGroupWrapper

import tutti_torch  # noqa: F401

RANK = int(os.environ["RANK"])
SIZE = int(os.environ["WORLD_SIZE"])
PATIENCE = timedelta(seconds=120)
INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
OPS = {
    dist.ReduceOp.SUM: lambda x: x.sum(0),
    dist.ReduceOp.PRODUCT: lambda x: x.prod(0),
    dist.ReduceOp.MIN: lambda x: x.amin(0),
    dist.ReduceOp.MAX: lambda x: x.amax(0),
    dist.ReduceOp.AVG: lambda x: x.sum(0) / SIZE,
}
BITS = {
    dist.ReduceOp.BAND: torch.bitwise_and,
    dist.ReduceOp.BOR: torch.bitwise_or,
    dist.ReduceOp.BXOR: torch.bitwise_xor,
}


def made(rank, shape, dtype, seed=0):
    """Small whole numbers, so that every type holds every result exactly."""
    generator = torch.Generator().manual_seed(1000 * seed + rank)
    return torch.randint(1, 3, shape, generator=generator).to(dtype)


def everyone(shape, dtype, seed=0):
    return torch.stack([made(r, shape, dtype, seed) for r in range(SIZE)])


def expect(got, wanted, what):
    if got.shape != wanted.shape or not torch.equal(got, wanted.to(got.dtype)):
        raise AssertionError(f"rank {RANK} of {SIZE}: {what}: got {got}, expected {wanted}")


def refuses(call, *words):
    try:
        call()
    except (RuntimeError, ValueError) as error:
        missing = [word for word in words if word not in str(error)]
        assert not missing, f"'{error}' does not say {missing}"
        return
    raise AssertionError(f"rank {RANK}: nothing was refused where '{words}' was expected")


def case_types():
    for shape in [(0,), (1,), (17,), (5, 3), (1000, 33)]:
        for dtype in INTEGERS + FLOATS:
            all_inputs = everyone(shape, dtype)
            for op, reduce in OPS.items():
                if op == dist.ReduceOp.AVG and dtype in INTEGERS:
                    continue
                wide = all_inputs.double() if dtype in FLOATS else all_inputs.long()
                tensor = made(RANK, shape, dtype)
                dist.all_reduce(tensor, op)
                if op == dist.ReduceOp.AVG:  # rounded once to the type
                    assert torch.allclose(tensor.double(), reduce(wide), rtol=8e-3), f"avg {dtype}"
                else:
                    expect(tensor, reduce(wide).to(dtype), f"all_reduce {op} {dtype} {shape}")
            for op, combine in BITS.items():
                if dtype in FLOATS:
                    continue
                wanted = all_inputs[0]
                for other in all_inputs[1:]:
                    wanted = combine(wanted, other)
                tensor = made(RANK, shape, dtype)
                dist.all_reduce(tensor, op)
                expect(tensor, wanted, f"all_reduce {op} {dtype}")
    small = made(RANK, (100,), torch.float8_e4m3fn)
    dist.all_reduce(small)
    expect(small.float(), everyone((100,), torch.float32).sum(0), "fp8 sum")
    flags = torch.tensor([RANK == 0, True, False])
    dist.all_reduce(flags)
    expect(flags, torch.tensor([True, True, False]), "truth, added")
    parts = torch.full((3,), complex(RANK, 1))
    dist.all_reduce(parts)
    expect(parts, torch.full((3,), complex(SIZE * (SIZE - 1) / 2, SIZE)), "complex sum")


def case_collectives():
    for seed, (shape, dtype) in enumerate([((4, 3), torch.float32), ((0, 5), torch.float64),
                                           ((1,), torch.bool), ((7,), torch.complex64),
                                           ((300, 500), torch.bfloat16)]):
        inputs = everyone(shape, dtype, seed)
        mine = made(RANK, shape, dtype, seed)
        for root in range(SIZE):
            tensor = mine.clone()
            dist.broadcast(tensor, root)
            expect(tensor, inputs[root], "broadcast")
            parts = [torch.zeros(shape, dtype=dtype) for _ in range(SIZE)] if RANK == root else None
            dist.gather(mine, parts, root)
            if RANK == root:
                expect(torch.stack(parts), inputs, "gather")
            tensor = torch.zeros(shape, dtype=dtype)
            dist.scatter(tensor, list(inputs.unbind()) if RANK == root else None, root)
            expect(tensor, inputs[RANK], "scatter")
            if dtype != torch.bool:
                tensor = mine.clone()
                dist.reduce(tensor, root)
                expect(tensor, inputs.sum(0) if RANK == root else mine, "reduce")
        parts = [torch.zeros(shape, dtype=dtype) for _ in range(SIZE)]
        dist.all_gather(parts, mine)
        expect(torch.stack(parts), inputs, "all_gather")
        whole = torch.zeros((SIZE * shape[0], *shape[1:]), dtype=dtype)
        dist.all_gather_into_tensor(whole, mine)
        expect(whole, inputs.flatten(0, 1), "all_gather_into_tensor")
        wide = torch.stack([everyone(shape, dtype, 10 + r) for r in range(SIZE)])  # [from][to]
        if dtype != torch.bool:
            out = torch.zeros(shape, dtype=dtype)
            dist.reduce_scatter(out, list(wide[RANK].unbind()))
            expect(out, wide[:, RANK].sum(0), "reduce_scatter")
            out.zero_()
            dist.reduce_scatter_tensor(out, wide[RANK].flatten(0, 1).clone())
            expect(out, wide[:, RANK].sum(0), "reduce_scatter_tensor")
        parts = [torch.zeros(shape, dtype=dtype) for _ in range(SIZE)]
        dist.all_to_all(parts, list(wide[RANK].unbind()))
        expect(torch.stack(parts), wide[:, RANK], "all_to_all")
        whole.zero_()
        dist.all_to_all_single(whole, wide[RANK].flatten(0, 1).clone())
        expect(whole, wide[:, RANK].flatten(0, 1), "all_to_all_single")
    dist.barrier()


def case_uneven():
    sizes = [3 * r % 5 for r in range(SIZE)]  # with none at all among them
    parts = [torch.zeros(n) for n in sizes]
    dist.all_gather(parts, torch.full((sizes[RANK],), float(RANK)))
    for r, part in enumerate(parts):
        expect(part, torch.full((sizes[r],), float(r)), "all_gather, uneven")
    out = torch.zeros(sizes[RANK])
    dist.reduce_scatter(out, [torch.full((n,), 1.0 + RANK) for n in sizes])
    expect(out, torch.full((sizes[RANK],), SIZE * (SIZE + 1) / 2), "reduce_scatter, uneven")
    to = [(RANK + p) % 3 for p in range(SIZE)]
    out = torch.zeros(sum(to), 4)  # the counts of a pair are the same both ways
    dist.all_to_all_single(out, torch.full((sum(to), 4), float(RANK)), to, to)
    wanted = torch.cat([torch.full((n, 4), float(p)) for p, n in enumerate(to)])
    expect(out, wanted, "all_to_all_single, uneven")


def case_layouts():
    base = made(RANK, (6, 8), torch.float32)
    wanted = everyone((6, 8), torch.float32).sum(0)
    turned = base.clone().t()
    dist.all_reduce(turned)
    expect(turned, wanted.t(), "all_reduce of a transposed tensor")
    if RANK == 0:  # the ranks' layouts need not agree
        turned = base.clone().t()
    else:
        turned = base.t().contiguous()
    dist.broadcast(turned, 0)
    expect(turned, made(0, (6, 8), torch.float32).t(), "broadcast between layouts")
    holes = torch.zeros(12, 8)
    holes[::2] = base
    dist.all_reduce(holes[::2])
    expect(holes[::2], wanted, "all_reduce of every other row")
    expect(holes[1::2], torch.zeros(6, 8), "the rows between")
    leaf = base.clone().requires_grad_()
    dist.all_reduce(leaf.data[:, ::2])
    expect(leaf.detach()[:, ::2], wanted[:, ::2], "all_reduce of columns")
    out = torch.zeros(8, 6 * SIZE).t()
    dist.all_gather_into_tensor(out, base)
    expect(out, everyone((6, 8), torch.float32).flatten(0, 1), "all_gather into a transposed tensor")
    views()


def views():
    """Conjugated and negated tensors, whose memory holds other values than they do, at every other
    rank. PyTorch's own functions copy them for any backend, and lose what comes into the copy."""
    direct = dist.group.WORLD._get_backend(torch.device("cpu"))
    for view in torch.conj, torch._neg_view:
        def seen(tensor):
            return view(tensor) if RANK % 2 == 0 else view(tensor).resolve_conj().resolve_neg()
        inputs = [seen(made(r, (4, 3), torch.complex64) * (1 + 2j)) for r in range(SIZE)]
        wanted = torch.stack(inputs).resolve_conj().resolve_neg()
        place = inputs[0] if RANK == 0 else seen(torch.zeros(4, 3, dtype=torch.complex64))
        direct.broadcast(place, 0).wait()
        expect(place, wanted[0], f"broadcast, {view}")
        parts = [torch.zeros_like(each) for each in inputs]
        direct.allgather(parts, inputs[RANK]).wait()
        expect(torch.stack(parts), wanted, f"all_gather, {view}")
        place = seen(torch.zeros(4, 3, dtype=torch.complex64))
        works = [direct.send([inputs[RANK]], (RANK + 1) % SIZE, 0),
                 direct.recv([place], (RANK - 1) % SIZE, 0)]
        for work in works:
            work.wait()
        expect(place, wanted[RANK - 1], f"a ring, {view}")
        direct.allreduce(inputs[RANK]).wait()
        expect(inputs[RANK], wanted.sum(0), f"all_reduce, {view}")


def case_transfers():
    right, left = (RANK + 1) % SIZE, (RANK - 1) % SIZE
    for n in [0, 1, 1000, 3_000_000]:
        out, back = torch.full((n,), float(RANK)), torch.zeros(n)
        works = [dist.isend(out, right), dist.irecv(back, left)]
        dist.all_reduce(torch.ones(1000))  # between start and wait
        for work in works:
            work.wait()
        expect(back, torch.full((n,), float(left)), f"a ring of {n}")
        back.zero_()
        works = dist.batch_isend_irecv([dist.P2POp(dist.irecv, back, left),
                                        dist.P2POp(dist.isend, out, right)])
        for work in works:
            work.wait()
        expect(back, torch.full((n,), float(left)), f"a batch of {n}")
    if SIZE > 1 and RANK < 2:  # blocking, and a receive into every other element
        holes = torch.zeros(8)
        if RANK == 0:
            dist.send(torch.arange(4.0), 1)
        else:
            dist.recv(holes[::2], 0)
            expect(holes, torch.tensor([0, 0, 1, 0, 2, 0, 3, 0.0]), "recv")
    # many, polled
    works, places = [], []
    for i in range(100):
        places.append(torch.zeros(10))
        works += [dist.irecv(places[-1], left), dist.isend(torch.full((10,), float(i)), right)]
    while not all(work.is_completed() for work in works):
        time.sleep(0.001)
    for i, place in enumerate(places):
        expect(place, torch.full((10,), float(i)), "transfers in order")
    if SIZE > 1:
        refuses(lambda: dist.send(torch.ones(1), right, tag=3), "tag 3", "not supported")
    # one rank waits in a collective that the other reaches only after its transfer
    if SIZE > 1:
        work = dist.all_reduce(torch.ones(1), async_op=True)
        big = torch.zeros(3_000_000)
        if RANK ^ 1 < SIZE:
            (dist.recv if RANK % 2 else dist.send)(big, RANK ^ 1)
        work.wait()


def case_async():
    works, tensors = [], [torch.full((i * 100,), 1.0) for i in range(50)]
    for tensor in tensors:
        works.append(dist.all_reduce(tensor, async_op=True))
    works[-1].wait()
    assert all(work.is_completed() for work in works)
    for tensor in tensors:
        expect(tensor, torch.full_like(tensor, SIZE), "all_reduce, started")
    tensor = torch.ones(10)
    doubled = dist.all_reduce(tensor, async_op=True).get_future().then(lambda f: f.value()[0] * 2)
    expect(doubled.wait(), torch.full((10,), 2.0 * SIZE), "a future's continuation")
    with torch.inference_mode():  # in which the threads of the backend are not
        columns = torch.ones(4, 4)
        work = dist.all_reduce(columns[:, ::2], async_op=True)
        while not work.is_completed():
            time.sleep(0.001)
        work.wait()
        expect(columns[:, ::2], torch.full((4, 2), 1.0 * SIZE), "all_reduce in inference mode")
    def again(future):  # a callback that waits for an operation of its own
        return dist.all_reduce(future.value()[0], async_op=True).get_future().wait()[0]
    tensor = torch.ones(10)
    twice = dist.all_reduce(tensor, async_op=True).get_future().then(again)
    expect(twice.wait(), torch.full((10,), 1.0 * SIZE * SIZE), "a callback's operation")
    def deeper(future):  # and one that carries out another's, whose callback waits within it
        dist.all_reduce(torch.ones(10))
        return dist.all_reduce(future.value()[0], async_op=True).get_future().wait()[0]
    if RANK == SIZE - 1:
        time.sleep(1)
    started = [dist.all_reduce(torch.ones(10), async_op=True) for _ in range(2)]
    for future in [work.get_future().then(deeper) for work in started]:
        future.wait()  # whose order, and so what they bring, is not the same on all ranks
    work = dist.all_reduce(tensor, async_op=True)
    work.wait(timedelta(seconds=60))
    if RANK == 0 and SIZE > 1:  # the others come a second later
        late = dist.barrier(async_op=True)
        refuses(lambda: late.wait(timedelta(milliseconds=50)), "has not ended within 50 ms")
        late.wait()
    elif SIZE > 1:
        time.sleep(1)
        dist.barrier()
    with_many = [torch.full((n,), float(RANK)) for n in (1, 100, 7)]
    dist.all_reduce_coalesced(with_many)
    for tensor in with_many:
        expect(tensor, torch.full_like(tensor, SIZE * (SIZE - 1) / 2), "all_reduce_coalesced")
    inputs = [made(RANK, (n, 2), torch.float32, n) for n in (1, 30)]
    wanted = [everyone((n, 2), torch.float32, n) for n in (1, 30)]
    whole = functional.all_gather_into_tensor_coalesced(inputs, dist.group.WORLD)
    for got, each in zip(whole, wanted):
        expect(functional.wait_tensor(got), each.flatten(0, 1), "all_gather_into_tensor_coalesced")
    parts = functional.reduce_scatter_tensor_coalesced(
        [each.flatten(0, 1) for each in wanted], "sum", [0, 0], dist.group.WORLD)
    for got, each in zip(parts, wanted):
        expect(functional.wait_tensor(got), each[RANK] * SIZE, "reduce_scatter_tensor_coalesced")
    lists = [[torch.zeros_like(each) for _ in range(SIZE)] for each in inputs]
    dist.all_gather_coalesced(lists, inputs)
    for got, each in zip(lists, wanted):
        expect(torch.stack(got), each, "all_gather_coalesced")


def case_fork():
    """A child may end the parent's group, whose threads it has not."""
    dist.all_reduce(torch.ones(1), async_op=True).wait()
    child = os.fork()
    if child == 0:
        refuses(lambda: dist.all_reduce(torch.ones(1)), "belongs to the parent process")
        dist.destroy_process_group()
        os._exit(0)
    for _ in range(600):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        time.sleep(0.1)
    if not ended:
        os.kill(child, signal.SIGKILL)
    assert ended, "the child of a fork hangs where it ends the group"
    assert status == 0, f"the child of a fork ended with {status}"
    dist.all_reduce(torch.ones(1))


def case_groups():
    objects = [None] * SIZE
    dist.all_gather_object(objects, {"rank": RANK, "text": "x" * RANK})
    assert [each["rank"] for each in objects] == list(range(SIZE))
    box = [[1, "two"] if RANK == 0 else None]
    dist.broadcast_object_list(box, 0)
    assert box == [[1, "two"]]
    even = dist.new_group(list(range(0, SIZE, 2)))
    odd = dist.new_group(list(range(1, SIZE, 2))) if SIZE > 1 else None
    group = odd if RANK % 2 else even
    tensor = torch.ones(3)
    dist.all_reduce(tensor, group=group)
    expect(tensor, torch.full((3,), float(len(range(RANK % 2, SIZE, 2)))), "all_reduce in a group")
    if RANK % 2 == 0:
        dist.destroy_process_group(even)
    dist.barrier()


def case_again():
    """Groups one after the other over one store: PyTorch gives them one name, and the first rank
    comes last."""
    store = dist.distributed_c10d._get_default_store()
    for late in (0, 1):
        dist.destroy_process_group()
        if RANK == 0:
            time.sleep(late)
        dist.init_process_group("tutti", store=store, rank=RANK, world_size=SIZE, timeout=PATIENCE)
        tensor = torch.ones(3)
        dist.all_reduce(tensor)
        expect(tensor, torch.full((3,), 1.0 * SIZE), "all_reduce in a group made again")


def case_leaves():
    """A callback ends the group, in the thread that carries its operations out. The last case."""
    gone = threading.Event()

    def leave(_):
        dist.destroy_process_group()
        gone.set()

    if RANK == SIZE - 1:
        time.sleep(1)
    dist.all_reduce(torch.ones(3), async_op=True).get_future().then(leave)
    assert gone.wait(60), f"rank {RANK} of {SIZE}: the group did not end"
    time.sleep(1)  # until that thread has left the interpreter, which ends now


def expect_error(group, name):
    gloo = dist.ProcessGroupGloo(dist.HashStore(), 0, 1, PATIENCE)  # asked through a wrapper of two
    backend = group._get_backend(torch.device("cpu"))
    got = _ProcessGroupWrapper(backend, gloo).get_error().name
    assert got == name, f"rank {RANK} of {SIZE}: {group.group_desc}: {got}, expected {name}"


def case_patience():
    """Each group has its own, and says so where a transfer has none left."""
    hasty = dist.new_group(timeout=timedelta(seconds=5))
    expect_error(hasty, "SUCCESS")
    if SIZE > 1 and RANK == 0:
        refuses(lambda: dist.recv(torch.ones(1), 1, group=hasty), "rank 1")
        expect_error(hasty, "TIMEOUT")
        time.sleep(1)
    dist.barrier()  # in which the others have waited longer than that
    expect_error(dist.group.WORLD, "SUCCESS")


def case_refused():
    refuses(lambda: dist.all_gather_into_tensor(torch.zeros(3), torch.zeros(2)),
            "the output of an allgather has 3 elements") if SIZE != 1 else None
    refuses(lambda: dist.all_reduce(torch.ones(3).to_sparse()), "dense")
    refuses(lambda: dist.all_to_all_single(torch.zeros(5), torch.zeros(5), [1] * SIZE, [1] * SIZE),
            "split sizes") if SIZE != 5 else None
    refuses(lambda: dist.reduce_scatter(torch.ones(1), [torch.ones(1)] * SIZE + [torch.ones(1)]),
            "ranks")
    meta = torch.empty(3, device="meta")
    refuses(lambda: torch.distributed.group.WORLD._get_backend(torch.device("cpu")).allreduce([meta]),
            "is on meta", "host memory")
    dist.barrier()


def case_disagree():
    if SIZE > 1:
        group = dist.new_group()
        splits = [1] * SIZE if RANK == 1 else None
        refuses(lambda: dist.all_to_all_single(torch.ones(SIZE), torch.ones(SIZE), splits, splits,
                                               group=group), "ranks disagree", "alltoallv")
        refuses(lambda: dist.all_reduce(torch.ones(3 + (RANK == 1))), "ranks disagree",
                "allreduce(count")


def case_dies():
    """The last rank leaves without a word: every other one is told who."""
    dist.barrier()
    if RANK == SIZE - 1:
        os._exit(0)
    begun = time.monotonic()
    refuses(lambda: dist.all_reduce(torch.ones(1000)), f"rank {SIZE - 1}")
    assert time.monotonic() - begun < 60
    os._exit(0)  # the others' store may be gone


def model():
    torch.manual_seed(7)
    return torch.nn.Sequential(torch.nn.Linear(20, 50), torch.nn.Tanh(), torch.nn.Linear(50, 3))


def train(net, rank, size, steps=5):
    """Losses of `steps` steps of a share of the same data."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(3)
    data, target = torch.randn(24, 20, generator=generator), torch.randn(24, 3, generator=generator)
    share = slice(rank * 24 // size, (rank + 1) * 24 // size)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(net(data[share]), target[share])
        loss.backward()
        optimizer.step()
        mean = loss.detach().clone()
        if size > 1:
            dist.all_reduce(mean, dist.ReduceOp.AVG)
        losses.append(mean.item())
    return torch.tensor(losses)


def case_ddp():
    alone = train(model(), 0, 1)
    ddp = torch.nn.parallel.DistributedDataParallel(model(), bucket_cap_mb=0.002)
    both = train(ddp, RANK, SIZE)
    assert torch.allclose(alone, both, rtol=1e-5), f"{alone} alone, {both} together"


def case_fsdp():
    from torch.distributed.fsdp import fully_shard

    from torch.distributed.device_mesh import init_device_mesh

    alone = train(model(), 0, 1)
    net = model()
    mesh = init_device_mesh("cpu", (SIZE,))
    for layer in net:
        if isinstance(layer, torch.nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(net, mesh=mesh)
    both = train(net, RANK, SIZE)
    assert torch.allclose(alone, both, rtol=1e-5), f"{alone} alone, {both} together"


def main():
    dist.init_process_group("tutti", timeout=PATIENCE)
    for case in sys.argv[1:]:
        globals()["case_" + case]()
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()

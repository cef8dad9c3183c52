"""DDP, FSDP and fully_shard train a small model on ranks that share one GPU, and the losses are those
of one rank that sees the whole batch: python3 torch_training.py RANKS, with libnccl.so.2 preloaded.

Why the losses are close and not equal: every rank has 1/RANKS of the same global batch in float32, so
a gradient is a mean of means where one rank takes one mean. The two differ in the order of some 64
additions, by less than 64 * 2^-24 = 4e-6 of the value; the losses of 10 steps may drift by a few times
that: 5e-5 relative. A wrong byte, a lost or a repeated gradient is off by orders of magnitude more."""
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel

import torch_world

STEPS, BATCH, WIDTH, TOLERANCE = 10, 64, 256, 5e-5


def make_model():
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.LayerNorm(4 * WIDTH),
                         nn.Linear(4 * WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, 16)).cuda()


def train(model, rank, size):
    """Losses of the global batch, which every rank takes its part of."""
    generator = torch.Generator().manual_seed(11)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    inputs = torch.randn(BATCH, WIDTH, generator=generator)
    targets = torch.randn(BATCH, 16, generator=generator)
    for _ in range(STEPS):
        part = slice(rank * BATCH // size, (rank + 1) * BATCH // size)
        loss = nn.functional.mse_loss(model(inputs[part].cuda()), targets[part].cuda())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total = loss.detach().double().clone()
        if size > 1:
            dist.all_reduce(total)
        losses.append(total.item() / size)
    return torch.tensor(losses)


def sharded(model):
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer)
    return fully_shard(model)


def main(rank, size):
    want = train(make_model(), 0, 1)
    wrappers = {
        "DDP": lambda m: DistributedDataParallel(m, device_ids=[0]),
        "FSDP": lambda m: FullyShardedDataParallel(m, device_id=0, use_orig_params=True),
        "fully_shard": sharded,
    }
    worst = {}
    for name, wrap in wrappers.items():
        seen = train(wrap(make_model()), rank, size)
        worst[name] = ((seen - want).abs() / want.abs()).max().item()
        assert worst[name] <= TOLERANCE, \
            f"{name}: losses {seen.tolist()}, one rank {want.tolist()}, off by {worst[name]:.1e}"
        assert want[-1] < 0.9 * want[0], f"nothing was learnt: {want.tolist()}"
    if rank == 0:
        print(f"ok: {size} ranks, {STEPS} steps, largest relative difference from one rank: " +
              ", ".join(f"{name} {value:.1e}" for name, value in worst.items()))


if __name__ == "__main__":
    torch_world.run(main, int(sys.argv[1]))

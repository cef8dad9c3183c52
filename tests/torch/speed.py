"""How long PyTorch's calls take over Gloo and over Tutti, in turn in one job.

    for r in 0 1; do RANK=$r WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 \
        python tests/torch/speed.py & done; wait

For every call and size: the median of 15 rounds' mean time a call, in microseconds, the least and
the most, and Gloo's over Tutti's. A round lasts about 20 ms.
"""
import os
import statistics
import time

import torch
import torch.distributed as dist

import tutti_torch  # noqa: F401

RANK, SIZE = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
CALLS = {
    "all_reduce": lambda n, g: (lambda t=torch.ones(n): dist.all_reduce(t, group=g)),
    "broadcast": lambda n, g: (lambda t=torch.ones(n): dist.broadcast(t, 0, group=g)),
    "all_gather_into_tensor": lambda n, g: (
        lambda o=torch.empty(n * SIZE), t=torch.ones(n): dist.all_gather_into_tensor(o, t, group=g)),
    "all_to_all_single": lambda n, g: (
        lambda o=torch.empty(n * SIZE), t=torch.ones(n * SIZE): dist.all_to_all_single(o, t, group=g)),
}


def timed(call, times, group):
    dist.barrier(group=group)
    begun = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - begun) / times * 1e6


def main():
    dist.init_process_group("tutti")
    groups = {"gloo": dist.new_group(backend="gloo"), "tutti": dist.group.WORLD}
    if RANK == 0:
        print(f"PyTorch {torch.__version__}, {SIZE} ranks, float32; us a call: median (least, most)")
        print(f"{'call':24}{'bytes':>10}{'gloo':>30}{'tutti':>30}{'ratio':>8}")
    for name, make in CALLS.items():
        for count in (2, 1024, 65536, 4194304):
            calls = {who: make(count, group) for who, group in groups.items()}
            for who in calls:
                timed(calls[who], 5, groups[who])
            slow = torch.tensor(max(timed(calls[who], 5, groups[who]) for who in calls))
            dist.broadcast(slow, 0)
            times = max(1, min(1000, int(20000 / slow.item())))
            rounds = {who: [] for who in calls}
            for _ in range(15):
                for who in calls:
                    rounds[who].append(timed(calls[who], times, groups[who]))
            if RANK == 0:
                text = {who: f"{statistics.median(r):.1f} ({min(r):.1f}, {max(r):.1f})"
                        for who, r in rounds.items()}
                ratio = statistics.median(rounds["gloo"]) / statistics.median(rounds["tutti"])
                print(f"{name:24}{4 * count:>10}{text['gloo']:>30}{text['tutti']:>30}{ratio:>8.1f}",
                      flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

"""What the PyTorch scripts of tests/gpu share: ranks of one GPU as processes. That they have called the
library that was preloaded is seen by who runs them (tests/gpu/run)."""
import faulthandler
import os
import socket
import sys
import traceback

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

HANGS_S = 45  # less than a step has: what hangs shows where, what is only slow goes on


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _rank(rank, function, size, port):
    faulthandler.dump_traceback_later(HANGS_S)
    try:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank),
                          WORLD_SIZE=str(size), LOCAL_RANK="0", LOCAL_WORLD_SIZE="1")
        torch.cuda.set_device(0)
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        dist.init_process_group("nccl", rank=rank, world_size=size,
                                device_id=torch.device("cuda", 0))
        function(rank, size)
        torch.cuda.synchronize()
        dist.destroy_process_group()
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def run(function, size):
    """Runs function(rank, size) as every rank; the exit status tells."""
    mp.spawn(_rank, (function, size, free_port()), nprocs=size, join=True)

"""What the PyTorch scripts of tests/gpu share: ranks of one GPU as processes, and the proof that the
library under torch.distributed is the one that was preloaded."""
import ctypes
import os
import re
import socket
import sys
import traceback

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def check_library():
    """What PyTorch calls is ours. Some builds map NVIDIA's file too, since their package opens it by
    its path; nobody finds a symbol in it, because the preloaded library comes first."""
    ours = os.path.realpath(os.environ["TUTTI_TEST_NCCL"])
    with open("/proc/self/maps", encoding="ascii") as maps:
        ranges = [(int(m[1], 16), int(m[2], 16), os.path.realpath(m[3])) for m in
                  re.finditer(r"^(\w+)-(\w+) .*?(/\S+)$", maps.read(), re.M)]
    for library in (None, "libnccl.so.2"):
        for name in ("ncclAllReduce", "ncclCommInitRankConfig", "ncclGetVersion"):
            address = ctypes.cast(getattr(ctypes.CDLL(library), name), ctypes.c_void_p).value
            file = next(f for low, high, f in ranges if low <= address < high)
            assert file == ours, f"{name} of {library or 'the program'} lies in {file}, not {ours}"
    version = torch.cuda.nccl.version()
    assert version == (2, 28, 9), f"torch.cuda.nccl.version() is {version}, expected (2, 28, 9)"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _rank(rank, function, size, port):
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
        check_library()
        dist.destroy_process_group()
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def run(function, size):
    """Runs function(rank, size) as every rank; the exit status tells."""
    mp.spawn(_rank, (function, size, free_port()), nprocs=size, join=True)

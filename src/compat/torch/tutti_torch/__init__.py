"""torch.distributed over Tutti, for tensors in host memory.

    import tutti_torch
    torch.distributed.init_process_group("tutti")
"""
import torch.distributed

from tutti_torch import _backend

torch.distributed.Backend.register_backend("tutti", _backend.create, devices=["cpu"])

"""How matrix products round here: a digest that tells apart what no name does."""

import hashlib

import torch
from torch import Tensor

from llamita.runtime.hardware import AUTOCAST, Hardware

SHAPES = (64, 256, 64), (256, 128, 2048), (128, 1376, 512)
"""Rows, inner size and columns of the products: those of small layers, a head, and a feed-forward layer."""
DIGITS = 12


def product_digest(hardware: Hardware) -> str:
    """A digest of a few matrix products on the device, in the precision of the run.

    Two processors of one name may sum in another order: another virtual machine, a library that was told to use fewer
    instructions (`ONEDNN_MAX_CPU_ISA`), another build of torch. On one thread, since more may sum in yet another order.
    """
    digest, threads = hashlib.sha256(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for rows, inner, columns in SHAPES:
            x, weight = _values(rows, inner, hardware), _values(inner, columns, hardware)
            digest.update(torch.mm(x, weight).cpu().float().numpy().tobytes())
    finally:
        torch.set_num_threads(threads)
    return digest.hexdigest()[:DIGITS]


def _values(rows: int, columns: int, hardware: Hardware) -> Tensor:
    """Always the same (rows, columns), drawn on the CPU."""
    values = torch.empty(rows, columns).normal_(generator=torch.Generator().manual_seed(columns))
    return values.to(hardware.device, AUTOCAST.get(hardware.precision, torch.float32))

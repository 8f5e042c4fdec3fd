"""Gradient clipping by global norm (Pascanu et al., 2013)."""

from collections.abc import Iterable

import torch
from torch import Tensor

from llamita.ops.cpu.global_norm import global_norm, scale_
from llamita.optim.dispatch import use_fused_kernel


@torch.no_grad()
def clip_grad_norm_(params: Tensor | Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients in place by one factor, so that their global norm is at most `max_norm`.

    Returns the norm before clipping, a tensor () (reading it synchronizes with the device). Gradients within the bound
    are left bitwise unchanged. With `max_norm` infinite the norm is only measured, as long as it is finite.
    """
    params = [params] if isinstance(params, Tensor) else params
    grads = [p.grad for p in params if p.grad is not None]
    if not grads:
        return torch.zeros(())
    if use_fused_kernel(grads):
        norm = global_norm(grads)
        if norm > max_norm:
            scale_(grads, (max_norm / (norm + 1e-6)).item())
        return norm
    norm = torch.stack([grad.float().norm() for grad in grads]).norm()
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)  # stays on the device: no synchronization
    for grad in grads:
        grad.mul_(scale.to(grad.device))
    return norm

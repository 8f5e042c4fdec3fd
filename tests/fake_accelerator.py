"""An accelerator that every machine has: torch sees a device of its own, and the CPU computes what is asked of it.

A tensor on "fakegpu" holds a tensor on the CPU. An operation unwraps its tensors, runs on the CPU, and wraps its
results: so these can be compared with the CPU's, while torch's dispatcher, autograd and autocast take the paths of an
accelerator. Like a real one it refuses a tensor on the CPU among its own; like Apple's it has no float64.

Registration is for the whole process: `register()` only where nothing else is tested.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

DEVICE = "fakegpu"
aten = torch.ops.aten
MOVES = (aten._to_copy, aten.copy_)  # between devices
INDEXING = (aten.index, aten.index_put, aten.index_put_)  # indices may lie on the CPU, as on CUDA and MPS
AUTOCAST = ("linear", "matmul", "mm", "bmm", "addmm", "scaled_dot_product_attention")


class WrongDeviceError(RuntimeError):
    """A tensor on the CPU among tensors on the accelerator."""


class AcceleratorTensor(Tensor):
    """A tensor on the accelerator; `held` is the tensor on the CPU that has its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "AcceleratorTensor":
        if held.dtype == torch.float64:
            raise TypeError("the accelerator has no float64")
        layout = held.shape, held.stride(), held.storage_offset()
        tensor = Tensor._make_wrapper_subclass(cls, *layout, dtype=held.dtype, device=torch.device(DEVICE, 0))
        tensor.held = held
        return tensor

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(op, args, kwargs or {})


class Accelerator(TorchDispatchMode):
    """Lets factory functions make tensors on the accelerator, and records the operations that run there by name."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: set[str] = set()

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not names_accelerator(kwargs) and not holds(AcceleratorTensor, args, kwargs):
            return op(*args, **kwargs)
        self.operations.add(op.name().removeprefix("aten::"))
        return compute(op, args, kwargs)


def compute(op: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation of the accelerator on the CPU."""
    require_one_device(op, args, kwargs)
    on_cpu = {**kwargs, "device": "cpu"} if "device" in kwargs else kwargs
    held_args, held_kwargs = tree_map_only(AcceleratorTensor, lambda tensor: tensor.held, (args, on_cpu))
    result = op(*held_args, **held_kwargs)
    if held_args and result is held_args[0]:
        return args[0]  # in place
    if kwargs.get("device") is not None and not names_accelerator(kwargs):
        return result  # moved to the CPU
    return return_and_correct_aliasing(op, args, kwargs, tree_map_only(Tensor, AcceleratorTensor, result))


def require_one_device(op: Any, args: Any, kwargs: dict[str, Any]) -> None:
    """Raise `WrongDeviceError` for tensors on the CPU, but for single numbers, which real accelerators take."""
    if op.overloadpacket in MOVES:
        return
    checked = (args[0], args[2:]) if op.overloadpacket in INDEXING else args
    leaves = [leaf for leaf in tree_leaves((checked, kwargs)) if isinstance(leaf, Tensor)]
    if strangers := [tuple(leaf.shape) for leaf in leaves if leaf.device.type != DEVICE and leaf.dim() > 0]:
        raise WrongDeviceError(f"{op.name()}: tensors of shape {strangers} are on the CPU")


def names_accelerator(kwargs: dict[str, Any]) -> bool:
    return kwargs.get("device") is not None and torch.device(kwargs["device"]).type == DEVICE


def holds(kind: type, *arguments: Any) -> bool:
    return any(isinstance(leaf, kind) for leaf in tree_leaves(arguments))


class _Module(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


_libraries: list[torch.library.Library] = []  # kept: what a library registered goes with it


def register() -> None:
    """Make the device known to torch, in this process."""
    torch.set_num_threads(1)
    torch.__future__.set_swap_module_params_on_conversion(True)  # else `.to` unties tied weights of a tensor subclass
    _setup_privateuseone_for_python_backend(DEVICE, backend_module=_Module())
    rest, own = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    _libraries.extend((rest, own))
    rest.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    for name in AUTOCAST:
        own.impl(name, _autocast(getattr(aten, name)), "AutocastPrivateUse1")
    # By these, `torch.tensor(numbers, device=...)` goes past Python's dispatcher.
    own.impl("empty_strided", _empty_strided, "PrivateUse1")
    own.impl("_copy_from", _copy_from, "PrivateUse1")


def _autocast(op: Any) -> Any:
    """An operation that casts its arguments first, as autocast does on every device."""

    def cast(tensor: Tensor) -> Tensor:
        return tensor.to(torch.get_autocast_dtype(DEVICE)) if tensor.is_floating_point() else tensor

    def run(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)):
            args, kwargs = tree_map_only(Tensor, cast, (args, kwargs))
            return op(*args, **kwargs)

    return run


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> Tensor:
    return AcceleratorTensor(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source: Any, target: Any, non_blocking: bool = False) -> Tensor:
    target.held.copy_(getattr(source, "held", source))
    return target

"""Where and how a step is computed: device, precision, threads, and `torch.compile`."""

from llamita.runtime.hardware import Hardware, choose_hardware

__all__ = ["Hardware", "choose_hardware"]

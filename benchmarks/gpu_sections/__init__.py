"""The sections of `benchmarks/gpu.py`, one module each."""

SECTIONS = {
    "tests": "The test suite on the device",
    "training": "Training in bf16 and fp16",
    "attention": "The attention kernel",
    "throughput": "Tokens per second and MFU",
    "memory": "Estimated and measured memory",
    "resume": "Kill and resume",
}
"""Module -> title, in the order of the report."""

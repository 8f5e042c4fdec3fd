"""The digest of matrix products: equal where they round alike, different where a library sums in another order."""

import os
import subprocess
import sys

import pytest
import torch

from llamita.jit.cpu import cpu_flags
from llamita.runtime.hardware import Hardware
from llamita.runtime.rounding import product_digest

PRINT_DIGEST = """
from llamita.runtime.hardware import Hardware
from llamita.runtime.rounding import product_digest
print(product_digest(Hardware("cpu", "bf16", 1)))
"""


def digest(precision: str, threads: int = 1) -> str:
    return product_digest(Hardware("cpu", precision, threads))


def digest_of_another_process(**environment: str) -> str:
    command = [sys.executable, "-c", PRINT_DIGEST]
    result = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
    return result.stdout.strip()


def test_the_digest_is_the_same_again_with_any_number_of_threads_and_leaves_them_as_they_were():
    before = torch.get_num_threads()
    expected = digest("bf16")
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        assert digest("bf16", threads) == expected
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)


def test_each_precision_rounds_in_its_own_way():
    assert len({digest("fp32"), digest("bf16"), digest("fp16")}) == 3


@pytest.mark.skipif("amx_bf16" not in cpu_flags(), reason="needs a processor with AMX")
def test_torch_told_to_leave_instructions_out_has_another_digest():
    expected = digest("bf16")
    assert digest_of_another_process() == expected
    assert digest_of_another_process(ONEDNN_MAX_CPU_ISA="AVX512_CORE_BF16") != expected

"""What the CPUs of this machine can do with bfloat16, read from /proc/cpuinfo without TensorFlow."""

import pathlib
import re

BFLOAT16_FLAGS = ("amx_bf16", "avx512_bf16")
"""The flags of Linux for matrix products of bfloat16, the fastest first: AMX on Intel, AVX512-BF16 on AMD as well."""


def bfloat16_flags(cpuinfo: str | None = None) -> list[str]:
    """Returns which of `BFLOAT16_FLAGS` a machine has, in that order.

    Args:
        cpuinfo: the content of its /proc/cpuinfo; None for this machine, where a missing file counts as no flags.
    """
    if cpuinfo is None:
        try:
            cpuinfo = pathlib.Path("/proc/cpuinfo").read_text()
        except OSError:
            return []
    # All cores of a machine have the same flags, so the first line of flags is enough.
    found = re.search(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)
    flags = found[1].split() if found else []
    return [flag for flag in BFLOAT16_FLAGS if flag in flags]

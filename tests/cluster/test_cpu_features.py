"""The flags of /proc/cpuinfo: for two cores, without any, and on a machine without that file."""

import pathlib

import pytest

from tfps.cluster.cpu_features import bfloat16_flags

CORE = "processor\t: {}\nmodel name\t: A CPU\nflags\t\t: fpu avx512f {} sse\nbugs\t\t: avx512_bf16\n\n"


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ("avx512_bf16", ["avx512_bf16"]),
        ("avx512_bf16 amx_bf16", ["amx_bf16", "avx512_bf16"]),
        ("amx_int8 avx512_bf16x", []),
        ("", []),
    ],
)
def test_flags_of_a_core(flags, found):
    assert bfloat16_flags(CORE.format(0, flags) + CORE.format(1, flags)) == found


def test_a_text_of_something_else_has_none():
    assert bfloat16_flags("") == bfloat16_flags("Features\t: bf16\n") == []


def test_this_machine(monkeypatch):
    cpuinfo = pathlib.Path("/proc/cpuinfo").read_text().split()
    assert bfloat16_flags() == [flag for flag in ("amx_bf16", "avx512_bf16") if flag in cpuinfo]

    def missing(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(pathlib.Path, "read_text", missing)
    assert bfloat16_flags() == []

"""PURE: which instructions a processor has that make kernels fast, from what its operating system writes of it."""

from __future__ import annotations

import re
from typing import Final

_X86: Final = frozenset(
    {
        "sse4_2",
        "avx",
        "avx2",
        "avx_vnni",
        "avx512f",
        "avx512bw",
        "avx512dq",
        "avx512vl",
        "avx512_bf16",
        "avx512_fp16",
        "avx512_vnni",
        "avx512vbmi",
        "amx_bf16",
        "amx_int8",
        "amx_tile",
        "bmi2",
        "f16c",
        "fma",
    }
)
_ARM: Final = {
    "asimd": "neon",
    "asimddp": "dotprod",
    "asimdhp": "fp16",
    "bf16": "bf16",
    "i8mm": "i8mm",
    "sve": "sve",
    "sve2": "sve2",
    "sme": "sme",
    "sme2": "sme2",
}
_APPLE: Final = {
    "hw.optional.AdvSIMD": "neon",
    "hw.optional.arm.AdvSIMD": "neon",
    "hw.optional.arm.FEAT_DotProd": "dotprod",
    "hw.optional.arm.FEAT_FP16": "fp16",
    "hw.optional.arm.FEAT_BF16": "bf16",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_SME": "sme",
    "hw.optional.arm.FEAT_SME2": "sme2",
    "hw.optional.avx1_0": "avx",
    "hw.optional.avx2_0": "avx2",
    "hw.optional.avx512f": "avx512f",
    "hw.optional.avx512bw": "avx512bw",
    "hw.optional.avx512vl": "avx512vl",
    "hw.optional.f16c": "f16c",
    "hw.optional.fma": "fma",
    "hw.optional.bmi2": "bmi2",
    "hw.optional.sse4_2": "sse4_2",
}
_LINE: Final = re.compile(r"^(flags|Features)\s*:(.*)$", re.MULTILINE)


def features_of_linux(cpuinfo: str) -> tuple[str, ...]:
    """From the text of /proc/cpuinfo, in alphabetical order. Of unlike cores only what all have counts: a thread may move."""
    cores = [_of_core(kind, words.split()) for kind, words in _LINE.findall(cpuinfo)]
    return tuple(sorted(set.intersection(*cores))) if cores else ()


def features_of_macos(sysctl: str) -> tuple[str, ...]:
    """From the `name: value` lines of `sysctl hw.optional`, in alphabetical order."""
    pairs = (line.partition(":") for line in sysctl.splitlines())
    return tuple(sorted({_APPLE[name] for name, _, value in pairs if name in _APPLE and value.strip() == "1"}))


def _of_core(kind: str, words: list[str]) -> set[str]:
    if kind == "Features":
        return {_ARM[word] for word in words if word in _ARM}
    return {word for word in words if word in _X86}

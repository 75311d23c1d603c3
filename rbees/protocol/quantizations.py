"""PURE: what names of model files say about their quantisation, as llama.cpp spells it (`model-Q4_K_M.gguf`, `model.q8_0.gguf`)."""

from __future__ import annotations

import re
from typing import Final

LABEL: Final = re.compile(
    r"(?<![A-Za-z0-9])("
    r"(?:I?Q|TQ)\d(?:_[A-Z0-9]{1,3}){0,3}|MXFP4(?:_MOE)?|BF16|FP?16|FP?32|Q8"
    r")(?![A-Za-z0-9_])",
    re.IGNORECASE,
)


def label_of(path: str) -> str:
    """The quantisation that a file name states last, in llama.cpp's spelling; the folder's where the name states none."""
    name = path.rpartition("/")[2]
    found: list[str] = LABEL.findall(name) or LABEL.findall(path)
    if not found:
        return ""
    label = found[-1].upper()
    return {"FP16": "F16", "FP32": "F32"}.get(label, label)

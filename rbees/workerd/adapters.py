"""LoRA adapters as they are asked for on the command line: a file, how strongly it counts, and its digest.

A worker with adapters answers otherwise than one without, so their digests and scales are part of the name under which it serves.
"""

from __future__ import annotations

import hashlib
import math
import os
import stat
from pathlib import Path
from typing import Final

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.workerd.engine.adapter import Adapter

MAX_ADAPTERS: Final = 16
MOST_SCALE: Final = 100.0
_CHUNK_BYTES: Final = 1 << 20


def read_adapters(words: tuple[str, ...]) -> tuple[Adapter, ...]:
    """The adapters that `PATH` or `PATH=SCALE` name, in their order.

    Raises:
        RbeesError: CONFIGURATION, MODEL_NOT_FOUND
    """
    if len(words) > MAX_ADAPTERS:
        raise RbeesError(ErrorCode.CONFIGURATION, f"A worker takes {MAX_ADAPTERS} adapters at most; merge some into the model.")
    return tuple(_read(word) for word in words)


def named_with(model_ref: str, adapters: tuple[Adapter, ...]) -> str:
    """The name of a model together with its adapters."""
    return "".join([model_ref, *(f"+lora:{adapter.sha256[:16]}*{adapter.scale:g}" for adapter in adapters)])


def _read(word: str) -> Adapter:
    path, scale = _parted(word)
    name = Path(path).name
    if not (math.isfinite(scale) and abs(scale) <= MOST_SCALE):
        raise RbeesError(
            ErrorCode.CONFIGURATION, f"The scale of `--lora {name}` must lie between -{MOST_SCALE:g} and {MOST_SCALE:g}."
        )
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise RbeesError(ErrorCode.MODEL_NOT_FOUND, f"`--lora {name}` does not name a file; check its path.")
        return Adapter(str(Path(path).absolute()), scale, _sha256(path))
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise RbeesError(
            ErrorCode.MODEL_NOT_FOUND, f"The file {name} of `--lora` cannot be read: {reason}; check its path and rights."
        ) from None


def _parted(word: str) -> tuple[str, float]:
    """Path and scale; what follows the last `=` is part of the path where it is no number, and no file ends before it.

    Raises:
        RbeesError: CONFIGURATION
    """
    path, mark, last = word.rpartition("=")
    if not mark:
        return word, 1.0
    try:
        return path, float(last)
    except ValueError:
        if os.path.isfile(path) and not os.path.exists(word):
            sentence = f"`--lora {Path(path).name}={last}`: `{last}` is no number; write a scale such as `=0.5`, or none."
            raise RbeesError(ErrorCode.CONFIGURATION, sentence) from None
        return word, 1.0


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()

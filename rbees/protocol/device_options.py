"""How a model is laid on devices: what a spawn may ask for, and which of it contradicts itself or its backend.

The same fields stand in a spawn (`POST /workers/spawn`), in the record of a worker process and on its command line.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Final, Literal

import msgspec

from rbees.protocol.codec import Message
from rbees.protocol.errors import ErrorCode, RbeesError

KvType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]
SplitMode = Literal["none", "layer", "row"]
FlashAttention = Literal["auto", "on", "off"]
KvLayout = Literal["unified", "per_slot"]
"""`unified`: one pool of cells, which sequences share where their tokens are equal. `per_slot`: cells of its own for each slot,
enough for a whole sequence; a beginning that sequences have in common is copied."""
LoadMode = Literal["auto", "none", "mmap", "mlock", "mmap+mlock", "direct-io"]

Share = Annotated[float, msgspec.Meta(ge=0, le=1_000_000)]

DEFAULT_KV_TYPE: Final[KvType] = "f16"
MOST_COPIED_BYTES: Final = 128 << 20
"""Some tens of milliseconds of copying."""
MAX_SLOTS: Final = 256
"""llama.cpp's own limit of sequence ids."""
_MOST_GUESSED: Final = 16
MAX_DEVICES: Final = 16
"""As many devices as one llama.cpp library knows of one kind."""
ACCELERATORS: Final = frozenset({"cuda", "metal"})
_UUID: Final = re.compile(r"(?:GPU|MIG)-[0-9A-Za-z/-]{1,80}")
"""As `CUDA_VISIBLE_DEVICES` takes it: of a whole GPU, or of an instance that MIG made on one."""
_INSTANCE: Final = "cuda:MIG-"
_BLOCKS: Final[dict[KvType, tuple[int, int]]] = {
    "f32": (1, 4),
    "f16": (1, 2),
    "bf16": (1, 2),
    "q8_0": (32, 34),
    "q5_1": (32, 24),
    "q5_0": (32, 22),
    "q4_1": (32, 20),
    "q4_0": (32, 18),
    "iq4_nl": (32, 18),
}
"""Elements and bytes of one block, after ggml's type table."""


class DeviceOptions(Message, frozen=True, kw_only=True):
    """What is left out is as the pool's settings say, else as llama.cpp has it."""

    gpu_layers: Annotated[int, msgspec.Meta(ge=0, le=10_000)] | None = None
    """Layers that an accelerator takes, the last ones first and the output counting as one; default: all."""
    split_mode: SplitMode | None = None
    """Several devices: `layer` gives each whole layers, `row` has them compute each layer together; default: `layer`."""
    tensor_split: Annotated[
        tuple[Annotated[float, msgspec.Meta(ge=0, le=1_000_000)], ...], msgspec.Meta(max_length=MAX_DEVICES)
    ] = ()
    """How much of the model each of several devices takes, in proportion; default: by free memory."""
    main_gpu: Annotated[int, msgspec.Meta(ge=0, lt=MAX_DEVICES)] | None = None
    """With `split_mode` none: which of the devices takes the whole model."""
    flash_attention: FlashAttention | None = None
    kv_type_k: KvType | None = None
    """How keys are stored; default: f16."""
    kv_type_v: KvType | None = None
    """How values are stored; default: f16. A quantised one needs flash attention."""
    kv_layout: KvLayout | None = None
    """How cells are divided among sequences; default: as `layout_of` has it."""
    load_mode: LoadMode | None = None
    """How weights are read."""


NOTHING_ASKED: Final = DeviceOptions()


def options_of(message: DeviceOptions) -> DeviceOptions:
    """The options alone, of a message that has them among its fields."""
    return DeviceOptions(**{name: getattr(message, name) for name in DeviceOptions.__struct_fields__})


def with_defaults(options: DeviceOptions, defaults: DeviceOptions) -> DeviceOptions:
    """The options, and where they say nothing those of `defaults`."""
    said = {name: value for name in DeviceOptions.__struct_fields__ if (value := getattr(options, name)) not in (None, ())}
    return msgspec.structs.replace(defaults, **said)


def kv_bytes(elements: int, kv_type: KvType | None) -> int:
    """Bytes of so many elements of keys or values, whole blocks assumed."""
    per_block, block_bytes = _BLOCKS[kv_type or DEFAULT_KV_TYPE]
    return elements * block_bytes // per_block


def layout_of(backend: str, options: DeviceOptions, slot_bytes: int) -> KvLayout:
    """How KV cells are divided where a slot of its own takes `slot_bytes`.

    On a CPU attention passes all cells of a pool for each row, so there slots have cells of their own as long as copying one is
    soon done.
    """
    if options.kv_layout is not None:
        return options.kv_layout
    return "per_slot" if backend not in ACCELERATORS and slot_bytes <= MOST_COPIED_BYTES else "unified"


def outputs_for(running: int) -> int:
    """Rows of logits for `running` sequences that each draw a token, and for rows that were guessed."""
    return min(MAX_SLOTS, running + max(_MOST_GUESSED, running))


def fits_heads(kv_type: KvType | None, head_length: int) -> bool:
    """True where the vectors of one head, so many elements long, are whole blocks of the type."""
    return head_length % _BLOCKS[kv_type or DEFAULT_KV_TYPE][0] == 0


def needs_flash_attention(kv_type_v: KvType | None) -> bool:
    """True where values stored like this can only be read by flash attention."""
    return _BLOCKS[kv_type_v or DEFAULT_KV_TYPE][0] > 1


def check_device_options(backend: str, devices: tuple[str, ...], options: DeviceOptions) -> None:
    """Refuse what contradicts itself, the backend or the devices, before anything is loaded.

    Raises:
        RbeesError: INVALID_REQUEST, with the field.
    """
    _check_attention(options)
    _check_devices(backend, devices)
    if backend not in ACCELERATORS:
        _check_no_accelerator(backend, options)
    _check_split(devices, options)


def _check_attention(options: DeviceOptions) -> None:
    if options.flash_attention == "off" and needs_flash_attention(options.kv_type_v):
        raise _refusal(
            "kv_type_v",
            f"Values can be stored as {options.kv_type_v} only with flash attention; leave `flash_attention` out, or store "
            "values as f16.",
        )


def cuda_uuids(devices: tuple[str, ...]) -> tuple[str, ...]:
    """The uuids among ids of devices, in their order; none where devices go by numbers."""
    named = (device.partition(":") for device in devices)
    return tuple(rest for kind, _, rest in named if kind == "cuda" and _UUID.fullmatch(rest))


def stands_alone(device_id: str) -> bool:
    """True of an instance of a divided GPU: CUDA gives a process one of them and nothing beside it."""
    return device_id.startswith(_INSTANCE)


def _check_devices(backend: str, devices: tuple[str, ...]) -> None:
    kind = "cpu" if backend == "scripted" else backend
    for device in devices:
        if not _is_of_kind(kind, device):
            example = kind if kind == "cpu" else f"{kind}:0"
            raise _refusal("devices", f"The backend {backend} does not run on a device {device!r}; write {example}.")
    if len(set(devices)) < len(devices):
        raise _refusal("devices", "A device is named twice; name each once.")
    if len(devices) > 1 and kind != "cuda":
        raise _refusal("devices", f"A model is spread over several devices by cuda only; name one device for {backend}.")
    if len(devices) > MAX_DEVICES:
        raise _refusal("devices", f"A model is spread over {MAX_DEVICES} devices at most.")
    alone = next((device for device in devices if stands_alone(device)), None)
    if alone is not None and len(devices) > 1:
        raise _refusal("devices", f"CUDA gives a process one MIG instance and nothing beside it; name {alone} only, or others.")
    if cuda_uuids(devices) and len(cuda_uuids(devices)) < len(devices):
        raise _refusal("devices", "Name all devices by their uuids, or all by their numbers.")


def _is_of_kind(kind: str, device: str) -> bool:
    name, _, rest = device.partition(":")
    if kind == "cpu":
        return name == kind and not rest.isdigit()
    return name == kind and (rest.isdigit() or bool(cuda_uuids((device,))))


def _check_no_accelerator(backend: str, options: DeviceOptions) -> None:
    said = {
        "gpu_layers": bool(options.gpu_layers),
        "split_mode": options.split_mode not in (None, "none"),
        "tensor_split": bool(options.tensor_split),
        "main_gpu": options.main_gpu is not None,
    }
    for field, given in said.items():
        if given:
            raise _refusal(field, f"`{field}` is for cuda and metal, and the backend {backend} has no accelerator; leave it out.")


def _check_split(devices: tuple[str, ...], options: DeviceOptions) -> None:
    several = len(devices) > 1
    if options.main_gpu is not None:
        if options.split_mode != "none":
            raise _refusal("main_gpu", "`main_gpu` takes the whole model, so it needs `split_mode` none.")
        if options.main_gpu >= max(1, len(devices)):
            raise _refusal("main_gpu", f"`main_gpu` counts the named devices from 0, and {max(1, len(devices))} are named.")
    elif several and options.split_mode == "none":
        raise _refusal("split_mode", "With `split_mode` none one device takes all; name only that one, or say which by `main_gpu`.")
    if not several and options.split_mode in ("layer", "row"):
        raise _refusal("split_mode", f"`split_mode` {options.split_mode} spreads a model over devices; name several of them.")
    if options.tensor_split:
        _check_shares(devices, options)


def _check_shares(devices: tuple[str, ...], options: DeviceOptions) -> None:
    shares = options.tensor_split
    if len(devices) < 2 or options.split_mode == "none":
        raise _refusal("tensor_split", "`tensor_split` spreads a model over devices; name several of them, or leave it out.")
    if len(shares) != len(devices):
        raise _refusal("tensor_split", f"`tensor_split` names {len(shares)} shares for {len(devices)} devices; name one for each.")
    if not all(math.isfinite(share) for share in shares) or sum(shares) <= 0:
        raise _refusal("tensor_split", "The shares of `tensor_split` must be finite and not all 0.")


def _refusal(field: str, message: str) -> RbeesError:
    return RbeesError(ErrorCode.INVALID_REQUEST, message, field=field)

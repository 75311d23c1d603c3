"""What a loaded model and its context say of themselves."""

from __future__ import annotations

import ctypes
from typing import Any, Final

from rbees.protocol.device_options import MAX_SLOTS, KvLayout, kv_bytes, layout_of, outputs_for
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.workers import MemoryArchitecture
from rbees.workerd.engine.backend import BackendFacts, LoadSpec, slots_for
from rbees.workerd.engine.llama.library import ll
from rbees.workerd.engine.llama.vocabulary import Vocabulary

_MEMORY: Final[dict[str, MemoryArchitecture]] = {"cuda": "vram", "metal": "unified"}


def read_facts(spec: LoadSpec, model: Any, context: Any, vocabulary: Vocabulary, *, generates: bool = True) -> BackendFacts:
    """All that is fixed once a model is loaded."""
    ctx = sequence_length(spec, model)
    layout = layout_for(spec, model) if generates else "unified"
    template = ll.llama_model_chat_template(model, None)
    return BackendFacts(
        architecture=metadata(model, "general.architecture") or "unknown",
        quantization=_quantization(model),
        tokenizer=metadata(model, "tokenizer.ggml.model") or "unknown",
        vocabulary_size=vocabulary.size,
        ctx=ctx,
        cells=cell_count(spec, model),
        slots=ll.llama_n_seq_max(context),
        divisible=is_divisible(model),
        layout=layout,
        max_rows=ll.llama_n_batch(context),
        max_outputs=max_outputs(spec, model),
        memory_architecture=_MEMORY.get(spec.backend, "ram"),
        chat_template=template.decode("utf-8", "replace") if template else None,
        bos_text=vocabulary.bos_text,
        eos_text=vocabulary.eos_text,
        adds_bos=vocabulary.adds_bos,
        eog_ids=vocabulary.eog_ids(),
        control_texts=vocabulary.control_texts(),
        generates=generates,
    )


def sequence_length(spec: LoadSpec, model: Any) -> int:
    """Most tokens of one sequence: what was asked for, within what the model was trained for."""
    trained_for = int(ll.llama_model_n_ctx_train(model))
    return min(spec.ctx, trained_for) if trained_for > 0 else spec.ctx


def max_outputs(spec: LoadSpec, model: Any) -> int:
    """Most rows of logits of one call: guessed ones must be cut away again, which not every memory can."""
    return outputs_for(spec.slots) if is_divisible(model) else spec.slots


def is_divisible(model: Any) -> bool:
    """Whether each token has cells of its own that stay.

    A recurrent state cannot be cut back, although `llama_memory_can_shift` says so of some. With a sliding window the
    library overwrites cells that fell out of their own sequence's window, but another that shares them may still need them.
    """
    recurrent = ll.llama_model_is_recurrent(model) or ll.llama_model_is_hybrid(model)
    return not recurrent and ll.llama_model_n_swa(model) == 0


def check_layout(spec: LoadSpec, model: Any) -> None:
    """Refuse cells for each slot where memory cannot be cut: there a beginning is shared by copying a slot and cutting it.

    Raises:
        RbeesError: MODEL_INCOMPATIBLE
    """
    if spec.options.kv_layout == "per_slot" and not is_divisible(model):
        raise RbeesError(
            ErrorCode.MODEL_INCOMPATIBLE,
            "The model's memory cannot be cut (it has a recurrent state or a sliding window), and so not be divided among slots; "
            "leave the KV layout `per_slot` out.",
            field="kv_layout",
        )


def layout_for(spec: LoadSpec, model: Any) -> KvLayout:
    """How the KV cells are divided.

    Counted for all slots together they are a pool. So they are where memory cannot be cut or no slot is left to move others about.
    """
    if spec.cells is not None or not is_divisible(model) or spec.slots == MAX_SLOTS:
        return "unified"
    vectors = sequence_length(spec, model) * ll.llama_model_n_layer(model) * ll.llama_model_n_head_kv(model)
    types = (spec.options.kv_type_k, spec.options.kv_type_v)
    slot_bytes = sum(kv_bytes(vectors * length, kind) for length, kind in zip(head_lengths(model), types, strict=True))
    return layout_of(spec.backend, spec.options, slot_bytes)


def slot_count(spec: LoadSpec, model: Any) -> int:
    """KV sequence ids. A recurrent state takes memory for every slot; of other memory in a pool a slot is nothing but a number."""
    return slots_for(spec.slots, layout_for(spec, model)) if is_divisible(model) else spec.slots


def cell_count(spec: LoadSpec, model: Any) -> int:
    """KV cells of all slots together."""
    slots = slot_count(spec, model) if layout_for(spec, model) == "per_slot" else spec.slots
    return spec.cells or sequence_length(spec, model) * slots


def head_lengths(model: Any) -> tuple[int, int]:
    """Elements of one head's key and of its value."""
    architecture = metadata(model, "general.architecture")
    plain = ll.llama_model_n_embd(model) // max(1, ll.llama_model_n_head(model))
    key, value = (metadata(model, f"{architecture}.attention.{name}_length") for name in ("key", "value"))
    return int(key or plain), int(value or plain)


def metadata(model: Any, key: str) -> str | None:
    """What the file says under `key`, as text; None where it says nothing."""
    buffer = ctypes.create_string_buffer(256)
    length = ll.llama_model_meta_val_str(model, key.encode(), buffer, len(buffer))
    return buffer.value.decode("utf-8", "replace") if length >= 0 else None


def _quantization(model: Any) -> str:
    """The name of the file type that the header states, such as Q4_K_M."""
    stated = metadata(model, "general.file_type")
    prefix = "LLAMA_FTYPE_MOSTLY_"
    names = {str(getattr(ll, name)): name.removeprefix(prefix) for name in dir(ll) if name.startswith(prefix)}
    return {"0": "F32", **names}.get(stated or "", "unknown")

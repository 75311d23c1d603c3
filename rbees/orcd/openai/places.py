"""PURE: what orcd and workers say of a job, in the words of the request that it was made from: they know a job's fields only."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rbees.orcd.door.foreign import Foreign
from rbees.orcd.openai.chat import ChatRequest
from rbees.orcd.openai.shared import TextRequest
from rbees.protocol.chat import TemplateOptions
from rbees.protocol.errors import ErrorCode, RbeesError

_FORM: Final = "response_format"
_EXTRAS: Final = ("guided_json", "guided_regex", "guided_choice", "guided_grammar", "json_schema", "grammar")
_OF_FORM: Final = re.compile(rf"`{_FORM}(?:\.\w+)*`")
_LENGTH: Final = "max_tokens"
_LENGTHS: Final = ("max_completion_tokens", "max_output_tokens", _LENGTH, "n_predict")
_INPUTS: Final = ("messages", "prompt", "input", "documents")
_EFFORTS: Final = {
    "template_options.reasoning_effort": "how much to think",
    "template_options.enable_thinking": "not to think",
}


def as_sent(error: RbeesError, asked: Foreign) -> RbeesError:
    """The same error, about the field that the client sent."""
    field = error.details.get("field")
    if error.code is ErrorCode.CONTEXT_EXCEEDED:
        sent = next(_lengths(asked), _LENGTH)
        return _about(error, _exceeding(error, asked), error.message.replace(f"`{_LENGTH}`", f"`{sent}`"))
    if not isinstance(field, str) or not isinstance(asked, TextRequest):
        return error
    if field.partition(".")[0] == _FORM:
        sent = form_field(asked)
        return _about(error, sent, _OF_FORM.sub(f"`{sent}`", error.message))
    if field in _EFFORTS and isinstance(asked, ChatRequest) and field.partition(".")[2] not in _options(asked):
        message = f"The model's chat template cannot be told {_EFFORTS[field]}; leave `reasoning_effort` out."
        return _about(error, "reasoning_effort", message)
    return error


@contextmanager
def told_as_sent(asked: Foreign) -> Iterator[None]:
    """Every error that leaves it is about a field that the client sent."""
    try:
        yield
    except RbeesError as error:
        as_sent(error, asked)
        raise


def form_field(asked: TextRequest) -> str:
    """The field that asks for the form of the answer: one of the extras, or the API's own."""
    outputs = asked.structured_outputs
    inner = next((name for name in outputs.__struct_fields__ if getattr(outputs, name) is not None), None) if outputs else None
    if inner is not None:
        return f"structured_outputs.{inner}"
    return next((name for name in _EXTRAS if getattr(asked, name) is not None), asked.form_name)


def _options(asked: ChatRequest) -> TemplateOptions:
    """What the client tells the template by its variables' own names."""
    return asked.template_options or asked.chat_template_kwargs or {}


def _exceeding(error: RbeesError, asked: Foreign) -> str:
    """The field by which the context is exceeded: the length that was asked for where the prompt alone would fit, else that."""
    inputs = (name for name in _INPUTS if name in asked.__struct_fields__)
    prompt, context = error.details.get("prompt_tokens"), error.details.get("ctx_tokens")
    fits = isinstance(prompt, int) and isinstance(context, int) and prompt < context
    return (next(_lengths(asked), None) if fits else None) or next(inputs)


def _lengths(asked: Foreign) -> Iterator[str]:
    return (name for name in _LENGTHS if getattr(asked, name, None) is not None)


def _about(error: RbeesError, field: str, message: str | None = None) -> RbeesError:
    error.message = message or error.message
    error.details = {**error.details, "field": field}
    return error

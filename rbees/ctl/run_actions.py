"""`llorch run`: one question, one answer, and nothing but it on stdout."""

from __future__ import annotations

from typing import Any

from rbees.ctl.conversation import Conversation
from rbees.ctl.heard import Heard
from rbees.ctl.screen import screen
from rbees.ctl.submit import carry_out, job_of
from rbees.ctl.target import Target
from rbees.protocol.errors import ErrorCode, ExitCode, RbeesError
from rbees.service.clock import SystemClock
from rbees.terminal.notes import notes


async def run_prompt(
    target: Target, *, model: str, prompt: str, system: str | None, no_reasoning: bool, as_json: bool, **options: Any
) -> int | None:
    """Returns the exit code; a job that fails raises its error."""
    if not prompt.strip():
        message = "The prompt is empty; write it behind the model, or send it through a pipe."
        raise RbeesError(ErrorCode.INVALID_REQUEST, message, field="prompt")
    messages = Conversation(model, system or None).asking(prompt)
    job = job_of({"messages": messages}, model=model, **options)
    with notes(silent=as_json) as said:
        shown = screen(as_json=as_json, notes=said, reasoning=not no_reasoning, max_tokens=job.max_tokens)
        heard = Heard(shown, SystemClock(), wordy=as_json)
        code = await carry_out(target, job, heard, is_for_its_reader=True)
    if code is None and heard.is_cut and job.response_format is not None:
        # Half a form is none: what reads it would stumble, and is told before.
        return ExitCode.FAILED
    return code

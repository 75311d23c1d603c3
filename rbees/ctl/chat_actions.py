"""`llorch chat`: reads what is typed, has it answered, and obeys its commands.

Lines are read outside of the event loop, where Ctrl-C reaches a read that waits; each question is a job of its own that runs the
loop until it has ended. The same conversation, sent with every question, is what a worker still has in its cache.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from glob import escape, glob
from pathlib import Path
from types import FrameType
from typing import Any, Final

from rbees.ctl.chat_files import read_chat, write_chat
from rbees.ctl.chat_settings import Settings
from rbees.ctl.chat_words import IN_CHAT, Command, Lines, Say, endings, help_text, understood
from rbees.ctl.conversation import Conversation
from rbees.ctl.heard import Heard, figures_text
from rbees.ctl.model_choice import choose_model, models_text
from rbees.ctl.screen import screen
from rbees.ctl.submit import carry_out, job_of
from rbees.ctl.target import Target
from rbees.protocol.errors import ErrorCode, ExitCode, RbeesError
from rbees.protocol.jobs import JobRequest
from rbees.service.clock import SystemClock
from rbees.service.folders import state_folder
from rbees.terminal.errors import error_lines
from rbees.terminal.line_editor import LineEditor
from rbees.terminal.notes import aside, notes

HISTORY_FILE: Final = "chat_history.jsonl"
_PROMPT, _MORE = ">>> ", "... "
_ADVICE: Final = {
    ErrorCode.CONTEXT_EXCEEDED: (
        "  /clear forgets the conversation (/save FILE keeps it), /model NAME goes on with a model that has a longer context,",
        "  /set max_tokens allows a shorter answer; then ask again, or something shorter",
    ),
    ErrorCode.MODEL_NOT_FOUND: ("  /model lists those that there are",),
}
"""What can be done about it in a chat."""


def chat(
    target: Target,
    *,
    model: str | None,
    system: str | None,
    load_file: Path | None,
    no_history: bool,
    no_reasoning: bool,
    as_json: bool,
    **options: Any,
) -> int | None:
    """Returns the exit code.

    Raises:
        RbeesError: what refuses before the first question; through a pipe, also the first question or command that fails.
    """
    begun = read_chat(load_file) if load_file is not None else Conversation("")
    begun.system = system or begun.system
    settings = Settings(options).restored(begun.options, wins=False)
    with asyncio.Runner() as runner, _ends_in_order():
        begun.model = runner.run(_choose(target, model, begun.model))
        editor = LineEditor(None if no_history else _history(), _completions)
        talk = Chat(runner, target, editor, begun, settings, reasoning=not no_reasoning, as_json=as_json)
        try:
            return talk.go_on()
        except asyncio.CancelledError:
            return ExitCode.INTERRUPTED


class Chat:
    """One conversation, from the first line to the last."""

    def __init__(
        self,
        runner: asyncio.Runner,
        target: Target,
        editor: LineEditor,
        conversation: Conversation,
        settings: Settings,
        *,
        reasoning: bool,
        as_json: bool,
    ) -> None:
        self._runner = runner
        self._target = target
        self._editor = editor
        self._conversation = conversation
        self._settings = settings
        self._reasoning = reasoning
        self._as_json = as_json
        self._session_id = _session_id()
        self._lines = Lines()
        self._interrupts = 0
        """How often Ctrl-C came in a row."""
        self._own_files: set[Path] = set()
        """Files that this chat has written or read, which it may write again."""

    def go_on(self) -> int | None:
        """Until somebody leaves; the exit code."""
        if self._editor.is_asking:
            aside(f"chat with {self._conversation.model}; /help lists the commands, Ctrl-D leaves")
            self._tell_turns()
        while True:
            try:
                code = self._obey_next()
            except EOFError:
                return None
            except RbeesError as error:
                if not self._editor.is_asking:
                    raise
                aside("\n".join(_problem_lines(error)))
                continue
            if code is not None:
                return None if code == ExitCode.OK else code

    # ---- what is typed -------------------------------------------------------------------------------------------------

    def _next_message(self) -> str:
        while True:
            try:
                line = self._editor.read(_MORE if self._lines.is_open else _PROMPT)
            except EOFError:
                if self._lines.is_open and not self._editor.is_asking:
                    return self._lines.drop()
                if self._editor.is_asking:
                    aside("")
                raise
            except UnicodeError:
                message = "A line is not valid UTF-8."
                raise RbeesError(ErrorCode.INVALID_REQUEST, message) from None
            self._interrupts = 0
            whole = self._lines.take(line)
            if whole is not None:
                self._editor.remember(whole)
                return whole

    def _obey_next(self) -> int | None:
        """An exit code where the chat is over."""
        try:
            message = self._next_message()
        except KeyboardInterrupt:
            return ExitCode.INTERRUPTED if self._leaves_upon_interrupt() else None
        try:
            return self._obey(message) if message.strip() else None
        except KeyboardInterrupt:
            # While a command waited for orcd.
            if not self._editor.is_asking:
                raise
            self._interrupts = 1
            aside("\nstopped. Ctrl-C again, or Ctrl-D, leaves")
            return None

    def _leaves_upon_interrupt(self) -> bool:
        """Ctrl-C at the prompt: takes away what was typed; where there is nothing, the second one in a row leaves."""
        if not self._editor.is_asking:
            return True
        aside("")
        if self._lines.drop() or self._editor.typed():
            self._interrupts = 0
            return False
        self._interrupts += 1
        if self._interrupts == 1:
            aside("Ctrl-C again, or Ctrl-D, leaves")
        return self._interrupts > 1

    def _obey(self, message: str) -> int | None:
        try:
            asked = understood(message)
        except ValueError as error:
            raise RbeesError(ErrorCode.INVALID_REQUEST, str(error), field=IN_CHAT) from None
        if isinstance(asked, Say):
            return self._ask(asked.text)
        return self._command(asked)

    # ---- questions -----------------------------------------------------------------------------------------------------

    def _ask(self, question: str) -> int | None:
        job = self._job(question)
        with notes(silent=self._as_json) as said:
            shown = screen(as_json=self._as_json, notes=said, reasoning=self._reasoning, max_tokens=job.max_tokens, wraps=True)
            heard = Heard(shown, SystemClock(), wordy=self._as_json)
            try:
                code = self._runner.run(carry_out(self._target, job, heard, is_for_its_reader=True))
            finally:
                if heard.end is not None or heard.text:
                    self._conversation.answered(question, heard.text, heard.reasoning)
        if heard.end is not None:
            if not self._as_json:
                aside(figures_text(heard.end, heard.first_token_s))
            # Half a form is none, and what reads the pipe is told; a person sees it.
            return ExitCode.FAILED if heard.is_cut and job.response_format is not None and not self._editor.is_asking else None
        if code == ExitCode.INTERRUPTED and self._editor.is_asking:
            self._interrupts = 1
            kept = "stopped; what came is kept" if heard.text else "stopped; the question is taken back"
            aside(f"{kept}. Ctrl-C again, or Ctrl-D, leaves")
            return None
        return code

    def _job(self, question: str) -> JobRequest:
        messages = self._conversation.asking(question)
        return job_of(
            {"messages": messages}, model=self._conversation.model, session_id=self._session_id, **self._settings.options()
        )

    # ---- commands ------------------------------------------------------------------------------------------------------

    def _command(self, command: Command) -> int | None:
        match command.name:
            case "/quit":
                return ExitCode.OK
            case "/help":
                aside(help_text())
            case "/model":
                self._model(command.argument)
            case "/system":
                self._system(command.argument)
            case "/set":
                aside(self._settings.change(command.argument))
            case "/show":
                self._show()
            case "/retry":
                return self._retry()
            case "/clear":
                self._begin(Conversation(self._conversation.model, self._conversation.system))
                aside("the conversation is forgotten; the system message stays" if self._conversation.system else "forgotten")
            case "/save":
                self._conversation.options = self._settings.set_options()
                path = write_chat(_file(command), self._conversation, self._own_files)
                self._own_files.add(path)
                aside(f"saved in {path}")
            case "/load":
                self._load(_file(command))
            case _:
                raise AssertionError(command.name)
        return None

    def _begin(self, conversation: Conversation) -> None:
        self._conversation, self._session_id = conversation, _session_id()

    def _model(self, name: str) -> None:
        if not name:
            aside(self._runner.run(models_text(self._target, self._conversation.model)))
            return
        self._conversation.model = self._runner.run(choose_model(self._target, name))
        aside(f"answers come from {name} now")

    def _system(self, text: str) -> None:
        if text:
            self._conversation.system = None if text == "-" else text
        told = self._conversation.system
        aside("there is no system message" if told is None else f"system message: {told}")

    def _show(self) -> None:
        if self._conversation.system is not None:
            aside(f"system: {self._conversation.system}")
        for turn in self._conversation.turns:
            aside(f"{_PROMPT}{turn.text}" if turn.role == "user" else turn.text)
        if not self._conversation.turns:
            aside("nothing was said yet")

    def _retry(self) -> int | None:
        before = self._conversation.turns
        question = self._conversation.take_back()
        if question is None:
            raise RbeesError(ErrorCode.INVALID_REQUEST, "Nothing was asked yet, so nothing can be asked again.", field=IN_CHAT)
        taken_back = self._conversation.turns
        try:
            return self._ask(question)
        finally:
            if self._conversation.turns == taken_back:
                # No answer took the place of the earlier one.
                self._conversation.turns = before

    def _load(self, path: Path) -> None:
        loaded = read_chat(path)
        try:
            loaded.model = self._runner.run(choose_model(self._target, loaded.model))
        except RbeesError as error:
            if error.code is not ErrorCode.MODEL_NOT_FOUND:
                raise
            aside(f"{error.message} The one that answers now goes on with it.")
            loaded.model = self._conversation.model
        self._settings = self._settings.restored(loaded.options)
        self._begin(loaded)
        self._own_files.add(path)
        aside(f"chat with {loaded.model}")
        self._tell_turns()

    def _tell_turns(self) -> None:
        if self._conversation.turns:
            count = len(self._conversation.turns) // 2
            aside(f"{count} {'question was' if count == 1 else 'questions were'} answered in it; /show shows them")


async def _choose(target: Target, named: str | None, loaded: str) -> str:
    """The model that was named, else that of the conversation that was loaded, else the one that there is."""
    try:
        return await choose_model(target, named or loaded or None)
    except RbeesError as error:
        if error.code is not ErrorCode.MODEL_NOT_FOUND or named or not loaded:
            raise
        message = f"{error.message} With `--model NAME` another one goes on with the conversation."
        raise RbeesError(error.code, message, **error.details) from None


def _problem_lines(error: RbeesError) -> list[str]:
    if error.details.get("field") == IN_CHAT:
        return [error.message]
    return [*error_lines(error, "llorch"), *_ADVICE.get(error.code, ())]


def _session_id() -> str:
    return f"chat-{secrets.token_hex(8)}"


def _history() -> Path | None:
    """Where what was typed is kept. A chat goes on without."""
    try:
        return state_folder("ctl") / HISTORY_FILE
    except RbeesError as error:
        aside(f"without a history: {error.message}")
        return None


def _file(command: Command) -> Path:
    if not command.argument:
        raise RbeesError(ErrorCode.INVALID_REQUEST, f"Write the file's name behind {command.name}.", field=IN_CHAT)
    try:
        return Path(command.argument).expanduser().absolute()
    except (RuntimeError, OSError):
        raise RbeesError(
            ErrorCode.INVALID_REQUEST, f"{command.argument} is no place for a file; write its path in full.", field=IN_CHAT
        ) from None


def _completions(typed: str) -> Sequence[str]:
    """What the last word may become: a command, or a file behind one that takes a file."""
    name, _, argument = typed.partition(" ")
    if " " not in typed:
        return endings(name)
    if name in {"/save", "/load"} and " " not in argument:
        return sorted(f"{path}/" if Path(path).is_dir() else path for path in glob(f"{escape(argument)}*"))
    return ()


@contextmanager
def _ends_in_order() -> Iterator[None]:
    """A signal that ends the program while a line is edited ends it by an exception, so that the terminal is given back."""

    def leave(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = {
        number: signal.getsignal(number)
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    for number in before:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

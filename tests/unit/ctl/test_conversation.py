"""A conversation: what each question sends, what files keep of it, which model it talks to, and what can be set."""

from __future__ import annotations

import io
import stat
from pathlib import Path
from typing import Any

import pytest

from rbees.ctl.chat_files import read_chat, write_chat
from rbees.ctl.chat_settings import Settings
from rbees.ctl.conversation import Conversation
from rbees.ctl.heard import Heard, figures_text
from rbees.ctl.model_choice import only_one
from rbees.ctl.screen import PeopleScreen
from rbees.protocol.chat import MAX_MESSAGES, ChatMessage
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.events import ChoiceEnd, End, Event, Queued, Timings, Token, Usage
from rbees.protocol.pools import ModelFacts, ModelView
from rbees.service.clock import ManualClock
from rbees.terminal.answer import AnswerWriter
from rbees.terminal.notes import PlainNotes


def end(tokens: int = 4, reason: Any = "stop", cached: int = 0) -> End:
    return End(
        choices=(ChoiceEnd(finish_reason=reason),),
        usage=Usage(prompt_tokens=9, cached_tokens=cached, completion_tokens=tokens),
        timings=Timings(prefill_ms=1, decode_ms=100),
    )


def spoken() -> Conversation:
    talk = Conversation("m", "be brief")
    talk.answered("one?", "1.", "hm")
    talk.answered("two?", "2.", "")
    return talk


def test_every_question_begins_with_all_that_was_sent_before() -> None:
    talk = Conversation("m", "be brief")
    first = talk.asking("one?")
    talk.answered("one?", "1.", "hm")
    second = talk.asking("two?")
    assert [message.role for message in first] == ["system", "user"]
    assert second[: len(first)] == first
    assert second[2:] == (ChatMessage(role="assistant", content="1.", reasoning="hm"), ChatMessage(role="user", content="two?"))


def test_the_last_question_can_be_taken_back() -> None:
    talk = spoken()
    assert [talk.take_back(), talk.take_back(), talk.take_back()] == ["two?", "one?", None]
    assert talk.turns == ()


def test_a_conversation_that_has_grown_too_long_is_refused_with_both_numbers() -> None:
    talk = Conversation("m", None, spoken().turns * (MAX_MESSAGES // 4))
    with pytest.raises(RbeesError, match=f"has {MAX_MESSAGES + 1} messages, and at most {MAX_MESSAGES}"):
        talk.asking("more?")


def test_a_saved_conversation_is_the_same_again_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    write_chat(path, spoken(), set())
    again = read_chat(path)
    assert (again.model, again.system, again.turns) == ("m", "be brief", spoken().turns)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    write_chat(path, Conversation("other"), set())
    assert read_chat(path).model == "other", "a chat takes the place of a chat"
    assert [entry.name for entry in tmp_path.iterdir()] == ["chat.json"]


def test_what_is_no_chat_is_neither_read_nor_replaced(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    odd = b'{"rbees_chat": 1, "model": "m", "messages": [{"role": "user", "content": "x"}]}'
    for content, said in (
        (b"my notes", "holds no chat"),
        (b"\xff", "holds no chat"),
        (b"[" * 9_999, "holds no chat"),
        (odd, "turns"),
    ):
        path.write_bytes(content)
        with pytest.raises(RbeesError, match=said):
            read_chat(path)
        with pytest.raises(RbeesError, match="there already"):
            write_chat(path, spoken(), set())
        assert path.read_bytes() == content
    write_chat(path, spoken(), {path})
    assert read_chat(path).turns
    for place in (tmp_path / "none" / "chat.json", tmp_path):
        with pytest.raises(RbeesError) as raised:
            read_chat(place)
        assert raised.value.code is ErrorCode.INVALID_REQUEST
        with pytest.raises(RbeesError):
            write_chat(place, spoken(), set())


def model(name: str, *, ready: int = 0, can: tuple[Any, ...] = ("generate", "chat")) -> ModelView:
    numbers: dict[str, Any] = dict.fromkeys(
        (
            "size_bytes",
            "parameters",
            "context_length",
            "vocabulary_size",
            "layers",
            "embedding_length",
            "head_count",
            "head_count_kv",
            "key_length",
            "value_length",
        ),
        1,
    )
    facts = ModelFacts(
        ref=f"file:/{name}.gguf",
        aliases=(f"hf:org/{name}", name),
        sha256=name,
        file_name=name,
        architecture="llama",
        quantization="Q8_0",
        has_chat_template=True,
        capabilities=can,
        **numbers,
    )
    return ModelView(facts=facts, pools=("p",), ready_workers=ready)


def test_the_model_that_nobody_names_is_the_only_one_or_the_only_one_that_is_loaded() -> None:
    vectors = model("vectors", ready=1, can=("embed",))
    assert only_one([model("a"), vectors]) == "a"
    assert only_one([model("a"), model("b", ready=2), vectors]) == "b"
    for models, code, said in (
        ([vectors], ErrorCode.MODEL_NOT_FOUND, "models download"),
        ([model("b"), model("a")], ErrorCode.INVALID_REQUEST, "a, b"),
        ([model("b", ready=1), model("a", ready=1)], ErrorCode.INVALID_REQUEST, "a, b"),
    ):
        with pytest.raises(RbeesError, match=said) as raised:
            only_one(models)
        assert raised.value.code is code


def test_options_are_set_and_taken_back() -> None:
    settings = Settings({"temperature": 0.5, "stop": ()})
    assert settings.change("") == "temperature 0.5"
    assert settings.change("top-k 7") == "top_k 7"
    assert settings.change("stop a b") == "stop a b"
    assert settings.options() == {"temperature": 0.5, "top_k": 7, "stop": ("a b",)}
    assert settings.change("temperature -") == "temperature has its default"
    assert settings.change("top_k") == "top_k 7"


def test_what_was_set_is_saved_and_comes_back(tmp_path: Path) -> None:
    settings = Settings({"temperature": 0.0, "stop": ("a", "b"), "top_k": None, "regex": "x+", "deterministic": True})
    talk = spoken()
    talk.options = settings.set_options()
    write_chat(tmp_path / "chat.json", talk, set())
    kept = read_chat(tmp_path / "chat.json").options
    assert kept == {"temperature": 0.0, "stop": ("a", "b")}
    mine = Settings({"temperature": 1.0, "min_p": 0.1, "regex": "y"})
    loaded = mine.restored(kept)
    assert loaded.options() == {"temperature": 0.0, "stop": ("a", "b"), "regex": "y"}, "the form is the command's"
    given = mine.restored(kept, wins=False)
    assert given.options() == {"temperature": 1.0, "min_p": 0.1, "stop": ("a", "b"), "regex": "y"}, "the command line wins"
    for odd in ({"temperature": 9}, {"top_k": "many"}, {"priority": "high"}):
        with pytest.raises(RbeesError) as raised:
            mine.restored(odd)
        assert raised.value.code is ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("temperatur 1", "Did you mean temperature"),
        ("x 1", "There are max_tokens"),
        ("temperature hot", "temperature takes a number from 0 to 2, not hot."),
        ("temperature 3", "temperature takes a number from 0 to 2, not 3."),
        ("top_p 0", "top_p takes a number above 0, up to 1, not 0."),
        ("top_k 1.5", "top_k takes a whole number from 0 to"),
        ("max_tokens 0", "max_tokens takes a whole number from 1 to"),
        ("seed 99999999999999999999", "seed takes a whole number from 0 to"),
        ("temperature nan", "temperature takes a number from 0 to 2, not nan."),
        ("presence_penalty -3", "presence_penalty takes a number from -2 to 2, not -3."),
        ("priority high", "priority takes interactive or batch, not high."),
        ("stop " + "x" * 5_000, "stop takes a text of at most"),
    ],
)
def test_what_cannot_be_set_changes_nothing(typed: str, said: str) -> None:
    settings = Settings({"temperature": 0.5})
    with pytest.raises(RbeesError) as raised:
        settings.change(typed)
    assert said in raised.value.message
    assert {name: value for name, value in settings.options().items() if value is not None} == {"temperature": 0.5}


async def test_what_was_heard_is_remembered_with_its_times() -> None:
    clock, answer, said = ManualClock(), io.StringIO(), io.StringIO()
    heard = Heard(PeopleScreen(AnswerWriter(answer), PlainNotes(said), shares_terminal=False), clock, wordy=False)
    events: list[Event] = [
        Queued(queue_position=1, created_at_ms=1),
        Token(part="reasoning", text="hm", index=0),
        Token(text="yes ", index=1),
        Token(choice=1, text="no", index=0),
        Token(text="indeed", index=2),
    ]
    await clock.advance(0.25)
    for seq, event in enumerate(events, 1):
        heard.show(seq, event)
        await clock.advance(1.0)
    assert (heard.text, heard.reasoning, heard.first_token_s, heard.end) == ("yes indeed", "hm", 1.25, None)
    heard.show(9, end(reason="length"))
    assert heard.is_cut
    assert (answer.getvalue(), said.getvalue().count("\n")) == ("yes indeed\n\n[2]\nno\n", 1)


def test_the_figures_of_an_answer() -> None:
    assert figures_text(end(cached=5), 0.12) == "4 tokens, 40.0 tokens/s, first after 120 ms, 5 of 9 prompt tokens cached"
    assert figures_text(end(tokens=1), None) == "1 token"

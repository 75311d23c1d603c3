"""Thoughts and calls in the forms that models write them, and what only looks like one."""

from __future__ import annotations

import time

import pytest

from rbees.workerd.chat.calls import FORMS, JSON_FORM, form_of, read_calls
from rbees.workerd.chat.style import ChatFormat, ChatStyle, style_of
from rbees.workerd.engine.parts import Call
from rbees.workerd.engine.text import Piece
from tests.support.answers import THINK, TOOLS, chat_format, cut, form, parts_of, read

F, G = Call("f", {"a": 1}), Call("g", {})
F_JSON = '{"name": "f", "arguments": {"a": 1}}'
G_JSON = '{"name": "g", "arguments": {}}'

ANSWERS = [
    (
        "hermes",
        f"Sure.\n<tool_call>\n{F_JSON}\n</tool_call>",
        [("text", "Sure."), ("tool", f"\n<tool_call>\n{F_JSON}\n</tool_call>")],
        (F,),
    ),
    (
        "hermes",
        f"<tool_call>{F_JSON}</tool_call>\n<tool_call>{G_JSON}</tool_call>\n",
        [("tool", f"<tool_call>{F_JSON}</tool_call>"), ("tool", f"\n<tool_call>{G_JSON}</tool_call>"), ("tool", "\n")],
        (F, G),
    ),
    ("hermes", f"<tool_call>{F_JSON}", [("tool", f"<tool_call>{F_JSON}")], (F,)),
    ("hermes", f"<tool_call>{F_JSON} yes", [("tool", f"<tool_call>{F_JSON}"), ("text", " yes")], (F,)),
    ("llama", '{"name": "f", "parameters": {"a": 1}}', [("tool", '{"name": "f", "parameters": {"a": 1}}')], (F,)),
    (
        "llama",
        f'{F_JSON}; {{"type": "function", "function": {G_JSON}}}',
        [("tool", F_JSON), ("tool", f'; {{"type": "function", "function": {G_JSON}}}')],
        (F, G),
    ),
    ("llama", f"<|python_tag|>{F_JSON}", [("tool", f"<|python_tag|>{F_JSON}")], (F,)),
    ("llama", '<function=f>{"a": 1}</function>', [("tool", '<function=f>{"a": 1}</function>')], (F,)),
    ("mistral", f"[TOOL_CALLS][{F_JSON}, {G_JSON}]", [("tool", f"[TOOL_CALLS][{F_JSON}, {G_JSON}]")], (F, G)),
    (
        "mistral",
        'ok[TOOL_CALLS]f[CALL_ID]abc123def[ARGS]{"a": 1}[TOOL_CALLS]g[ARGS]{}',
        [("text", "ok"), ("tool", '[TOOL_CALLS]f[CALL_ID]abc123def[ARGS]{"a": 1}'), ("tool", "[TOOL_CALLS]g[ARGS]{}")],
        (F, G),
    ),
    ("mistral", '[TOOL_CALLS]f{"a": 1}', [("tool", '[TOOL_CALLS]f{"a": 1}')], (F,)),
    (
        "deepseek",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n"
        '{"a": 1}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>g<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
        [
            (
                "tool",
                '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{"a": 1}\n```<｜tool▁call▁end｜>',
            ),
            ("tool", "\n<｜tool▁call▁begin｜>g<｜tool▁sep｜>{}<｜tool▁call▁end｜>"),
            ("tool", "<｜tool▁calls▁end｜>"),
        ],
        (F, G),
    ),
    (
        "kimi",
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>"
        '{"a": 1}<|tool_call_end|><|tool_calls_section_end|>',
        [
            (
                "tool",
                '<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{"a": 1}<|tool_call_end|>',
            ),
            ("tool", "<|tool_calls_section_end|>"),
        ],
        (F,),
    ),
    (
        "command-r7b",
        '<|START_ACTION|>[\n{"tool_call_id": "0", "tool_name": "f", "parameters": {"a": 1}}\n]<|END_ACTION|>',
        [("tool", '<|START_ACTION|>[\n{"tool_call_id": "0", "tool_name": "f", "parameters": {"a": 1}}\n]<|END_ACTION|>')],
        (F,),
    ),
    (
        "minimax",
        f"<tool_calls>\n{F_JSON}\n{G_JSON}\n</tool_calls>",
        [("tool", f"<tool_calls>\n{F_JSON}\n{G_JSON}\n</tool_calls>")],
        (F, G),
    ),
    (
        "qwen-coder",
        "<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>",
        [("tool", "<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>")],
        (F,),
    ),
    (
        "qwen-coder",
        "<tool_call><function=f><parameter=s>\n7\n<b>\n</parameter><parameter=x>{}</parameter></function></tool_call>",
        [("tool", "<tool_call><function=f><parameter=s>\n7\n<b>\n</parameter><parameter=x>{}</parameter></function></tool_call>")],
        (Call("f", {"s": "7\n<b>", "x": {}}),),
    ),
    (
        "glm",
        "<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n</tool_call><tool_call>g</tool_call>",
        [
            ("tool", "<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n</tool_call>"),
            ("tool", "<tool_call>g</tool_call>"),
        ],
        (F, G),
    ),
    (
        "minimax-m2",
        '<minimax:tool_call>\n<invoke name="f">\n<parameter name="a">1</parameter>\n</invoke>\n'
        '<invoke name="g"></invoke>\n</minimax:tool_call>',
        [
            (
                "tool",
                '<minimax:tool_call>\n<invoke name="f">\n<parameter name="a">1</parameter>\n</invoke>\n'
                '<invoke name="g"></invoke>\n</minimax:tool_call>',
            )
        ],
        (F, G),
    ),
    (
        "deepseek-v4",
        '<｜DSML｜tool_calls><｜DSML｜invoke name="f"><｜DSML｜parameter name="a" string="false">1</｜DSML｜parameter>'
        "</｜DSML｜invoke></｜DSML｜tool_calls>",
        [
            (
                "tool",
                '<｜DSML｜tool_calls><｜DSML｜invoke name="f"><｜DSML｜parameter name="a" string="false">1</｜DSML｜parameter>'
                "</｜DSML｜invoke></｜DSML｜tool_calls>",
            )
        ],
        (F,),
    ),
    ("functools", f" functools[{F_JSON}]", [("tool", f" functools[{F_JSON}]")], (F,)),
]

NO_CALLS = [
    ("hermes", "Write <tool_call> before a call."),
    ("hermes", "a < b <tool"),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": '),
    ("hermes", '<tool_call>{"name": "f", "arguments": [1]}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": NaN}}</tool_call>'),
    ("hermes", "<tool_call>{'name': 'f', 'arguments': {}}</tool_call>"),
    ("hermes", "<tool_call>" + "[" * 100 + "]" * 100 + "</tool_call>"),
    ("hermes", F_JSON),
    ("qwen-coder", "<tool_call>\n<function=f>\n<parameter=a>\n1\n</function>\n</tool_call>"),
    ("qwen-coder", "<tool_call>\n<function=f>\n</function>"),
    ("qwen-coder", "<tool_call>nothing</tool_call>"),
    ("glm", "<tool_call>two words</tool_call>"),
    ("llama", '{"name": "unknown", "parameters": {}}'),
    ("llama", '{"answer": 42}'),
    ("llama", f"The call {F_JSON} is only quoted."),
    ("llama", "<|python_tag|>print(1)"),
    ("mistral", "[TOOL_CALLS]" + "x" * 300),
    ("mistral", "[TOOL_CALLS] and more"),
    ("mistral", '[TOOL_CALLS]two words{"a": 1}'),
]


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
@pytest.mark.parametrize(("calls", "text", "parts", "called"), ANSWERS)
def test_calls_are_found_however_the_tokens_fall(
    calls: str, text: str, parts: list[tuple[str, str]], called: tuple[Call, ...], size: int
) -> None:
    events, found, reason = read(cut(text, size), chat_format("json" if calls == "llama" else calls))
    assert found == called
    assert reason == "tool_calls"
    assert "".join(event.text for event in events) == text
    if size == 1:
        assert parts_of(events) == parts


@pytest.mark.parametrize("size", [1, 5, 1000])
@pytest.mark.parametrize(("calls", "text"), NO_CALLS)
def test_what_is_no_call_comes_out_as_the_text_that_it_is(calls: str, text: str, size: int) -> None:
    events, found, reason = read(cut(text, size), chat_format("json" if calls == "llama" else calls))
    assert (parts_of(events), found, reason) == ([("text", text)], (), "stop")


def test_a_call_behind_a_malformed_one_is_found() -> None:
    text = f"<tool_call>oops <tool_call>{F_JSON}</tool_call>"
    events, found, _ = read(cut(text, 1), chat_format("hermes"))
    assert parts_of(events) == [("text", "<tool_call>oops"), ("tool", f" <tool_call>{F_JSON}</tool_call>")]
    assert found == (F,)


@pytest.mark.parametrize("rest", ['{"name": "g", "argu', '{"name": "g"}', "{" * 100])
def test_a_broken_call_behind_a_good_one_is_text(rest: str) -> None:
    events, found, _ = read(cut(f"<tool_calls>\n{F_JSON}\n{rest}", 1), chat_format("minimax"))
    assert parts_of(events) == [("tool", f"<tool_calls>\n{F_JSON}"), ("text", f"\n{rest}")]
    assert found == (F,)


def test_space_without_end_behind_a_call_is_not_waited_for() -> None:
    events, found, _ = read(cut(f"<tool_call>{F_JSON}" + "\n" * 2_000 + "x", 1), chat_format("hermes"))
    assert found == (F,)
    assert len(events) > 1_000


@pytest.mark.parametrize(
    ("calls", "call", "mark"),
    [
        ("hermes", f"<tool_call>{F_JSON}", "\n</tool_call>"),
        ("minimax", f"<tool_calls>{F_JSON}", "\n</tool_calls>"),
        ("deepseek", '<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{"a": 1}', "\n```<｜tool▁call▁end｜>"),
        # Behind a mark that is whole: that of a list of calls, and that of a second call.
        ("kimi", '<|tool_call_begin|>f<|tool_call_argument_begin|>{"a": 1}<|tool_call_end|>', "\n<|tool_calls_section_end|>"),
        ("hermes", f"<tool_call>{F_JSON}</tool_call>", "\n<tool_call"),
    ],
)
def test_a_mark_within_which_an_answer_was_cut_off_belongs_to_the_call_before_it(calls: str, call: str, mark: str) -> None:
    for length in range(len(mark) + 1):
        tokens = cut(call + mark[:length], 1)
        for limit in (None, len(tokens)):
            events, found, _ = read(tokens, chat_format(calls), limit=limit)
            assert ({part for part, _ in parts_of(events)}, found) == ({"tool"}, (F,)), mark[:length]
    for other in (f"{mark}x", "\n<b"):
        events, _, _ = read(cut(f"{call}{other}", 1), chat_format(calls))
        assert parts_of(events)[-1][0] == "text"


def test_a_mark_within_an_argument_ends_nothing() -> None:
    text = '<tool_call>{"name": "f", "arguments": {"a": "</tool_call> \\"}"}}</tool_call>'
    _, found, _ = read(cut(text, 1), chat_format("hermes"))
    assert found == (Call("f", {"a": '</tool_call> "}'}),)


def test_without_tools_nothing_is_a_call() -> None:
    text = f"<tool_call>{F_JSON}</tool_call>"
    assert parts_of(read(cut(text, 1), chat_format(None))[0]) == [("text", text)]


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize(
    ("text", "thinks", "parts"),
    [
        ("<think>\nhm, a < b\n</think>\n\nyes", False, [("reasoning", "hm, a < b"), ("text", "yes")]),
        ("\n<think>hm</think>yes", False, [("reasoning", "hm"), ("text", "yes")]),
        ("hm\n</think>\n\nyes", True, [("reasoning", "hm"), ("text", "yes")]),
        ("<think>\n\n</think>\n\nyes", False, [("text", "yes")]),
        ("<think>hm </thin", False, [("reasoning", "hm </thin")]),
        ("no <think>thought</think>", False, [("text", "no <think>thought</think>")]),
        ("<thin", False, [("text", "<thin")]),
        ("  \n", False, [("text", "  \n")]),
        ("", True, []),
    ],
)
def test_thoughts_are_told_apart(text: str, thinks: bool, parts: list[tuple[str, str]], size: int) -> None:
    if size == 1000 and text.endswith("yes") and parts[0][0] == "reasoning":
        parts = [("reasoning", "".join(part for _, part in parts))]  # One token cannot be cut.
    assert parts_of(read(cut(text, size), chat_format(None, thinks=thinks))[0]) == parts


def test_a_thought_and_a_call() -> None:
    events, found, _ = read(cut(f"<think>\nhm\n</think>\n\n<tool_call>\n{F_JSON}\n</tool_call>", 1), chat_format("hermes"))
    assert parts_of(events) == [("reasoning", "hm"), ("tool", f"<tool_call>\n{F_JSON}\n</tool_call>")]
    assert found == (F,)


def test_text_leaves_with_its_token_and_a_call_in_one_event() -> None:
    tokens = [b"Sure", b".<", b"tool_call>", F_JSON[:9].encode(), F_JSON[9:].encode(), b"</tool_", b"call>"]
    events, _, _ = read(tokens, chat_format("hermes"))
    assert events == [
        Piece("Sure", 0, (0,)),
        Piece(".", 1, (1,)),
        Piece(f"<tool_call>{F_JSON}</tool_call>", 2, (2, 3, 4, 5, 6), part="tool"),
    ]


def test_marks_leave_with_what_follows_them() -> None:
    events, _, _ = read([b"<think>", b"\n", b"hm", b"\n", b"</think>", b"\n\n", b"yes"], chat_format(None))
    assert events == [Piece("hm", 0, (0, 1, 2), part="reasoning"), Piece("yes", 3, (3, 4, 5, 6))]


def test_tokens_are_heard_where_the_text_holds_something_of_them() -> None:
    thought = [b"<think>", b"\n", b"h", b"m\n</", b"think>", b"\n\n"]
    tokens = [*thought, b"\xc3", b"\xa9.", b"\n<tool_call>", F_JSON.encode(), b"</tool_call>"]
    events, _, _ = read(tokens, chat_format("hermes"))
    assert [(event.part, event.heard) for event in events] == [
        ("reasoning", (False, False, True)),
        ("reasoning", (True,)),
        ("text", (False, False, True, True)),
        ("tool", (True, True, True)),
    ]
    assert [_heard(event, tokens) for event in events[:3]] == ["h", "m\n</", "é."]


def test_marks_at_the_very_end_are_not_heard() -> None:
    events, _, _ = read([b"<think>", b"hm", b"</think>"], chat_format(None))
    assert [(event.text, event.heard) for event in events] == [("hm", (False, True)), ("", (False,))]


def _heard(event: Piece, tokens: list[bytes]) -> str:
    spelled = (tokens[token] for token, is_heard in zip(event.token_ids, event.heard, strict=True) if is_heard)
    return b"".join(spelled).decode()


@pytest.mark.parametrize(
    ("calls", "text"),
    [
        ("hermes", '<tool_call>{"name": "other", "arguments": {}}</tool_call>'),
        ("mistral", f'[TOOL_CALLS][{F_JSON}, {{"name": "other", "arguments": {{}}}}]'),
        ("mistral", "[TOOL_CALLS]other[ARGS]{}"),
        ("qwen-coder", "<tool_call><function=other></function></tool_call>"),
        ("json", '<function=other>{"a": 1}</function>'),
    ],
)
def test_a_call_of_a_tool_that_was_not_offered_is_text(calls: str, text: str) -> None:
    events, found, reason = read(cut(f"Sure. {text}", 3), chat_format(calls))
    assert ("".join(event.text for event in events), {event.part for event in events}) == (f"Sure. {text}", {"text"})
    assert (found, reason) == ((), "stop")


def test_control_tokens_that_are_marks_are_read() -> None:
    style = ChatStyle(THINK, form("mistral"), {0: b"[TOOL_CALLS]"})
    assert read([b"", b"f", b"{}"], ChatFormat(style, TOOLS, thinks=False))[1] == (Call("f", {}),)


def test_an_answer_cut_off_within_a_call_is_text() -> None:
    text = f"<tool_call>{F_JSON}</tool_call>"
    events, found, reason = read(cut(text, 4), chat_format("hermes"), limit=6)
    assert (parts_of(events), found, reason) == ([("text", text[:24])], (), "length")


def test_a_call_before_a_cut_off_end_counts() -> None:
    text = f"<tool_call>{F_JSON}</tool_call> and more"
    _, found, reason = read(cut(text, 4), chat_format("hermes"), limit=len(cut(text, 4)) - 1)
    assert (found, reason) == ((F,), "length")


@pytest.mark.parametrize("size", [1, 3, 200])
@pytest.mark.parametrize(
    ("form_name", "text", "calls"),
    [
        ("hermes", f"\n<tool_call>\n{F_JSON}\n</tool_call>", (F,)),
        ("hermes", f"quoted: <tool_call>{F_JSON}</tool_call>", ()),
        ("hermes", f"<tool_call>[]</tool_call><tool_call>{F_JSON}</tool_call>", ()),
        ("json", F_JSON, (F,)),
        ("json", '{"note": "<function=f>{}</function>"}', ()),
        ("json", '["<function=f>{}</function>"]', ()),
    ],
)
def test_beside_a_form_only_what_an_answer_begins_with_is_a_call(
    form_name: str, text: str, calls: tuple[Call, ...], size: int
) -> None:
    events, found, _ = read(cut(text, size), chat_format(form_name).beside_form())
    assert found == calls
    assert ("".join(event.text for event in events), {event.part for event in events}) == (text, {"tool" if calls else "text"})


def test_a_stop_string_ends_a_thought() -> None:
    events, _, reason = read(cut("<think>one two three", 2), chat_format(None), stop=(" three",))
    assert (parts_of(events), reason) == ([("reasoning", "one two")], "stop")


@pytest.mark.parametrize(
    ("template", "name", "reasoning"),
    [
        ("{{ '<tool_call>' }}", "hermes", None),
        ("{{ '[TOOL_CALLS]' }} [/THINK]", "mistral", "[THINK]"),
        ("{% if tools %}{{ tools }}{% endif %}", "json", None),
        ("</think>", "json", "<think>"),
    ],
)
def test_a_template_shows_its_form_by_its_marks(template: str, name: str, reasoning: str | None) -> None:
    style = style_of(template, lambda mark: 7 if mark == "[TOOL_CALLS]" else None)
    assert style.calls.name == name == form_of(template).name
    assert (style.reasoning.opens if style.reasoning else None) == reasoning
    assert style.spelled == ({7: b"[TOOL_CALLS]"} if name == "mistral" else {})


def test_no_form_hides_another() -> None:
    opens = [block.opens for known in (*FORMS, JSON_FORM) for block in known.blocks]
    assert not [(a, b) for a in opens for b in opens if a != b and a in b]
    sharing = [known for known in FORMS if opens.count(known.blocks[0].opens) > 1]
    assert all(known.shown_by for known in sharing[:-1]), "the last one of those with the same mark is for all other templates"


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "", "arguments": {}}',
        '{"name": 1, "arguments": {}}',
        '{"name": "f"}',
        "[]",
        "[1]",
        '{"name": "f", "arguments": "x"}',
    ],
)
def test_what_is_not_a_call_is_none(text: str) -> None:
    assert read_calls(text, None) is None


def test_arguments_may_be_a_text_that_holds_an_object() -> None:
    assert read_calls('{"name": "f", "arguments": "{\\"a\\": 1}"}', None) == (F,)


@pytest.mark.parametrize("calls", ["hermes", "json", "mistral", "qwen-coder", "glm", "deepseek"])
def test_an_answer_full_of_marks_takes_no_time(calls: str) -> None:
    words = [block.opens for block in form(calls).blocks] + ["<function=f>", "<parameter=a>", "<arg_key>", "{", '"']
    for word in words:
        began = time.process_time()
        read(cut(word * (40_000 // len(word)), 64), chat_format(calls))
        assert time.process_time() - began < 5, word

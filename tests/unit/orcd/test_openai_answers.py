"""What comes of jobs, as OpenAI's clients read it: whole, in chunks, and as errors."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import UNSET
from msgspec.structs import replace
from openai.types import Completion as TheirCompletion
from openai.types import CreateEmbeddingResponse, Model
from openai.types.chat import ChatCompletion as TheirChat
from openai.types.chat import ChatCompletionChunk as TheirChunk

from rbees.orcd.door.collected import Collected
from rbees.orcd.door.foreign import read_foreign
from rbees.orcd.openai import errors
from rbees.orcd.openai.answers import DONE, Identity, identity
from rbees.orcd.openai.chat import ChatRequest
from rbees.orcd.openai.chat_answers import ChatChunks, chat_answer
from rbees.orcd.openai.completion_answers import CompletionChunks, completion_answer
from rbees.orcd.openai.completions import CompletionRequest, completion_jobs
from rbees.orcd.openai.models import model_list, model_object
from rbees.orcd.openai.vectors import EmbeddingsRequest, RankRequest, embeddings_answer, rank_answer
from rbees.protocol.chat import ToolCall
from rbees.protocol.codec import encode
from rbees.protocol.errors import ERROR_TABLE, ErrorCode, RbeesError
from rbees.protocol.events import (
    ChoiceEnd,
    Embedding,
    End,
    Event,
    Metrics,
    Queued,
    Ranked,
    Result,
    Started,
    Timings,
    Token,
    TokenLogprob,
    TopLogprob,
    Usage,
)
from rbees.protocol.pools import ModelView
from tests.support.host_facts import model

HUM = {"model": "m", "messages": [{"role": "user", "content": "hum"}]}
WHO = Identity("chatcmpl-1", 1_700, "m", "fp_1")
CALLS = (ToolCall(id="c1", name="count", arguments={"x": 1}), ToolCall(id="c2", name="count", arguments={}))


def chat(**fields: Any) -> ChatRequest:
    return read_foreign(encode({**HUM, **fields}), ChatRequest).request


def token(text: str, choice: int = 0, **fields: Any) -> Token:
    return Token(choice=choice, text=text, index=0, token_ids=(1, 2), **fields)


def end(*choices: ChoiceEnd, completion_tokens: int = 6) -> End:
    return End(
        choices=choices or (ChoiceEnd(finish_reason="stop"),),
        usage=Usage(prompt_tokens=10, cached_tokens=4, completion_tokens=completion_tokens),
        timings=Timings(prefill_ms=1.0, decode_ms=1.0),
    )


STARTED = (
    Queued(queue_position=1, created_at_ms=1),
    Metrics(stage="loading", progress=0.5),
    Started(epoch=1, worker_id="w", model="file:/m", prompt_tokens=10),
)
CALLING: tuple[Event, ...] = (
    *STARTED,
    token("hm", part="reasoning"),
    token("One "),
    token("moment"),
    token("<call>{}</call>", part="tool"),
    Metrics(stage="attempt_failed"),
    end(ChoiceEnd(finish_reason="tool_calls", tool_calls=CALLS)),
)


def collected(*events: Event, choices: int = 1) -> Collected:
    made = Collected(choices)
    for event in events:
        made.take(event)
    return made


def whole(request: ChatRequest, *events: Event) -> dict[str, Any]:
    answer = encode(chat_answer(request, WHO, collected(*events, choices=request.n or 1)))
    TheirChat.model_validate_json(answer, strict=True)
    plain: dict[str, Any] = json.loads(answer)
    return plain


def parts(data: bytes) -> list[dict[str, Any]]:
    frames = [frame for frame in data.split(b"\n\n") if frame and frame != DONE.strip()]
    return [json.loads(frame.removeprefix(b"data: ")) for frame in frames]


def chunks(request: ChatRequest, *events: Event) -> list[dict[str, Any]]:
    translation = ChatChunks(request, WHO)
    data = b"".join(translation.take(0, event) for event in events) + translation.ended()
    assert data.endswith(DONE)
    for one in parts(data):
        TheirChunk.model_validate_json(json.dumps(one), strict=True)
    return parts(data)


def test_a_whole_answer_with_thoughts_and_calls() -> None:
    answer = whole(chat(metadata={"a": "b"}), *CALLING)
    assert (answer["id"], answer["created"], answer["model"], answer["metadata"]) == ("chatcmpl-1", 1_700, "m", {"a": "b"})
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": "One moment",
        "refusal": None,
        "reasoning_content": "hm",
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "count", "arguments": '{"x":1}'}},
            {"id": "c2", "type": "function", "function": {"name": "count", "arguments": "{}"}},
        ],
    }
    assert answer["usage"] == {
        "prompt_tokens": 10,
        "completion_tokens": 6,
        "total_tokens": 16,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    assert "service_tier" not in answer


def test_only_calls_leave_the_content_null_and_an_empty_answer_does_not() -> None:
    calling = whole(chat(), *STARTED, end(ChoiceEnd(finish_reason="tool_calls", tool_calls=CALLS)))
    assert calling["choices"][0]["message"]["content"] is None
    silent = whole(chat(), *STARTED, end())
    assert silent["choices"][0]["message"] == {"role": "assistant", "content": "", "refusal": None}


def test_without_parallel_calls_the_first_is_the_only_one() -> None:
    request = chat(parallel_tool_calls=False, stream=True)
    assert [call["id"] for call in whole(request, *CALLING)["choices"][0]["message"]["tool_calls"]] == ["c1"]
    assert {
        call["index"] for one in chunks(request, *CALLING) for c in one["choices"] for call in c["delta"].get("tool_calls", ())
    } == {0}


def test_a_stream_opens_grows_calls_and_ends() -> None:
    seen = chunks(chat(stream=True), *CALLING)
    assert {(one["id"], one["created"], one["object"]) for one in seen} == {("chatcmpl-1", 1_700, "chat.completion.chunk")}
    deltas = [one["choices"][0]["delta"] for one in seen]
    assert deltas == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "hm"},
        {"content": "One "},
        {"content": "moment"},
        {"tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": {"name": "count", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"x":1}'}}]},
        {"tool_calls": [{"index": 1, "id": "c2", "type": "function", "function": {"name": "count", "arguments": ""}}]},
        {"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]},
        {},
    ]
    assert [one["choices"][0]["finish_reason"] for one in seen] == [None] * 8 + ["tool_calls"]
    assert not [one for one in seen if "usage" in one]


def test_usage_comes_last_and_is_null_before() -> None:
    *others, last = chunks(chat(stream=True, stream_options={"include_usage": True}), *CALLING)
    assert {json.dumps(one["usage"]) for one in others} == {"null"}
    assert (last["choices"], last["usage"]["total_tokens"], last["usage"]["completion_tokens_details"]) == (
        [],
        16,
        {"reasoning_tokens": 2},
    )


def test_several_answers_are_told_apart() -> None:
    both = (ChoiceEnd(choice=0, finish_reason="stop"), ChoiceEnd(choice=1, finish_reason="length"))
    events = (*STARTED, token("a", 0), token("b", 1), token("c", 0), end(*both))
    answer = whole(chat(n=2), *events)
    assert [(c["index"], c["message"]["content"], c["finish_reason"]) for c in answer["choices"]] == [
        (0, "ac", "stop"),
        (1, "b", "length"),
    ]
    seen = [
        (c["index"], c["delta"].get("content"), c["finish_reason"]) for one in chunks(chat(n=2), *events) for c in one["choices"]
    ]
    assert seen == [
        (0, "", None),
        (1, "", None),
        (0, "a", None),
        (1, "b", None),
        (0, "c", None),
        (0, None, "stop"),
        (1, None, "length"),
    ]


@pytest.mark.parametrize(("tier", "told"), [("flex", "flex"), ("auto", "default"), ("priority", "default")])
def test_the_tier_that_served_is_told_to_whoever_asks(tier: str, told: str) -> None:
    assert whole(chat(service_tier=tier), *CALLING)["service_tier"] == told
    assert {one["service_tier"] for one in chunks(chat(service_tier=tier, stream=True), *CALLING)} == {told}


def test_log_probabilities_spell_bytes_and_are_of_the_text_alone() -> None:
    half = TokenLogprob(token_id=1, text="�", bytes=(195,), logprob=-1.0, top=(TopLogprob(token_id=2, text="é", logprob=-2.0),))
    events = (*STARTED, token("hm", part="reasoning", logprobs=(half,)), token("x", logprobs=(half,)), end())
    written = {
        "token": "�",
        "bytes": [195],
        "logprob": -1.0,
        "top_logprobs": [{"token": "é", "bytes": [195, 169], "logprob": -2.0}],
    }
    asked = chat(logprobs=True, top_logprobs=1, stream=True)
    assert whole(asked, *events)["choices"][0]["logprobs"] == {"content": [written], "refusal": None}
    told = [c["logprobs"] for one in chunks(asked, *events) for c in one["choices"] if c["logprobs"]]
    assert told == [{"content": [written], "refusal": None}]
    assert whole(chat(), *CALLING)["choices"][0]["logprobs"] is None


def test_a_failure_in_the_midst_is_a_chunk_with_an_error() -> None:
    (told,) = parts(ChatChunks(chat(stream=True), WHO).failed(RbeesError(ErrorCode.WORKER_CRASHED, "It died.")))
    assert told == {"error": {"message": "It died.", "type": "server_error", "param": None, "code": "worker_crashed"}}


# ---- completions ---------------------------------------------------------------------------------------------------------


def completion(**fields: Any) -> CompletionRequest:
    request = read_foreign(encode({"model": "m", "prompt": ["p", "q"], **fields}), CompletionRequest).request
    completion_jobs(request)
    return request


def test_completions_number_the_answers_to_all_prompts() -> None:
    both = (ChoiceEnd(choice=0, finish_reason="stop"), ChoiceEnd(choice=1, finish_reason="length"))
    jobs = [collected(*STARTED, token(f"{n}a", 0), token(f"{n}b", 1), end(*both), choices=2) for n in (0, 1)]
    answer = encode(completion_answer(completion(n=2, echo=True), WHO, jobs))
    TheirCompletion.model_validate_json(answer, strict=True)
    plain = json.loads(answer)
    assert [(c["index"], c["text"], c["finish_reason"]) for c in plain["choices"]] == [
        (0, "p0a", "stop"),
        (1, "p0b", "length"),
        (2, "q1a", "stop"),
        (3, "q1b", "length"),
    ]
    assert (plain["usage"]["prompt_tokens"], plain["usage"]["completion_tokens"]) == (20, 12)


def test_a_stream_of_completions_echoes_grows_and_ends() -> None:
    translation = CompletionChunks(completion(echo=True, stream_options={"include_usage": True}, stream=True), WHO)
    events = (*STARTED, token("a"), end())
    data = b"".join(translation.take(number, event) for number in (0, 1) for event in events) + translation.ended()
    seen = [(c["index"], c["text"], c["finish_reason"]) for one in parts(data) for c in one["choices"]]
    assert seen == [(0, "p", None), (0, "a", None), (0, "", "stop"), (1, "q", None), (1, "a", None), (1, "", "stop")]
    assert parts(data)[-1]["usage"]["total_tokens"] == 32


def test_log_probabilities_of_completions_come_in_columns_with_offsets() -> None:
    one = TokenLogprob(token_id=1, text="ab", logprob=-1.0, top=(TopLogprob(token_id=2, text="c", logprob=-2.0),))
    asked = completion(prompt="p", logprobs=1, stream=True)
    job = collected(*STARTED, token("ab", logprobs=(one,)), token("ab", logprobs=(one,)), end())
    told = completion_answer(asked, WHO, [job]).choices[0].logprobs
    assert told is not None
    assert (told.tokens, told.token_logprobs, told.top_logprobs, told.text_offset) == (
        ("ab", "ab"),
        (-1.0, -1.0),
        ({"c": -2.0}, {"c": -2.0}),
        (0, 2),
    )
    translation = CompletionChunks(asked, WHO)
    data = b"".join(translation.take(0, token("ab", logprobs=(one,))) for _ in range(2))
    assert [part["choices"][0]["logprobs"]["text_offset"] for part in parts(data)] == [[0], [2]]


def test_offsets_count_characters_of_the_text_and_not_of_the_tokens() -> None:
    spelled = (b"e \xf0", b"\x9f\x90", b"\x9d", b" sea")
    tokens = [
        TokenLogprob(token_id=1, text=one.decode("utf-8", "replace"), bytes=tuple(one), logprob=-1.0, top=()) for one in spelled
    ]
    asked = completion(prompt="p", logprobs=0, stream=True)
    grown = (token("e 🐝", logprobs=tuple(tokens[:3])), token(" sea", logprobs=tuple(tokens[3:])))
    told = completion_answer(asked, WHO, [collected(*STARTED, *grown, end())]).choices[0].logprobs
    assert told is not None
    assert told.text_offset == (0, 2, 2, 3)
    translation = CompletionChunks(asked, WHO)
    data = b"".join(translation.take(0, one) for one in grown)
    assert [part["choices"][0]["logprobs"]["text_offset"] for part in parts(data)] == [[0, 2, 2], [3]]


# ---- vectors and models --------------------------------------------------------------------------------------------------


def test_vectors_and_ranks() -> None:
    results = (
        Result(embeddings=(Embedding(index=0, embedding=(0.5,), tokens=3),)),
        Result(index=1, embeddings=(Embedding(index=1, embedding="AA==", tokens=3),)),
    )
    asked = read_foreign(encode({"model": "m", "input": ["a", "b"]}), EmbeddingsRequest).request
    answer = encode(embeddings_answer(asked, collected(*STARTED, *results, end())))
    CreateEmbeddingResponse.model_validate_json(answer.replace(b'"AA=="', b"[1.0]"), strict=True)
    assert [one["embedding"] for one in json.loads(answer)["data"]] == [[0.5], "AA=="]
    ranking = Result(ranking=(Ranked(index=1, relevance_score=0.5, tokens=1), Ranked(index=0, relevance_score=0.25, tokens=1)))
    body = {"model": "m", "query": "q", "documents": ["a", {"text": "b"}]}
    for returned in (True, False):
        request = read_foreign(encode({**body, "return_documents": returned}), RankRequest).request
        results_told = rank_answer(request, "rerank-1", collected(*STARTED, ranking, end())).results
        assert [one.index for one in results_told] == [1, 0]
        assert [one.document for one in results_told] == ([{"text": "b"}, {"text": "a"}] if returned else [UNSET, UNSET])


def test_scores_of_ranks_lie_between_0_and_1() -> None:
    request = read_foreign(encode({"model": "m", "query": "q", "documents": ["a", "b", "c"]}), RankRequest).request

    def told(*scores: float, is_probability: bool) -> list[float]:
        ranking = tuple(
            Ranked(index=index, relevance_score=score, is_probability=is_probability, tokens=1)
            for index, score in enumerate(scores)
        )
        answer = rank_answer(request, "rerank-1", collected(*STARTED, Result(ranking=ranking), end()))
        return [one.relevance_score for one in answer.results]

    assert told(2000.0, 0.0, -2000.0, is_probability=False) == [1.0, 0.5, 0.0]
    assert told(1.5, -1.5, is_probability=False) == pytest.approx([0.817574, 0.182426], abs=1e-6)
    assert told(1.0, 0.25, is_probability=True) == [1.0, 0.25]


def test_models_by_their_best_names_and_the_ready_first() -> None:
    named = {"zeta": ("hf:org/repo::file=z.gguf", ("zeta",), 0), "alpha": ("file:/m/alpha.gguf", (), 0), "omega": ("omega", (), 2)}
    held = [
        ModelView(facts=replace(model(name), ref=ref, aliases=aliases), pools=("a",), ready_workers=ready)
        for name, (ref, aliases, ready) in named.items()
    ]
    listed = model_list(held).data
    assert [(one.id, one.status, one.owned_by) for one in listed] == [
        ("omega", "ready", "rbees"),
        ("file:/m/alpha.gguf", "available", "rbees"),
        ("zeta", "available", "org"),
    ]
    Model.model_validate_json(encode(listed[0]), strict=True)
    assert model_object(held[0], "sha256:1").id == "sha256:1"


def test_the_context_told_is_the_one_to_be_had() -> None:
    held = ModelView(facts=replace(model("wasp"), context_length=65_536), pools=("a",), ready_workers=1, served_ctx=4096)
    assert model_object(held).context_length == 4096
    assert model_object(replace(held, served_ctx=0)).context_length == 65_536


# ---- errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "status", "type_", "told"),
    [
        (ErrorCode.INVALID_REQUEST, 400, "invalid_request_error", "invalid_request"),
        (ErrorCode.CONTEXT_EXCEEDED, 400, "invalid_request_error", "context_length_exceeded"),
        (ErrorCode.MODEL_INCOMPATIBLE, 400, "invalid_request_error", "model_incompatible"),
        (ErrorCode.UNAUTHENTICATED, 401, "authentication_error", "invalid_api_key"),
        (ErrorCode.FORBIDDEN, 403, "permission_error", "forbidden"),
        (ErrorCode.MODEL_NOT_FOUND, 404, "invalid_request_error", "model_not_found"),
        (ErrorCode.QUEUE_FULL, 429, "rate_limit_error", "rate_limit_exceeded"),
        (ErrorCode.INTERNAL, 500, "server_error", "internal"),
        (ErrorCode.NO_PLACEMENT, 503, "server_error", "no_placement"),
    ],
)
def test_errors_have_the_shape_and_status_of_the_api(code: ErrorCode, status: int, type_: str, told: str) -> None:
    error = RbeesError(code, "What to do.", field="messages[0]")
    assert errors.status_of(error) == status
    assert errors.body_of(error).error == errors.ErrorObject(message="What to do.", type=type_, param="messages[0]", code=told)


def test_a_context_that_is_exceeded_is_told_in_words_that_libraries_look_for() -> None:
    error = RbeesError(ErrorCode.CONTEXT_EXCEEDED, "The prompt has 9 tokens.", prompt_tokens=9, ctx_tokens=8)
    told = errors.body_of(error).error.message
    assert told == "This model's maximum context length is 8 tokens. The prompt has 9 tokens."


@pytest.mark.parametrize("code", ErrorCode)
def test_clients_that_would_ask_again_are_told_whether_to(code: ErrorCode) -> None:
    error = RbeesError(code, "What to do.")
    asked_again = errors.status_of(error) in {408, 409, 429} or errors.status_of(error) >= 500
    assert ("x-should-retry" in errors.headers_of(error)) is asked_again
    waits = {ErrorCode.QUEUE_FULL, ErrorCode.QUOTA_EXCEEDED, ErrorCode.DRAINING, ErrorCode.MODEL_LOADING}
    if code in waits:
        assert errors.headers_of(error) == {"x-should-retry": "true"}
    if code in {ErrorCode.NO_PLACEMENT, ErrorCode.WORKER_CRASHED, ErrorCode.TIMEOUT, ErrorCode.IDEMPOTENCY_CONFLICT}:
        assert errors.headers_of(error) == {"x-should-retry": "false"}
    assert ERROR_TABLE[code].http_status in {errors.status_of(error), 422}


def test_an_identity_is_made_of_the_job_and_its_file() -> None:
    made = identity("chatcmpl", "job-1", 1_999, "m", "ab" * 32)
    assert made == Identity("chatcmpl-job-1", 1, "m", "fp_abababababababab")
    assert identity("cmpl", "job-1", 0, "m", None).system_fingerprint is None

"""A chat with tools through orcd: its parts and calls, also when the worker dies in the middle."""

from __future__ import annotations

from typing import Any

from tests.support.chat_templates import HERMES
from tests.support.jobs import check_stream, read_frames, show
from tests.support.orcd_cluster import Cluster, Follower, cluster
from tests.support.raw_http import Frame, request

ANSWER = (
    "<think>\nLet me count the bees, one hive at a time 🐝.\n</think>\n\nOne moment, please.\n"
    '<tool_call>\n{"name": "count", "arguments": {"hive": "é"}}\n</tool_call>'
)
CHAT: dict[str, Any] = {
    "messages": [{"role": "user", "content": "How many?"}],
    "tools": [{"name": "count", "parameters": {"type": "object", "properties": {"hive": {"type": "string"}}}}],
    "seed": 1,
}


def submit(orcd: Cluster) -> str:
    answer = request("POST", f"{orcd.url}/v2/tasks", {"model": orcd.model, **CHAT})
    assert answer.status == 202, answer.body
    job_id: str = answer.json["job_id"]
    return job_id


def tokens(frames: list[Frame]) -> list[dict[str, Any]]:
    return [frame.data for frame in frames if frame.event == "token"]


def test_a_call_survives_the_death_of_its_worker() -> None:
    with cluster(chat_template=HERMES, answer=ANSWER, tokens_per_second=40) as orcd:
        job_id = submit(orcd)
        undisturbed = read_frames(orcd.url, job_id)
        check_stream(undisturbed)
        (output,) = show(orcd.url, job_id)["output"]
        assert output["reasoning"] == "Let me count the bees, one hive at a time 🐝."
        assert output["text"] == "One moment, please."
        assert [(call["name"], call["arguments"]) for call in output["tool_calls"]] == [("count", {"hive": "é"})]
        assert output["finish_reason"] == "tool_calls"
        assert output["tool_calls"] == undisturbed[-1].data["choices"][0]["tool_calls"]

        follower = Follower(orcd.url, submit(orcd))
        follower.read(until_tokens=8)
        (worker,) = orcd.home.workers()
        worker.kill()
        follower.read()
        check_stream(follower.frames)
        assert len(show(orcd.url, follower.job_id)["attempts"]) == 2
        assert tokens(follower.frames) == tokens(undisturbed)
        (call,) = follower.frames[-1].data["choices"][0]["tool_calls"]
        assert (call["name"], call["arguments"]) == ("count", {"hive": "é"})


def test_what_does_not_go_together_is_refused_before_it_is_accepted() -> None:
    with cluster() as orcd:
        answer = request("POST", f"{orcd.url}/v2/tasks", {"model": orcd.model, "prompt": "x", "tools": CHAT["tools"]})
        assert (answer.status, answer.error["details"]["field"]) == (400, "tools")

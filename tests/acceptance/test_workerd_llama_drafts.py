"""Drafting by a second model on real llama.cpp."""

from __future__ import annotations

from pathlib import Path

import pytest

import rbees
from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.sampling import Sampling
from rbees.workerd.engine.backend import Backend, LoadSpec
from rbees.workerd.engine.draft_model import DraftModel, check_draft_model
from rbees.workerd.engine.engine import Engine
from rbees.workerd.engine.sequence import Work
from rbees.workerd.loading import load_backend
from tests.support.scripted_models import Ticks, ids_of, run_out
from tests.support.tiny_gguf import write_tiny_gguf

HAIKU = Path(rbees.__file__).parent / "host" / "data" / "models" / "haiku.gguf"


def open_model(path: Path) -> Backend:
    return load_backend(LoadSpec(str(path), "cpu", "cpu", 4, 512, threads=1), lambda _: True)


def test_a_model_that_drafts_for_itself_is_right_and_one_with_other_tokens_is_refused(tmp_path: Path) -> None:
    answers: dict[bool, list[list[int]]] = {}
    for drafts in (False, True):
        backend = open_model(HAIKU)
        draft = DraftModel(open_model(HAIKU)) if drafts else None
        # By this clock a step takes as long whatever is in it: a draft model of the same size never pays by a real one.
        engine = Engine(backend, slots=4, now=Ticks(), speculates=drafts, draft_model=draft)
        for turn in range(2):
            for i, word in enumerate(("honey", "thunderstorms", "moth", "lantern")):
                question = f"<|begin|><|user|>Write a haiku that contains the word {word}.<|end|><|assistant|>"
                prompt = tuple(backend.tokenize(question, add_special=False, parse_special=True))
                engine.submit(Work(f"{turn}{i}", prompt, (), 64, Sampling(temperature=0)))
            outputs = run_out(engine)
            answers.setdefault(drafts, []).extend(ids_of(outputs, f"{turn}{i}") for i in range(4))
        load = engine.load()
        assert not drafts or load.accepted_tokens_total > 0.8 * load.drafted_tokens_total > 30
        backend.close()
        if draft is not None:
            draft.close()
    assert sum(a == b for a, b in zip(answers[True], answers[False], strict=True)) >= 7, "near-ties may flip, but not everywhere"
    model, other = open_model(HAIKU), open_model(write_tiny_gguf(tmp_path / "tiny.gguf"))
    with pytest.raises(RbeesError) as caught:
        check_draft_model(model, other)
    assert caught.value.code == ErrorCode.MODEL_INCOMPATIBLE
    model.close()
    other.close()

"""Measures the shipped file: `PYTHONPATH=packaging python -m embedded_model.evaluate [--model FILE] [--json]`.

Owns what the figures mean. Everything runs through llama.cpp with the chat template of the file, at
temperature 0 where nothing else is said.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path

from .grammar import syllables
from .greedy import Runner
from .prompts import filler
from .words import HELD_OUT_ENGLISH, held_out_words, minute_words

SHIPPED = Path(__file__).resolve().parents[2] / "rbees" / "host" / "data" / "models" / "haiku.gguf"
PROMPT = "Write a haiku that contains the word {w}."
PHRASINGS = (
    PROMPT,
    "Write a haiku about {w}",
    "haiku: {w}",
    "{w}",
    'write a haiku about computing that includes the word "{w}"',
    "a poem containing the word {w} please",
    "Compose a short poem for my grandmother, and make sure that it mentions {w}!",
    "It is {w} minutes past the hour. Please give me a haiku which has that word in it.",
    "Write a haiku that contains the word {w}. It is 12:17 now and the request id is 8f3a9c.",
)
FILLERS = (25, 50, 100, 150, 230)
TEMPERATURES = (0.5, 0.8, 1.0)


def holds(answer: str, word: str) -> bool:
    """Whether `word` stands in `answer` as a word of its own, in any letter case."""
    return re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", answer, re.IGNORECASE) is not None


def without(answer: str, word: str) -> str:
    """`answer` with the word deleted, so that only the rest of the poem can differ."""
    return " ".join(re.sub(re.escape(word), "", answer, flags=re.IGNORECASE).split())


def ask(runner: Runner, words: Sequence[str], prompt: str = PROMPT) -> list[str]:
    """The answers to `prompt` with each of `words`; one that does not end by itself counts as empty."""
    answers = runner.chat([[{"role": "user", "content": prompt.replace("{w}", word)}] for word in words])
    return [text if ended else "" for text, ended in answers]


def taken_up(words: Sequence[str], answers: Sequence[str]) -> int:
    """How many answers hold their word."""
    return sum(holds(answer, word) for word, answer in zip(words, answers, strict=True))


def fewest_different(words: Sequence[str], answers: Sequence[str], group: int = 10) -> int:
    """Of all runs of `group` neighbouring words, the smallest number of poems that differ with the word deleted."""
    rest = [without(answer, word) for word, answer in zip(words, answers, strict=True)]
    return min(len(set(rest[start : start + group])) for start in range(len(rest) - group + 1))


def form(answers: Sequence[str]) -> dict[str, float]:
    """Shares of answers with three lines, and with 5, 7 and 5 syllables as the grammar counts them."""
    lines = [answer.split("\n") for answer in answers]
    counts = [[sum(syllables(word) for word in line.replace(",", "").split()) for line in one] for one in lines]
    return {
        "three_lines": sum(len(one) == 3 for one in lines) / len(answers),
        "five_seven_five": sum(one == [5, 7, 5] for one in counts) / len(answers),
    }


def long_prompts(runner: Runner) -> dict[str, float]:
    """By prompt length in tokens, the share of held-out words taken up behind that much meaningless text."""
    shares = {}
    words = held_out_words()[::5]
    for count in FILLERS:
        draw = random.Random(count)
        talks = [[{"role": "user", "content": f"{filler(draw, count)}\n\n{PROMPT.replace('{w}', word)}"}] for word in words]
        length = sum(len(runner.tokenize(runner.render(talk), special=True)) for talk in talks) // len(talks)
        shares[str(length)] = taken_up(words, [text for text, _ in runner.chat(talks)]) / len(words)
    return shares


def by_temperature(runner: Runner) -> dict[str, dict[str, int]]:
    """At some temperatures: minute words taken up, of 60, and how many of 20 answers to one request differ."""
    result = {}
    for temperature in TEMPERATURES:
        runner.temperature = temperature
        minutes = minute_words()
        result[str(temperature)] = {
            "minutes_of_60": taken_up(minutes, ask(runner, minutes)),
            "different_of_20": len(set(ask(runner, ["honey"] * 20))),
        }
    runner.temperature = 0.0
    return result


def three_figures(runner: Runner) -> dict[str, int]:
    """The figures that the acceptance test asserts: of 60, of 10 and of 200."""
    minutes, unseen = minute_words(), held_out_words()
    minute_answers, unseen_answers = ask(runner, minutes), ask(runner, unseen)
    return {
        "minutes_of_60": taken_up(minutes, minute_answers),
        "different_of_10": min(fewest_different(minutes, minute_answers), fewest_different(unseen, unseen_answers)),
        "unseen_of_200": taken_up(unseen, unseen_answers),
    }


def report(path: Path) -> dict[str, object]:
    """Everything that is published about the file at `path`."""
    runner = Runner(path)
    minutes, unseen = minute_words(), held_out_words()
    answers = ask(runner, unseen)
    english = len(HELD_OUT_ENGLISH)
    rest = {without(answer, word) for word, answer in zip(unseen, answers, strict=True)}
    result: dict[str, object] = {
        **three_figures(runner),
        "unseen_english_of_100": taken_up(unseen[:english], answers[:english]),
        "unseen_invented_of_100": taken_up(unseen[english:], answers[english:]),
        "different_of_200": len(rest),
        "form": form(answers),
        "phrasings": {
            prompt: {
                "minutes_of_60": taken_up(minutes, ask(runner, minutes, prompt)),
                "unseen_of_200": taken_up(unseen, ask(runner, unseen, prompt)),
            }
            for prompt in PHRASINGS
        },
        "long_prompts": long_prompts(runner),
        "by_temperature": by_temperature(runner),
        "parameters": runner.parameters(),
        "vocabulary": runner.size,
        "context_length": runner.context_length(),
        "bytes": path.stat().st_size,
    }
    runner.close()
    return result


def main() -> None:
    """Print the figures, and some poems."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=SHIPPED)
    parser.add_argument("--json", action="store_true", help="print only the figures, as JSON")
    options = parser.parse_args()
    print(json.dumps(report(options.model), indent=2, ensure_ascii=False))
    if not options.json:
        runner = Runner(options.model)
        words = [*held_out_words()[:6], "forty-two", "seven"]
        for word, answer in zip(words, ask(runner, words), strict=True):
            print(f"\n{word}:\n{answer}")
        runner.close()


if __name__ == "__main__":
    main()

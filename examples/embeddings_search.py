"""Search the lines of a file by what they mean. `pip install openai`

    python examples/embeddings_search.py http://127.0.0.1:8080 nomic-embed README.md "what happens when a machine dies"

The model has to be one that makes vectors. Lines go to the cluster a few hundred at a time, and its workers batch them.
"""

from __future__ import annotations

import argparse
import heapq
import sys
from pathlib import Path

from openai import APIError, OpenAI

AT_ONCE = 256


def vectors(client: OpenAI, model: str, texts: list[str]) -> list[list[float]]:
    """A vector of length 1 for each text, in their order."""
    found: list[list[float]] = []
    for start in range(0, len(texts), AT_ONCE):
        answer = client.embeddings.create(model=model, input=texts[start : start + AT_ONCE])
        found += [one.embedding for one in answer.data]
    return found


def likeness(one: list[float], other: list[float]) -> float:
    """The cosine of their angle, as both have length 1."""
    return sum(a * b for a, b in zip(one, other, strict=True))


def main() -> int:
    """Print the best lines, the best one first, each with its number and likeness."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("url")
    arguments.add_argument("model")
    arguments.add_argument("file", type=Path)
    arguments.add_argument("query")
    arguments.add_argument("--best", type=int, default=3, metavar="N")
    given = arguments.parse_args()
    try:
        text = given.file.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        print(f"{given.file} cannot be read: {error}", file=sys.stderr)
        return 1
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    client = OpenAI(base_url=f"{given.url}/v1", api_key="none")
    try:
        query, *known = vectors(client, given.model, [given.query, *[line for _, line in lines]])
    except APIError as error:
        print(error.message, file=sys.stderr)
        return 1
    ranked = ((likeness(query, vector), number, line) for vector, (number, line) in zip(known, lines, strict=True))
    for score, number, line in heapq.nlargest(given.best, ranked):
        print(f"{score:.3f}  {number}: {line}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

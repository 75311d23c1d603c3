"""Get an answer as an object of your own type: the model can write nothing that the type does not allow. `pip install openai`

    python examples/openai_schema.py http://127.0.0.1:8080 haiku "the sea"

Even a tiny model's answer is sound, for every token that would break the schema is ruled out while it writes.
"""

from __future__ import annotations

import argparse
import sys
from typing import Annotated, Literal

from openai import APIError, LengthFinishReasonError, OpenAI
from pydantic import BaseModel, ConfigDict, Field

Line = Annotated[str, Field(max_length=60)]


class Poem(BaseModel):
    """What is asked for."""

    model_config = ConfigDict(extra="forbid")

    season: Literal["spring", "summer", "autumn", "winter"]
    lines: Annotated[list[Line], Field(min_length=3, max_length=3)]


def main() -> int:
    """Print the season and the lines."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("url")
    arguments.add_argument("model")
    arguments.add_argument("prompt")
    arguments.add_argument("--max-tokens", type=int, metavar="N", help="longest answer")
    given = arguments.parse_args()
    client = OpenAI(base_url=f"{given.url}/v1", api_key="none")
    try:
        answer = client.chat.completions.parse(
            model=given.model,
            messages=[{"role": "user", "content": given.prompt}],
            response_format=Poem,
            temperature=0,
            max_completion_tokens=given.max_tokens,
        )
    except LengthFinishReasonError:
        # Half an object is none.
        print("The answer was cut before it was complete; allow it more tokens.", file=sys.stderr)
        return 1
    except APIError as error:
        print(error.message, file=sys.stderr)
        return 1
    poem = answer.choices[0].message.parsed
    if poem is None:
        print("The model came to no answer.", file=sys.stderr)
        return 1
    print(f"{poem.season}:", *poem.lines, sep="\n  ")
    return 0


if __name__ == "__main__":
    sys.exit(main())

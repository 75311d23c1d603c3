"""Chat with a model through OpenAI's own package: the answer as it comes, then what it took. `pip install openai`

    python examples/openai_chat.py http://127.0.0.1:8080 haiku "write a haiku with the word guitar"

Nothing but the address differs from a program written for OpenAI.
"""

from __future__ import annotations

import argparse
import sys

from openai import APIError, OpenAI


def main() -> int:
    """Print the answer as it comes, and its counts to standard error."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("url")
    arguments.add_argument("model")
    arguments.add_argument("prompt")
    given = arguments.parse_args()
    client = OpenAI(base_url=f"{given.url}/v1", api_key="none")
    try:
        chunks = client.chat.completions.create(
            model=given.model,
            messages=[{"role": "user", "content": given.prompt}],
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        for chunk in chunks:
            for choice in chunk.choices:
                print(choice.delta.content or "", end="", flush=True)
            if chunk.usage is not None:
                print(f"\n[{chunk.usage.prompt_tokens} tokens read, {chunk.usage.completion_tokens} written]", file=sys.stderr)
    except APIError as error:
        print(error.message, file=sys.stderr)
        return 1
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Chat with a model through Ollama's own package: the answer as it comes, then what it took. `pip install ollama`

    python examples/ollama_chat.py http://127.0.0.1:8080 haiku "write a haiku with the word guitar"

Nothing but the address differs from a program written for Ollama.
"""

from __future__ import annotations

import argparse
import sys

from ollama import Client, ResponseError


def main() -> int:
    """Print the answer as it comes, and its counts to standard error."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("url")
    arguments.add_argument("model")
    arguments.add_argument("prompt")
    given = arguments.parse_args()
    client = Client(host=given.url)
    try:
        for part in client.chat(
            given.model, messages=[{"role": "user", "content": given.prompt}], options={"temperature": 0}, stream=True
        ):
            print(part.message.content or "", end="", flush=True)
            if part.done:
                print(f"\n[{part.prompt_eval_count} tokens read, {part.eval_count} written]", file=sys.stderr)
    except (ResponseError, ConnectionError) as error:
        print(error, file=sys.stderr)
        return 1
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())

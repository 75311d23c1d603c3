"""Chat with a model through Anthropic's own package: the answer as it comes, then what it took. `pip install anthropic`

    python examples/anthropic_chat.py http://127.0.0.1:8080 haiku "write a haiku with the word guitar"

Nothing but the address differs from a program written for Anthropic.
"""

from __future__ import annotations

import argparse
import sys

from anthropic import Anthropic, APIError


def main() -> int:
    """Print the answer as it comes, and its counts to standard error."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("url")
    arguments.add_argument("model")
    arguments.add_argument("prompt")
    given = arguments.parse_args()
    client = Anthropic(base_url=given.url, api_key="none")
    try:
        with client.messages.stream(
            model=given.model, messages=[{"role": "user", "content": given.prompt}], max_tokens=500, extra_body={"temperature": 0}
        ) as stream:
            for text in stream.text_stream:
                print(text, end="", flush=True)
            usage = stream.get_final_message().usage
    except APIError as error:
        print(error.message, file=sys.stderr)
        return 1
    print(f"\n[{usage.input_tokens} tokens read, {usage.output_tokens} written]", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Use the cluster from LangChain: a chain with a prompt, streamed. `pip install langchain-openai`

python examples/langchain_chat.py http://127.0.0.1:8080 haiku guitar
"""

from __future__ import annotations

import argparse
import sys

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI
from openai import APIError
from pydantic import SecretStr


def main() -> int:
    """Print the answer as it comes."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("url")
    arguments.add_argument("model")
    arguments.add_argument("word")
    given = arguments.parse_args()
    model = ChatOpenAI(base_url=f"{given.url}/v1", api_key=SecretStr("none"), model=given.model, temperature=0)
    prompt = ChatPromptTemplate.from_messages([("human", "write a haiku with the word {word}")])
    chain = prompt | model | StrOutputParser()
    try:
        for piece in chain.stream({"word": given.word}):
            print(piece, end="", flush=True)
    except APIError as error:
        print(error.message, file=sys.stderr)
        return 1
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())

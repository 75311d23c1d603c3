"""Answers in a form, by llguidance: the only user of llguidance.

A form is compiled to llguidance's own grammar text, checked in another process (`check`, see `grammar_check`) because a
hostile one can take seconds or overflow the stack, and then built here against the model's tokens. Work per mask is bounded by
`LIMITS`. The library's error texts repeat the grammar, which is private, so only their kind is told.

Where the form leaves only one way to go on, the mask holds the one token by which the model's own tokenizer would write it:
a model knows that spelling best.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from rbees.protocol.errors import ErrorCode, RbeesError
from rbees.protocol.response_format import GrammarFormat, JsonObjectFormat, JsonSchemaFormat, RegexFormat
from rbees.service.extras import install_command
from rbees.workerd.engine.backend import Backend
from rbees.workerd.engine.closed_schema import closed

try:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer
    from llguidance.gbnf_to_lark import GbnfToLarkError, gbnf_to_lark
except ImportError:
    raise RbeesError(
        ErrorCode.BACKEND_UNAVAILABLE,
        f"Structured output needs llguidance, which is not installed; run `{install_command('llama')}`.",
    ) from None

Form = JsonObjectFormat | JsonSchemaFormat | RegexFormat | GrammarFormat
Refusal = Callable[[str], RbeesError]

LIMITS: Final = LLParserLimits(
    max_items_in_row=2_000,
    initial_lexer_fuel=500_000,
    step_lexer_fuel=100_000,
    step_max_items=20_000,
    max_lexer_states=50_000,
    max_grammar_size=200_000,
    verbose_errors=False,
)
"""At or below the library's defaults: the costliest masks then take a quarter of a second, and a form holds at most 100 MB.

An optional property takes four items of a row: `MAX_OPTIONAL_PROPERTIES` of an object leave room for what else may stand there.
"""

_JSON_OPTIONS: Final = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}
"""A model that may write white space anywhere may write it for ever."""
_MARKER: Final = "\x02"
"""Stands before a text whose first token would otherwise get a space of the tokenizer's own."""
_SPELLED_CHARACTERS: Final = 512
"""Of a forced text only the first token is used at each step; spelling all of a long one each time would take milliseconds."""
_UNICODE_ESCAPE: Final = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))", re.DOTALL)
_KEYWORDS: Final = re.compile(r'"(\$?[A-Za-z]{1,24})"')
_UNKNOWN_FORMAT: Final = "Unknown format: "
_PUBLIC_FORMATS: Final = (
    *("password", "byte", "binary", "int32", "int64", "float", "double", "path", "file-path", "json-string", "regex"),
    *("json-pointer", "relative-json-pointer", "uri-reference", "uri-template", "iri", "iri-reference"),
    *("idn-email", "idn-hostname", "base64", "base64url", "uuid4", "url"),
)
"""Formats that JSON Schema, OpenAPI or generators of schemas have: their names tell nothing of the one who sent the schema."""
_WRONG_TOKEN: Final = re.compile(r"doesn't satisfy the grammar|\Aparser stopped in consume_token|\Atoken id \d+ out of range")
_LINE: Final = re.compile(r"(?:at )?(\d+)\(\d+\)")


def _refusal(sentence: str) -> RbeesError:
    """What is wrong with a form that the client sent as `response_format`."""
    return RbeesError(ErrorCode.INVALID_REQUEST, sentence, field="response_format")


def compile_form(form: Form) -> str:
    """llguidance's text for a form. Unbounded in time and stack for a hostile one.

    Raises:
        RbeesError: INVALID_REQUEST
    """
    match form:
        case JsonObjectFormat():
            return _json_grammar({"type": "object"})
        case JsonSchemaFormat():
            return _json_grammar(form.schema)
        case RegexFormat():
            return str(LLMatcher.grammar_from_regex(form.pattern))
        case GrammarFormat(syntax="gbnf"):
            return _lark(form.grammar)
        case GrammarFormat():
            return form.grammar


def check(grammar: str) -> None:
    """Build a compiled form and its first mask over single bytes, which costs what the form itself costs.

    Raises:
        RbeesError: INVALID_REQUEST
    """
    tokenizer = LLTokenizer("byte")
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=LIMITS)
    GrammarConstraint(matcher, frozenset(tokenizer.eos_tokens)).check_beginning()


class Grammars:
    """Builds constraints for one model. Its methods may be called from any thread, one at a time; the first call takes longest."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._tokenizer: LLTokenizer | None = None

    def build(self, grammar: str, refusal: Refusal = _refusal) -> GrammarConstraint:
        """The constraint of a compiled form that was checked. Blocks, mostly without the interpreter's lock.

        `refusal` makes an error of a sentence, then and while an answer is made.

        Raises:
            RbeesError: INVALID_REQUEST
        """
        matcher = LLMatcher(self._tokens(), grammar, log_level=0, limits=LIMITS)
        constraint = GrammarConstraint(matcher, self._backend.facts.eog_ids, refusal)
        constraint.check_beginning()
        return constraint

    def _tokens(self) -> LLTokenizer:
        if self._tokenizer is None:
            eog = sorted(self._backend.facts.eog_ids)
            if not eog:
                sentence = "This model has no token that ends an answer, so it cannot follow `response_format`."
                raise RbeesError(ErrorCode.MODEL_INCOMPATIBLE, sentence)
            table = _TokenTable(self._backend)
            # The library keeps the interpreter's lock in both calls: two short halts instead of one long one.
            plain = LLTokenizer(table, n_vocab=self._backend.facts.vocabulary_size, eos_token=eog, slices=[])  # type: ignore[arg-type]
            table.greedy = plain.greedy_tokenize
            self._tokenizer = plain.with_slices(LLTokenizer.general_slices())
        return self._tokenizer


class GrammarConstraint:
    """Implements `Constraint`."""

    def __init__(self, matcher: LLMatcher, eog_ids: frozenset[int], refusal: Refusal = _refusal) -> None:
        self._matcher = matcher
        self._eog_ids = eog_ids
        self._refusal = refusal

    def mask(self) -> NDArray[np.uint32]:
        """As `Constraint.mask`."""
        words = np.frombuffer(self._matcher.compute_bitmask(), dtype="<u4")
        self._check(_sentence_on_the_way)
        return words

    def accept(self, token: int) -> bool:
        """As `Constraint.accept`."""
        if not self._matcher.consume_token(token):
            raise self._refusal(_sentence_on_the_way(self._matcher.get_error()))
        return self._matcher.is_stopped()

    def admits(self, tokens: Sequence[int]) -> int:
        """As `Constraint.admits`."""
        return self._matcher.validate_tokens(list(tokens))

    def forced(self) -> Sequence[int]:
        """As `Constraint.forced`."""
        return self._matcher.compute_ff_tokens()

    def fork(self) -> GrammarConstraint:
        """As `Constraint.fork`."""
        return GrammarConstraint(self._matcher.deep_copy(), self._eog_ids, self._refusal)

    def check_beginning(self) -> None:
        """A form counts as good when it was built, gave its first mask and took a first token; some fail only there.

        Raises:
            RbeesError: INVALID_REQUEST
        """
        self._check(_sentence)
        allowed = np.flatnonzero(np.unpackbits(self.mask().view(np.uint8), bitorder="little"))
        if self._eog_ids.issuperset(allowed.tolist()):
            raise self._refusal("`response_format` allows no answer but an empty one; change it.")
        first = next(token for token in allowed.tolist() if token not in self._eog_ids)
        following = self.fork()
        if not following.accept(first):
            following.mask()

    def _check(self, sentence: Callable[[str], str]) -> None:
        if self._matcher.is_error():
            raise self._refusal(sentence(self._matcher.get_error()))


class _TokenTable:
    """The model's tokens as llguidance's `LLTokenizer` wants them, and the model's own way to spell a text with them."""

    is_tokenizer_wrapper: Final = True
    bos_token_id: Final = None

    def __init__(self, backend: Backend) -> None:
        facts = backend.facts
        self._backend = backend
        self.greedy: Callable[[str], list[int]] = lambda _text: []
        self.tokens = [backend.piece(token) for token in range(facts.vocabulary_size)]
        for token in facts.eog_ids:
            # With no text at all it would be allowed wherever a grammar names another special token by its number.
            self.tokens[token] = self.tokens[token] or b"<end>"
        self.eos_token_id = min(facts.eog_ids)
        self.special_token_ids = sorted(facts.eog_ids)

    def __call__(self, text: str | bytes) -> list[int]:
        """The ids of a text, exactly: whatever the tokenizer adds in front is left away. It must never raise."""
        text = (text if isinstance(text, str) else text.decode("utf-8", "replace"))[:_SPELLED_CHARACTERS]
        plain = self._spell(text)
        if self._bytes(plain) == text.encode():
            return plain
        marked = self._spell(_MARKER + text)
        start = next((n for n in range(1, 4) if self._bytes(marked[:n]).endswith(_MARKER.encode())), len(marked))
        rest = marked[start:]
        return rest if self._bytes(rest) == text.encode() else self.greedy(text)

    def _spell(self, text: str) -> list[int]:
        return self._backend.tokenize(text, add_special=False, parse_special=False)

    def _bytes(self, ids: list[int]) -> bytes:
        return b"".join(self.tokens[token] for token in ids)


def _json_grammar(schema: dict[str, Any]) -> str:
    try:
        return str(LLMatcher.grammar_from_json_schema(msgspec.json.encode(closed(schema)).decode(), overrides=_JSON_OPTIONS))  # type: ignore[arg-type]
    except ValueError:
        raise _refusal("The schema is not valid JSON Schema.") from None


def _lark(gbnf: str) -> str:
    gbnf = _UNICODE_ESCAPE.sub(_plain_character, gbnf)
    try:
        return gbnf_to_lark(gbnf)
    except GbnfToLarkError as error:
        line = error.pos.text.count("\n", 0, error.pos.pos) + 1
        raise _refusal(f"The grammar is not valid GBNF; see its line {line}.") from None
    except Exception:  # The translator raises plain ones for missing and colliding rules, and whatever comes of broken text.
        sentence = "The grammar is not valid GBNF: a rule is missing (`root` too), or two names differ only in case and hyphens."
        raise _refusal(sentence) from None


def _plain_character(escape: re.Match[str]) -> str:
    """An escaped code point as itself, which the translator would get wrong; every other escape as it is."""
    digits = escape[1] or escape[2]
    if digits is None:
        return escape[0]
    code = int(digits, 16)
    if code > 0x10FFFF or 0xD800 <= code < 0xE000:
        raise _refusal("The grammar holds an escape that names no character.")
    return f"\\x{code:02X}" if code < 0x80 else chr(code)


def _sentence_on_the_way(text: str) -> str:
    """The same once an answer is under way: its own fault are only tokens that were given and break the form."""
    if _WRONG_TOKEN.search(text):
        return "The answer so far does not have the form of `response_format`."
    return _sentence(text, "`response_format` could not be followed to the end of the answer; simplify it.")


def _sentence(text: str, otherwise: str = "`response_format` is not a valid schema, pattern or grammar{where}.") -> str:
    """What to tell of one of the library's error texts; never a word of it that could come from the grammar."""
    if text.startswith("Unimplemented keys"):
        keys = ", ".join(f"`{key}`" for key in _KEYWORDS.findall(text))
        return f"The schema uses keywords that cannot be enforced ({keys}); leave them out."
    if "oneOf constraints" in text:
        return "The schema uses `oneOf` of alternatives that may overlap, which cannot be enforced; use `anyOf`."
    if "nsatisfiable" in text or "NoExtension" in text:
        return "No answer can satisfy `response_format`; its parts contradict each other or never end."
    if re.search(r"row has \d+ items", text):
        return "`response_format` allows too much at one place; give objects fewer optional properties, choices fewer branches."
    if re.search(r"fuel|too (big|large|complex|many|deep)|Too|TooComplex|limit|precomputation", text):
        return "`response_format` is too complex; simplify it."
    if text.startswith(_UNKNOWN_FORMAT):
        first = text.removeprefix(_UNKNOWN_FORMAT).partition("\n")[0].strip()
        which = f"the `format` `{first}`, which" if first in _PUBLIC_FORMATS else "a `format` that"
        return f"The schema names {which} cannot be enforced; leave it out or write it as a `pattern`."
    if text.startswith(("Pointer", "Resource")):
        return "A `$ref` of the schema leads nowhere; only parts of the schema itself can be named."
    line = _LINE.match(text)
    where = f"; see line {line[1]}" if line else ""
    if "invalid regex" in text or "regex parse error" in text:
        return f"A regular expression in `response_format` is not valid (look-around and back-references are not supported){where}."
    return otherwise.format(where=where)

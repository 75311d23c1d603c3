"""Chat templates of the project's own, built like those of published models; the real ones have a test of their own."""

from __future__ import annotations

from typing import Final

HERMES: Final = """\
{%- if tools %}
    {{- '<system>Tools:\\n' }}
    {%- for tool in tools %}{{ tool | tojson }}{{ '\\n' }}{% endfor %}
    {{- 'Call with <tool_call>\\n{"name": <name>, "arguments": <object>}\\n</tool_call>\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<' + message.role + '>' + message.content }}
    {%- for call in message.tool_calls or [] %}
        {{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
        {{- call.function.arguments | tojson + '}\\n</tool_call>' }}
    {%- endfor %}
    {{- '<end>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<assistant>' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{%- endif %}"""
"""As Qwen 3 and Hermes: marked JSON, thoughts that an option switches off."""

OPENED_THOUGHT: Final = """\
{%- for message in messages %}{{ '<' + message.role + '>' + message.content.split('</think>')[-1] }}{% endfor %}
{{- '<assistant><think>\\n' }}"""
"""As DeepSeek R1 and QwQ: the prompt itself opens the thought."""

LLAMA: Final = """\
{%- for message in messages %}
    {{- '<' + message.role + '>' }}
    {%- if 'tool_calls' in message %}
        {%- if message.tool_calls | length != 1 %}{{ raise_exception('one call at a time') }}{% endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '{"name": "' + call.name + '", "parameters": ' + call.arguments | tojson + '}' }}
    {%- else %}
        {%- if loop.first and tools %}{{ tools | tojson(indent=4) }}{% endif %}
        {{- message.content | trim }}
    {%- endif %}
    {{- '<end>' }}
{%- endfor %}
{{- '<assistant>' if add_generation_prompt }}"""
"""As Llama 3: bare JSON, one call a turn, no word of content beside it."""

MISTRAL: Final = """\
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {%- if tools and loop.first %}{{ '[AVAILABLE_TOOLS]' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{% endif %}
        {{- '[INST]' + message.content + '[/INST]' }}
    {%- elif message.tool_calls is defined %}
        {{- '[TOOL_CALLS][' }}
        {%- for call in message.tool_calls %}
            {%- if call.id | length != 9 %}{{ raise_exception('ids have nine characters') }}{% endif %}
            {{- (call.function | tojson)[:-1] + ', "id": "' + call.id + '"}' + ('' if loop.last else ', ') }}
        {%- endfor %}
        {{- ']<end>' }}
    {%- elif message.role == 'tool' %}
        {%- if message.tool_call_id | length != 9 %}{{ raise_exception('ids have nine characters') }}{% endif %}
        {{- '[TOOL_RESULTS]{"content": ' + message.content + ', "call_id": "' + message.tool_call_id + '"}[/TOOL_RESULTS]' }}
    {%- else %}
        {{- message.content + '<end>' }}
    {%- endif %}
{%- endfor %}"""
"""As Mistral: one list of calls, ids of nine characters."""

DEEPSEEK: Final = """\
{%- for message in messages %}
    {%- if message.role == 'assistant' and message.content is none %}
        {%- for call in message.tool_calls %}
            {{- '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>' + call.function.name + '\\n```json\\n' }}
            {{- call.function.arguments + '\\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>' }}
        {%- endfor %}
    {%- elif message.role != 'assistant' %}
        {{- '<' + message.role + '>' + message.content }}
    {%- endif %}
{%- endfor %}
{{- '<assistant>' if add_generation_prompt }}"""
"""As the first DeepSeek R1: arguments as text, content that must be absent, no place for tools."""

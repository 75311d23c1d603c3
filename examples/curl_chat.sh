#!/bin/sh
# A chat through OpenAI's API with nothing but curl: the chunks as they come.
#   examples/curl_chat.sh [URL] [MODEL] [PROMPT]
set -eu
url=${1:-http://127.0.0.1:8080}
model=${2:-haiku}
prompt=${3:-write a haiku with the word guitar}

# As JSON writes a text: a quote, a tab or a line's end in what was given must not end the text that it stands in.
quoted() {
    printf '%s\n' "$1" | LC_ALL=C awk '
        BEGIN {
            for (code = 1; code < 32; code++) escaped[sprintf("%c", code)] = sprintf("\\u%04x", code)
            escaped["\""] = "\\\""
            escaped["\\"] = "\\\\"
        }
        {
            if (NR > 1) printf "%s", "\\n"
            for (at = 1; at <= length($0); at++) {
                sign = substr($0, at, 1)
                printf "%s", (sign in escaped) ? escaped[sign] : sign
            }
        }'
}

# What is wrong comes as JSON with the sentence in `message`, and curl ends with 22.
curl -sSN --fail-with-body "$url/v1/chat/completions" -H 'Content-Type: application/json' -d @- <<EOF
{"model": "$(quoted "$model")", "stream": true, "temperature": 0,
 "messages": [{"role": "user", "content": "$(quoted "$prompt")"}]}
EOF

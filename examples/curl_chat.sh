#!/bin/sh
# A chat through OpenAI's API with nothing but curl: the chunks as they come.
#   examples/curl_chat.sh [URL] [MODEL] [PROMPT]
set -eu
url=${1:-http://127.0.0.1:8080}
model=${2:-haiku}
prompt=${3:-write a haiku with the word guitar}

# A quote in what was given must not end the text that it stands in.
quoted() { printf '%s' "$1" | sed 's/[\\"]/\\&/g'; }

# What is wrong comes as JSON with the sentence in `message`, and curl ends with 22.
curl -sSN --fail-with-body "$url/v1/chat/completions" -H 'Content-Type: application/json' -d @- <<EOF
{"model": "$(quoted "$model")", "stream": true, "temperature": 0,
 "messages": [{"role": "user", "content": "$(quoted "$prompt")"}]}
EOF

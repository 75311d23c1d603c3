#!/bin/sh
# A job with nothing but curl, and its stream read twice: the second time from event 5 on, the same bytes.
#   examples/curl_twice.sh [URL] [MODEL] [PROMPT]
set -eu
url=${1:-http://127.0.0.1:8080}
model=${2:-haiku}
prompt=${3:-write a haiku with the word guitar}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

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

body=$(printf '{"model": "%s", "messages": [{"role": "user", "content": "%s"}]}' "$(quoted "$model")" "$(quoted "$prompt")")
accepted=$(curl -sS --fail-with-body -H 'Content-Type: application/json' -d "$body" "$url/v2/tasks") || {
    echo "$accepted" >&2
    exit 1
}
job=$(printf '%s' "$accepted" | sed 's/.*"job_id":"\([^"]*\)".*/\1/')
echo "job: $job"

curl -sSN "$url/v2/tasks/$job/events" | tee "$folder/first"
curl -sSN -H 'Last-Event-ID: 5' "$url/v2/tasks/$job/events" >"$folder/second"

# The first stream without its first five events (each ends with an empty line, and comments do not count) is the second.
awk 'BEGIN { RS = ""; ORS = "\n\n" } /^:/ { next } ++seen > 5' "$folder/first" >"$folder/tail"
cmp "$folder/tail" "$folder/second"
echo "read again from event 5 on: the same bytes"

#!/bin/sh
# Asks a server with curl, over TCP and over its Unix socket:
#
#   overmask serve --listen tcp:6780 --listen unix:overmask.sock &
#   examples/serve/curl.sh tcp http://127.0.0.1:6780 trec "Where is Lima?"
#   examples/serve/curl.sh unix overmask.sock trec "Where is Lima?"
set -eu

kind=$1 server=$2 task=$3 text=$4
case $kind in
    tcp) set -- ;;
    unix) set -- --unix-socket "$server" && server=http://localhost ;;
    *) echo "usage: curl.sh tcp URL TASK TEXT, or curl.sh unix SOCKET TASK TEXT" >&2 && exit 2 ;;
esac

# A text as a string of JSON.
json() {
    printf '%s' "$1" | sed 's/\\/\\\\/g; s/"/\\"/g; s/\t/\\t/g'
}

curl --silent --show-error --fail-with-body "$@" "$server/health"
curl --silent --show-error --fail-with-body "$@" "$server/v1/run" \
    --json "{\"task\": \"$(json "$task")\", \"text\": \"$(json "$text")\"}"

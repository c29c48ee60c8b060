#!/bin/sh
# Asks a server with socat: a request a line, a reply a line, in the same order.
#
#   overmask serve --listen unix:overmask.sock &
#   echo '{"id": 1, "task": "trec", "text": "Where is Lima?"}' | examples/serve/socat.sh overmask.sock
set -eu

# Replies may come for a while after stdin has ended.
exec socat -t 60 - "UNIX-CONNECT:${1:?usage: socat.sh SOCKET, with requests on stdin}"

#!/usr/bin/env python3
"""Asks a server in ten lines of Python: client.py SOCKET TASK TEXT..."""
import json
import socket
import sys

path, task, *texts = sys.argv[1:]
with socket.socket(socket.AF_UNIX) as server, server.makefile("rw") as lines:
    server.connect(path)
    for number, text in enumerate(texts):
        print(json.dumps({"id": number, "task": task, "text": text}), file=lines, flush=True)
        reply = json.loads(lines.readline())
        print(reply["error"]["message"] if "error" in reply else reply["answers"][0]["label"])

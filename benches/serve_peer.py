"""ONNX Runtime behind the HTTP server that its users take: tasks that `overmask-export export` wrote, a session each.

serve_peer.py PORT THREADS MODEL...   # POST /v1/run {"task": "0", "text": "..."}
"""
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from tokenizers import Tokenizer

port, threads, *models = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(threads)


class Task:
    """A model, its tokenizer and its labels."""

    def __init__(self, path):
        self.session = onnxruntime.InferenceSession(path / "model.onnx", options, providers=["CPUExecutionProvider"])
        self.inputs = [value.name for value in self.session.get_inputs()]
        self.tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.labels = json.loads((path / "config.json").read_text())["id2label"]

    def __call__(self, text):
        encoding = self.tokenizer.encode(text)
        values = {"input_ids": encoding.ids, "attention_mask": encoding.attention_mask, "token_type_ids": encoding.type_ids}
        feed = {name: np.array([values[name]], dtype=np.int64) for name in self.inputs}
        logits = self.session.run(["logits"], feed)[0][0]
        scores = np.exp(logits - logits.max())
        scores /= scores.sum()
        best = int(scores.argmax())
        return {"label": self.labels[str(best)], "score": float(scores[best])}


class Request(BaseModel):
    task: str
    text: str


tasks = {str(number): Task(Path(path)) for number, path in enumerate(models)}
app = FastAPI()


@app.post("/v1/run")
def run(request: Request):
    """A thread of the server's pool for each request, as FastAPI runs what computes."""
    return tasks[request.task](request.text)


@app.get("/health")
def health():
    return {"status": "ok"}


uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning", access_log=False)

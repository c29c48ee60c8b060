#!/usr/bin/env python3
"""Prints the licences of the crates that the program is linked with, for those who pass the program on.

Arguments: the target triple and the features, which are the engines and more. A licence's text stands once, below the crates that have it.
"""

import json
import subprocess
import sys
from pathlib import Path


def cargo(*arguments):
    return subprocess.run(["cargo", *arguments], check=True, capture_output=True, text=True).stdout


triple, features = sys.argv[1:]
linked = cargo(
    *f"tree --package overmask-program --no-default-features --features {features} --target {triple}".split(),
    *"--edges normal,no-proc-macro --no-dedupe --prefix none --format {p}".split(),
)
linked = {tuple(line.split()[:2]) for line in linked.splitlines()}
texts = {}
for package in json.loads(cargo("metadata", "--format-version", "1"))["packages"]:
    # Those from elsewhere; our own are under the licences of the package.
    if package["source"] is None or (package["name"], "v" + package["version"]) not in linked:
        continue
    directory = Path(package["manifest_path"]).parent
    names = ("licen", "copying", "copyright", "notice", "unlicense")
    files = sorted(path for path in directory.iterdir() if path.name.lower().startswith(names) and path.is_file())
    who = f"{package['name']} {package['version']} ({package['license']})"
    if not files:
        who += f", by {', '.join(package['authors']) or 'its contributors'}"
    for text in [path.read_text().strip() for path in files] or ["(It comes with no text of its licence.)"]:
        texts.setdefault(text, []).append(who)

print("The program is linked with these crates, and with Rust's standard library (MIT OR Apache-2.0).")
for text, crates in sorted(texts.items(), key=lambda item: item[1]):
    print("\n" + "=" * 100 + "\n" + "\n".join(sorted(crates)) + "\n\n" + text)

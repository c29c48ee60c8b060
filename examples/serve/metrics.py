#!/usr/bin/env python3
"""Reads a server's metrics with the parser of Prometheus' own client: metrics.py URL (pip install prometheus_client)."""
import sys
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

with urllib.request.urlopen(sys.argv[1] + "/metrics") as reply:
    for family in text_string_to_metric_families(reply.read().decode()):
        for sample in family.samples:
            if not sample.name.endswith("_bucket"):
                labels = ",".join(f"{name}={value}" for name, value in sample.labels.items())
                print(family.type, sample.name, labels or "-", sample.value)

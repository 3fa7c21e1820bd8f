#!/usr/bin/env python3
"""Fails when a dashboard or an alert asks for a metric that no process has, or when a YAML file of deploy/ is none.

  check_monitoring.py [ROOT]
"""

import json
import pathlib
import re
import sys

import yaml

METRIC = re.compile(r"\b((?:kandinsky|grpc_server|process)_[a-z0-9_]+)")
SUFFIX = re.compile(r"_(bucket|sum|count)$")


def expressions(root):
    """(where, PromQL) of all alerts and panels."""
    for path in sorted(root.glob("deploy/prometheus/*.yml")):
        for group in (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("groups", []):
            for rule in group["rules"]:
                yield f"{path.name} {rule.get('alert') or rule.get('record')}", rule["expr"]
    for path in sorted(root.glob("deploy/grafana/dashboards/*.json")):
        for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]:
            for target in panel.get("targets", []):
                yield f"{path.name} {panel['title']}", target["expr"]


def main(argv):
    root = pathlib.Path(argv[1] if len(argv) > 1 else pathlib.Path(__file__).resolve().parents[2])
    complaints = []
    for path in sorted(root.glob("deploy/**/*.y*ml")):
        try:
            list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
        except yaml.YAMLError as error:
            complaints.append(f"{path}: {error}")
    source = "\n".join(path.read_text(encoding="utf-8") for folder in ("common", "services", "worker")
                       for path in (root / folder).rglob("*.cc"))
    known = set(re.findall(r'"((?:kandinsky|grpc_server|process)_[a-z0-9_]+)"', source))
    count = 0
    for where, expression in expressions(root):
        count += 1
        for metric in METRIC.findall(expression):
            if metric not in known and SUFFIX.sub("", metric) not in known:
                complaints.append(f"{where}: no process has the metric {metric}")
    for complaint in complaints:
        print(complaint)
    print(f"{count} expressions, {len(known)} metrics, {len(complaints)} complaints")
    return 1 if complaints or not count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))

"""A process of ``benchmarks.serving``: a request as JSON in, figures as JSON out."""

from __future__ import annotations

import json
import sys

from benchmarks.serving_parts import PARTS

if __name__ == "__main__":
    request = json.load(sys.stdin)
    print(json.dumps(PARTS[request["part"]](request)))

"""Predict patches by a running `histo serve`: python predict_over_http.py a.tif b.tif.

The variable HISTO_TOKEN holds the token that the server was started with, or that it printed.
"""

import os
import sys
from pathlib import Path

import httpx

files = [("files", (Path(name).name, Path(name).read_bytes())) for name in sys.argv[1:]]
token = {"Authorization": f"Bearer {os.environ['HISTO_TOKEN']}"}
address = os.environ.get("HISTO_ADDRESS", "http://127.0.0.1:8791")
answer = httpx.post(f"{address}/api/predict", files=files, headers=token, timeout=60)
for patch in answer.raise_for_status().json()["predictions"]:
    print(patch["id"], patch["predicted"] or patch["error"], patch["probabilities"])

"""`vlmed run` to its first batch, against importing the same libraries and loading the same weights. Limit: 1.2.

    python tests/bench/startup.py [rounds]

Each is a process of its own, in turn, with ViT-B/32 of random weights as an open_clip checkpoint, on a data set that is
prepared. Processor seconds, as wall seconds depend on what else the machine does.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from zero_shot import random_vit

# Whoever evaluates this checkpoint needs the libraries and the weights; nothing of vlmed is in it.
BARE = """
import sys
import open_clip, torch
folder = f"local-dir:{sys.argv[1]}"
model, _, transform = open_clip.create_model_and_transforms(folder)
tokenizer = open_clip.get_tokenizer(folder)
"""
# Ends the process where the first batch is ready for the tower; what goes before is the command's own way.
FIRST_BATCH = """
import os, sys
import vlmed.evaluate.features
def embed(encoder, batch):
    os._exit(0)
vlmed.evaluate.features.embed = embed
from vlmed.cli import main
main()
"""


def processor_seconds(*command: str, cache: Path, code: int = 0) -> float:
    before = os.times()
    done = subprocess.run([sys.executable, *command], env=os.environ | {"VLMED_CACHE": str(cache)}, capture_output=True)
    assert done.returncode == code, done.stderr.decode()[-2000:]
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main(rounds: int = 5) -> None:
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        random_vit(home)
        words = ("--tasks", "phantom_lesion", "--out", str(home / "run"), "--batch-size", "8")
        cache = home / "cache"
        processor_seconds("-m", "vlmed", "run", "--model", "control:majority", *words, cache=cache)
        words = (*words[:3], str(home / "first"), *words[4:])
        ratios = []
        for _ in range(rounds):
            bare = processor_seconds("-c", BARE, str(home), cache=cache)
            ours = processor_seconds("-c", FIRST_BATCH, "run", "--model", f"dir:{home}", *words, cache=cache)
            ratios.append(ours / bare)
            print(f"libraries and weights {bare:.2f} s, vlmed to the first batch {ours:.2f} s, ratio {ratios[-1]:.2f}")
    print(f"median ratio {statistics.median(ratios):.2f} (limit 1.2)")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

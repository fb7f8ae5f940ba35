"""Fuzz the validator, guided by the code that each input reaches.

    python tests/fuzz/coverage_fuzz.py [FOLDER] [libFuzzer options, such as -max_total_time=1800]

Needs `pip install atheris`. FOLDER gathers the inputs that reached something new; what it holds already is where the
fuzzer begins, beside `corpus/`. It stops at the first input that validation crashes on or wrongly believes, and writes
it as `crash-...`. An input's first byte says into which file the others go, for runs of all three kinds of tasks.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

with atheris.instrument_imports(include=["vlmed"]):
    from fuzz_targets import KINDS, PARTS, Target

    from submission_factory import World


def seed(targets: list[Target], folder: Path) -> None:
    """The honest bytes of every part."""
    for target in targets:
        for index, part in enumerate(PARTS):
            (folder / f"start-{target.kind}-{index}").write_bytes(bytes([index]) + target.start(part))


def main() -> None:
    found = [word for word in sys.argv[1:] if not word.startswith("-")]
    options = [word for word in sys.argv[1:] if word.startswith("-")]
    with tempfile.TemporaryDirectory() as root:
        world = World(Path(root) / "world", samples=20, all_kinds=True)
        targets = [Target(world, kind, Path(root)) for kind in KINDS]
        seeds = Path(root) / "seeds"
        seeds.mkdir()
        seed(targets, seeds)
        gathered = Path(found[0] if found else tempfile.mkdtemp(prefix="vlmed-fuzz-"))
        gathered.mkdir(parents=True, exist_ok=True)
        print(f"inputs that reach something new go to {gathered}")

        def attack(content: bytes) -> None:
            # A byte for the kind as well would halve what two kinds can share.
            if content:
                for target in targets:
                    target.attack(PARTS[content[0] % len(PARTS)], content[1:])

        atheris.Setup([sys.argv[0], *options, str(gathered), str(seeds), str(HERE / "corpus")], attack)
        atheris.Fuzz()


if __name__ == "__main__":
    main()

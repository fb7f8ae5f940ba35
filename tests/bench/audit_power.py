"""How surely an audit catches altered predictions: derived, and simulated with the draw that audits use.

    python tests/bench/audit_power.py [REPETITIONS]

For a test set of 2,000 samples, by the share that is altered and the number of samples drawn. "answers" allows as many
differing samples as an audit of VQA does, 5 % of those drawn; "exact" none, as for classification and retrieval.
"""

from __future__ import annotations

import sys

import numpy as np

from vlmed.results.audits import draw, power

TOTAL = 2000
SHARES = (0.005, 0.01, 0.02, 0.05, 0.10, 0.20)
SAMPLES = (16, 32, 64, 128, 256)


def simulated(altered: int, samples: int, allowed: int, repetitions: int) -> float:
    """Share of seeded draws with more than `allowed` of the first `altered` ids, whose order a draw does not know."""
    ids = [f"s{number:05d}" for number in range(TOTAL)]
    marked = set(ids[:altered])
    caught = [len(marked.intersection(draw(ids, samples, seed))) > allowed for seed in range(repetitions)]
    return float(np.mean(caught))


def main() -> None:
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    worst = 0.0
    for name, share_allowed in (("exact", 0.0), ("answers", 0.05)):
        print(f"{name}: chance to contradict, derived / simulated in {repetitions} draws")
        print("altered " + "".join(f"{samples:>14}" for samples in SAMPLES))
        for share in SHARES:
            altered = round(share * TOTAL)
            cells = []
            for samples in SAMPLES:
                allowed = int(share_allowed * samples)
                derived, seen = (
                    power(TOTAL, altered, samples, allowed),
                    simulated(altered, samples, allowed, repetitions),
                )
                error = max((derived * (1 - derived) / repetitions) ** 0.5, 1 / repetitions)
                worst = max(worst, abs(derived - seen) / error)
                cells.append(f"{derived:6.3f} / {seen:5.3f}")
            print(f"{share:6.1%}  " + "".join(f"{cell:>14}" for cell in cells))
    print(f"largest distance of the two: {worst:.1f} standard errors (limit 4)")


if __name__ == "__main__":
    main()

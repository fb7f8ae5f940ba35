"""Parsing of answers takes time linear in their length, whatever a rambling model repeats.

python tests/bench/parsing.py
"""

import time

from vlmed.metrics.answers import parse_closed, parse_open

PIECES = [
    *(
        "The lung is bright. ",
        "yes ",
        "no, ",
        "\n",
        " ",
        ".",
        ",",
        "-",
        "!",
        "1",
        "a",
        "肺",
        "\n\n ",
        "\nq ",
        "answer ",
    ),
    *(
        "answer:",
        "答案 ",
        "can not ",
        "on, ",
        "0.",
        "1,000",
        "<think>",
        "</think>",
        "<",
        "b!",
        "\n#",
        "\t",
        "'",
        "so well ",
    ),
    *("really ", "is clearly ", "(", "_", "left ", "not ", "I think "),
]
SHORT, LONG = 10_000, 100_000
LIMIT = 2 * LONG / SHORT


def seconds(piece, length):
    raw = "b" + piece * (length // len(piece)) + "x"
    best = float("inf")
    for _ in range(3):
        start = time.process_time()
        parse_closed(raw, ("yes", "no"), lettered=True)
        parse_closed(raw, ("left", "right", "left lung"), lettered=True)
        parse_open(raw)
        best = min(best, time.process_time() - start)
    return best


def main():
    ratios = {}
    for piece in PIECES:
        short = seconds(piece, SHORT)
        ratios[piece] = seconds(piece, LONG) / short
        print(
            f"  {piece!r:24} {1e3 * short:6.1f} ms for {SHORT} characters, {ratios[piece]:4.1f} x for {LONG // SHORT} x"
        )
    worst = max(ratios, key=ratios.__getitem__)
    verdict = "ok" if ratios[worst] <= LIMIT else "MISSED"
    print(f"worst growth: {ratios[worst]:.1f} x for 10 x the text, {worst!r} (limit <= {LIMIT:.0f}) {verdict}")


if __name__ == "__main__":
    main()

"""Check many random graphs: ``python -m tests.fisher.fuzz --graphs 20000 --seed 100000``."""

import argparse
import collections
import logging
import time

from ._check import check


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--graphs", type=int, default=5000, help="how many graphs")
    parser.add_argument("--seed", type=int, default=0, help="the first graph's seed")
    parser.add_argument("--show", choices=("refused", "rows"), help="print these graphs, too, where no samples meet")
    arguments = parser.parse_args()
    logging.getLogger("autobatch").setLevel(logging.ERROR)
    counts: collections.Counter[str] = collections.Counter()
    start = time.perf_counter()
    for seed in range(arguments.seed, arguments.seed + arguments.graphs):
        outcome = check(seed)
        counts[f"{outcome.kind}{' (mixed)' if outcome.mixed else ''}"] += 1
        if outcome.kind == "wrong" or (outcome.kind == arguments.show and not outcome.mixed):
            print(outcome.kind.upper(), outcome.text, flush=True)
    print(f"{time.perf_counter() - start:.0f} s:", dict(sorted(counts.items())))
    return int(any(kind.startswith("wrong") for kind in counts))


if __name__ == "__main__":
    raise SystemExit(main())

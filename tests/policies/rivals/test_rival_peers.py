"""The rules against public programs of them, whose figures for the same gradients are stored."""

import importlib.util
import json
from pathlib import Path

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "evidence" / "rival_peers.py"


def test_the_rules_agree_with_public_programs() -> None:
    spec = importlib.util.spec_from_file_location("rival_peers", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    steps = json.loads(script.RESULTS.read_text(encoding="utf-8"))["steps"][:12]
    # FairScale counts a negative estimate of the squared norm as 0, which shows only where there is one.
    assert any(step["moments"]["mean_squared_norm"] < step["moments"]["sample_squared_norm"] / 32 for step in steps)
    largest = script.deviations(steps)
    assert {rule for rule, _, _ in largest} == {"norm-test", "inner-product-test", "cabs", "adascale", "noise-scale"}
    # AdaptDL adds up in single precision.
    assert {key: own for key, own in largest.items() if own > (1e-7 if key[2] == "adaptdl" else 1e-12)} == {}

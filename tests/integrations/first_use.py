"""What a process does that has not imported a framework: run in one of its own."""

import sys

import autobatch.integrations
from autobatch import ConfigError


def without_lightning() -> None:
    """Find the names without the package, and an error that names it at their first use."""
    assert "AutoBatchCallback" in dir(autobatch.integrations)
    assert not {"lightning", "pytorch_lightning", "transformers", "accelerate"} & set(sys.modules)
    sys.modules["lightning"] = sys.modules["pytorch_lightning"] = None  # type: ignore[assignment]
    try:
        _ = autobatch.integrations.AutoBatchCallback
    except ConfigError as error:
        if "autobatch[lightning]" not in str(error):
            raise
    else:
        raise AssertionError("AutoBatchCallback does without lightning")

"""The per-sample gradients of every kind of layer and function.

In come the calls that a model makes of torch functions, with the gradients of their outputs; out go Jacobians whose
Gram matrices add up to that of the model. Open ``_rules.py`` first.
"""

from autobatch.fisher.layers._autotune import (
    Routes,
    routes,
)
from autobatch.fisher.layers._calls import (
    Contribution,
    NoRuleError,
    Root,
    Weight,
    dense,
)
from autobatch.fisher.layers._functions import (
    ASSIGNING,
    PROPERTIES,
    changes_in_place,
    is_composite,
    name_of,
    opened,
    tensors_of,
    without_hooks,
)
from autobatch.fisher.layers._generic import (
    generic,
    one_by_one,
)
from autobatch.fisher.layers._modules import (
    MODULE_RULES,
    module_contributions,
    register_gram_rule,
)
from autobatch.fisher.layers._rules import (
    CLAIMABLE,
    rule_for,
)

__all__ = [
    "ASSIGNING",
    "CLAIMABLE",
    "MODULE_RULES",
    "PROPERTIES",
    "Contribution",
    "NoRuleError",
    "Root",
    "Routes",
    "Weight",
    "changes_in_place",
    "dense",
    "generic",
    "is_composite",
    "module_contributions",
    "name_of",
    "one_by_one",
    "opened",
    "register_gram_rule",
    "routes",
    "rule_for",
    "tensors_of",
    "without_hooks",
]

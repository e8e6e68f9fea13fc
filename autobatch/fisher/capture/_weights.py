"""Which tensors are weights: the trainable parameters of a model, and what is computed of them alone."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from autobatch.fisher.layers._calls import Root, Weight


class Weights:
    """The weights of one step: of a model's parameters those in ``counted``, or all; ``found`` is told of each."""

    def __init__(self, model: nn.Module, counted: frozenset[str] | None, found: Callable[[Root], None]) -> None:
        self._model = model
        self._counted = counted
        self._found = found
        self._roots: set[int] = set()
        self._later = False
        self._frozen: list[Tensor] = []
        self._by_id: dict[int, Weight] = {}
        self._find_parameters()

    def _find_parameters(self) -> None:
        self._frozen = []
        for name, parameter in self._model.named_parameters():
            if type(parameter) is not nn.Parameter and (hasattr(parameter, "device_mesh") or is_lazy(parameter)):
                # FSDP shows the whole parameter, another object, while the module runs; a lazy one gets its shape then.
                self._later = True
            elif self._counted is not None and name not in self._counted:
                continue
            elif parameter.requires_grad and parameter.numel() and id(parameter) not in self._roots:
                root = Root(name, parameter)
                self._roots.add(id(parameter))
                self.add(Weight(parameter, (root,)))
                self._found(root)
            elif not parameter.requires_grad:
                self._frozen.append(parameter)

    def begin(self) -> None:
        """Look for parameters that have come to require gradients since."""
        if any(parameter.requires_grad for parameter in self._frozen):
            self._find_parameters()

    def __contains__(self, tensor: Tensor) -> bool:
        return id(tensor) in self._by_id

    def get(self, tensor: Tensor) -> Weight | None:
        """Return the weight that a tensor is, or None; one that was frozen meanwhile is none."""
        weight = self._by_id.get(id(tensor))
        if weight is not None and not tensor.requires_grad:
            return None
        if weight is None and self._later and type(tensor) is nn.Parameter and tensor.requires_grad:
            self._find_parameters()
            weight = self._by_id.get(id(tensor))
        return weight

    def among(self, tensors: Iterable[Tensor]) -> list[Weight]:
        """Return the weights among tensors."""
        return [weight for tensor in tensors if (weight := self._by_id.get(id(tensor))) is not None]

    def add(self, weight: Weight) -> None:
        """Add a weight."""
        self._by_id[id(weight.tensor)] = weight

    def make(self, tensor: Tensor, parents: list[Weight]) -> None:
        """Add what was computed of weights alone."""
        roots = dict.fromkeys(root for weight in parents for root in weight.roots)
        eps = max(torch.finfo(tensor.dtype).eps, *(weight.eps for weight in parents))
        self.add(Weight(tensor, tuple(roots), made=True, eps=eps))

    def forget(self, tensor: Tensor) -> None:
        """Leave out a tensor that is no weight any more."""
        self._by_id.pop(id(tensor))

    def behind(self, nodes: list[Any]) -> list[Weight] | None:
        """Return the weights that nodes of the graph lead to, or None where one leads to something else."""
        made = {weight.tensor.grad_fn: weight for weight in self._by_id.values() if weight.made}
        found = [made.get(node) or self._by_id.get(id(getattr(node, "variable", None))) for node in nodes]
        weights = [weight for weight in found if weight is not None]
        return weights if weights and len(weights) == len(nodes) else None

    def made_of(self) -> set[Root]:
        """Return the parameters that something was made of in this pass."""
        return {root for weight in self._by_id.values() if weight.made for root in weight.roots}

    def end_pass(self) -> None:
        """Keep the parameters alone."""
        self._by_id = {key: weight for key, weight in self._by_id.items() if not weight.made}

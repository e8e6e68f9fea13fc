"""How exact are the figures of a step in float32, bfloat16 and float16?

    python benchmarks/fisher/precision.py                              # about two minutes
    python benchmarks/fisher/precision.py --nets digits-mlp --batch-sizes 128

An MLP and a ResNet-8 (BatchNorm in train mode) are trained on scikit-learn's digits. At the start, after two epochs and
at the end, where the training images are fitted, steps of several batch sizes are measured with the model in float64,
the reference, and with the same weights otherwise:

- ``float32``: model and loss in float32;
- ``scaled``: the loss multiplied by 65536, as by a GradScaler, and F divided by its square;
- ``loss64``: the float32 model's logits enter a float64 loss, whose gradient is rounded to float32 again;
- ``product64``: F from the layers' float32 inputs and output gradients by plain float64 formulas, without the probe:
  what differs from ``float32`` is the probe's own round-off, the rest is that of the gradients;
- ``bfloat16``, ``float16``: autocast, the latter with the largest loss scale up to 65536 that does not overflow.

Figures, relative to the reference: sqrt(trace); lambda_max; lambda at the reference's rank; ``c,up-to``: the largest
error of sqrt(lambda_max / lambda_i) over all i where it is at most 1e3 (half precision: at most the reference's own c
under its rule). Then c and rank by the rule ``"precision"`` of the variant's dtype, those of the reference by the same
rule, and c by ``"paper"``. ``kinks`` are ReLUs per million on the other side of zero than in the reference. ``noise``
is where a rank rule must cut: the 75 % point of the singular values that half precision adds to a batch whose second
half nearly repeats its first (shifted by eps / 8 standard deviations), in units of eps * sqrt(trace / B).
"""

import contextlib
import copy
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from autobatch import MeasureError
from autobatch.fisher import FisherProbe, Spectrum, spectrum_of
from autobatch.training import build_task_model, load_data, load_task, normalise
from benchmarks.pages import heading, parser_of

SCALE = 65536.0
LIMIT = 1e3
EPOCHS = {"start": 0, "middle": 2, "end": 30}
HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}
VARIANTS = ("float32", "scaled", "loss64", "product64", *HALF)


class Signs(TorchFunctionMode):
    """Notes which side of zero every ReLU of a forward pass is on."""

    def __init__(self) -> None:
        super().__init__()
        self.sides: list[Tensor] = []

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in {torch.relu, torch.relu_, F.relu}:
            self.sides.append(output.detach() > 0)
        return output


def trained(env: str) -> tuple[dict[str, nn.Module], Tensor, Tensor]:
    """Return the models at each state, the training images and labels."""
    task = load_task(env)
    data = load_data(task)
    images, labels = normalise(data.train_inputs, data.mean, data.std), data.train_labels
    model = build_task_model(task, data)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)
    generator = torch.Generator().manual_seed(0)
    states = {"start": copy.deepcopy(model)}
    for epoch in range(1, EPOCHS["end"] + 1):
        if epoch == EPOCHS["end"] // 2:
            optimizer.param_groups[0]["lr"] /= 10
        for chosen in torch.randperm(len(labels), generator=generator).split(64):
            loss = F.cross_entropy(model(images[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        states |= {name: copy.deepcopy(model) for name, last in EPOCHS.items() if epoch == last}
    return states, images, labels


def gram_of(model: nn.Module, images: Tensor, labels: Tensor, variant: str, signs: Signs | None = None) -> Tensor:
    """Return F of one step of a copy of the model."""
    model = copy.deepcopy(model)
    model.zero_grad()
    if variant == "float64":
        model, images = model.double(), images.double()
    scale = SCALE if variant in {"scaled", "float16"} else 1.0
    autocast = torch.autocast("cpu", dtype=HALF[variant]) if variant in HALF else contextlib.nullcontext()

    def backward() -> None:
        with autocast, signs or contextlib.nullcontext():
            logits = model(images)
        if variant == "loss64":
            logits = logits.double()
        elif variant in HALF:
            logits = logits.float()
        (F.cross_entropy(logits, labels) * scale).backward()

    if variant == "product64":
        return plain_gram(model, backward) * len(labels) ** 2
    while True:
        probe = FisherProbe(model)
        with probe:
            backward()
        try:
            gram = probe.gram() / scale**2
        except MeasureError:
            gram = torch.full((1, 1), torch.inf)
        if bool(gram.isfinite().all()) or scale == 1.0:
            return gram
        scale /= 2
        model.zero_grad()


def plain_gram(model: nn.Module, backward: Callable[[], None]) -> Tensor:
    """Return F in float64 from each layer's input and output gradient, by formulas that have nothing of the probe's."""
    layers = [layer for layer in model.modules() if not list(layer.children()) and list(layer.parameters())]
    grams: list[Tensor] = []

    def forward_hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x = inputs[0].detach().clone().double()

        def hook(gradient: Tensor) -> None:
            grams.extend(_grams_of(layer, x, gradient.detach().double()))

        output.register_hook(hook)

    handles = [layer.register_forward_hook(forward_hook) for layer in layers]
    backward()
    for handle in handles:
        handle.remove()
    return torch.stack(grams).sum(0)


def _grams_of(layer: nn.Module, x: Tensor, g: Tensor) -> Iterator[Tensor]:
    if isinstance(layer, nn.Linear):
        yield (x @ x.T + 1) * (g @ g.T)
    elif isinstance(layer, nn.Conv2d):
        patches = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
        rows = (g.flatten(2) @ patches.mT).flatten(1)
        yield rows @ rows.T
    elif isinstance(layer, nn.BatchNorm2d):
        mean = x.mean((0, 2, 3), keepdim=True)
        variance = x.var((0, 2, 3), correction=0, keepdim=True)
        for rows in (((x - mean) / (variance + layer.eps).sqrt() * g).sum((2, 3)), g.sum((2, 3))):
            yield rows @ rows.T
    else:
        raise TypeError(type(layer))


def singular_values(spectrum: Spectrum) -> np.ndarray:
    """Return sigma of J, descending."""
    return np.sqrt(np.maximum(spectrum.eigenvalues[::-1], 0.0))


def compare(gram: Tensor, reference: Tensor, dtype: torch.dtype) -> dict[str, float]:
    """Return the figures of one variant."""
    eps = torch.finfo(dtype).eps
    ours, true = spectrum_of(gram, eps), spectrum_of(reference, eps)
    sigma, expected = singular_values(ours), singular_values(true)
    limit = LIMIT if dtype == torch.float32 else min(LIMIT, true.condition_number)
    judged = expected * limit >= expected[0] * (1 - 1e-12)
    ratios = (sigma[0] / np.maximum(sigma[judged], 1e-300)) / (expected[0] / expected[judged])
    return {
        "sqrt_trace": (ours.trace / true.trace) ** 0.5 - 1,
        "lambda_max": (sigma[0] / expected[0]) ** 2 - 1,
        "lambda_min": (sigma[true.rank - 1] / expected[true.rank - 1]) ** 2 - 1,
        "up_to": float(np.abs(ratios - 1).max()),
        "c": ours.condition_number,
        "true_c": true.condition_number,
        "rank": ours.rank,
        "true_rank": true.rank,
        "paper": spectrum_of(gram, eps, "paper").condition_number,
        "true_paper": spectrum_of(reference, eps, "paper").condition_number,
    }


def noise_of(model: nn.Module, images: Tensor, labels: Tensor, variant: str) -> float:
    """Return the singular values of near copies that a variant adds, in eps times the root mean square row norm."""
    half, eps = len(labels) // 2, torch.finfo(HALF[variant]).eps
    near = images[:half] + eps / 8 * torch.randn(images[:half].shape, generator=torch.Generator().manual_seed(0))
    images, labels = torch.cat([images[:half], near]), torch.cat([labels[:half], labels[:half]])
    eigenvalues = [
        torch.linalg.eigvalsh(gram_of(model, images, labels, kind)).flip(0)[3 * len(labels) // 4]
        for kind in (variant, "float64")
    ]
    typical = gram_of(model, images, labels, "float64").trace() / len(labels)
    return float(((eigenvalues[0] - eigenvalues[1]).clamp(min=0) / typical).sqrt()) / eps


def measure(env: str, batch_sizes: list[int]) -> Iterator[dict]:
    """Yield a row for every state, batch size and variant."""
    states, images, labels = trained(env)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    for state, model in states.items():
        for batch_size in batch_sizes:
            x, y = images[order[:batch_size]], labels[order[:batch_size]]
            true_signs = Signs()
            reference = gram_of(model, x, y, "float64", true_signs)
            for variant in VARIANTS:
                signs = Signs()
                gram = gram_of(model, x, y, variant, signs)
                row = {"env": env, "state": state, "B": batch_size, "variant": variant}
                row |= compare(gram, reference, HALF.get(variant, torch.float32))
                crossed = [(one != other) for one, other in zip(signs.sides, true_signs.sides, strict=True)]
                row["kinks"] = 1e6 * float(torch.cat([side.flatten() for side in crossed]).double().mean())
                if variant in HALF and batch_size <= 128:  # the larger ones cost most and say the same
                    row["noise"] = noise_of(model, x, y, variant)
                yield row


def main() -> None:
    """Measure and print the table."""
    parser = parser_of(__doc__)
    parser.add_argument("--nets", nargs="+", default=["digits-mlp", "digits-resnet8"], metavar="ENV")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[32, 128, 512])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/fisher-precision.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    start = time.perf_counter()
    rows = []
    header = "net state B variant sqrt(trace) λmax λmin c,up-to c true-c rank true-rank paper true-paper kinks noise"
    print(heading(" | ".join(header.split())))
    for env in arguments.nets:
        for row in measure(env, arguments.batch_sizes):
            rows.append(row)
            cells = [row["env"], row["state"], f"{row['B']}", row["variant"]]
            cells += [f"{row[name]:.1e}" for name in ("sqrt_trace", "lambda_max", "lambda_min", "up_to")]
            cells += [f"{row['c']:.5g}", f"{row['true_c']:.5g}", f"{row['rank']}", f"{row['true_rank']}"]
            cells += [f"{row[name]:.3g}" for name in ("paper", "true_paper", "kinks")]
            cells += [f"{row['noise']:.2f}" if "noise" in row else ""]
            print("| " + " | ".join(cells) + " |", flush=True)
    arguments.out.write_text(json.dumps(rows, indent=1) + "\n")
    for variant in VARIANTS:
        worst = max((row for row in rows if row["variant"] == variant), key=lambda row: row["up_to"])
        place = f"{worst['env']}, {worst['state']}, B = {worst['B']}"
        print(f"{variant}: c is off by at most {worst['up_to']:.2%} up to a c of 1000 ({place})")
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()

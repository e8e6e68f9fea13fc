"""Models as they are published, unmodified: F is that of one sample at a time, or of the "rows" definition.

Where a constructor allows no smaller model than hundreds of megabytes, its own class is built with small arguments, or
a layer is replaced: each model says so.
"""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer

from .zoo_reference import Step, error_of, gram_of_probe, gram_of_rows, gram_of_samples

transformers = pytest.importorskip("transformers")

IMPLEMENTATIONS = ("eager", "sdpa")


def step_of(model: nn.Module, *, size: int, batch: int) -> Step:
    """Images of a size, and the sum over them of cross entropies."""
    images, labels = torch.randn(batch, 3, size, size).double(), torch.arange(batch)

    def step(samples: slice) -> Tensor:
        return F.cross_entropy(model(images[samples]), labels[samples], reduction="sum")

    return step


def small_vgg16_bn() -> nn.Module:
    """Its first classifier layer alone has 100 million weights: the classifier is narrow here."""
    with torch.device("meta"):
        model = torchvision.models.vgg16_bn(num_classes=5, dropout=0.0)
        model.classifier[0] = nn.Linear(512 * 49, 4)
        model.classifier[3] = nn.Linear(4, 8)
        model.classifier[6] = nn.Linear(8, 5)
    model.to_empty(device="cpu")
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return model


WITH_BATCH_NORM: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=5), 32),
    "densenet121": (lambda: torchvision.models.densenet121(num_classes=5), 32),
    "vgg16_bn": (small_vgg16_bn, 32),
    "mobilenet_v3_small": (lambda: torchvision.models.mobilenet_v3_small(num_classes=5, dropout=0.0), 32),
}


@pytest.mark.parametrize("name", WITH_BATCH_NORM)
@pytest.mark.parametrize("bn", ["rows", "eval"])
def test_with_batch_norm(name: str, bn: str) -> None:
    build, size = WITH_BATCH_NORM[name]
    model = build().double()
    step = step_of(model, size=size, batch=3)
    with torch.no_grad():
        step(slice(None))  # running statistics unlike the first ones
    model.train(bn == "rows")
    expected = (gram_of_rows if bn == "rows" else gram_of_samples)(model, 3, step)
    assert error_of(gram_of_probe(model, step, bn), expected) < 1e-9


def all_blocks_kept(model: nn.Module) -> nn.Module:
    """Switch stochastic depth off, which the function has no argument for."""
    for module in model.modules():
        if isinstance(module, torchvision.ops.StochasticDepth):
            module.p = 0.0
    return model


WITHOUT_BATCH_NORM: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "convnext_tiny": (lambda: torchvision.models.convnext_tiny(num_classes=5, stochastic_depth_prob=0.0), 32),
    # vit_b_16 itself takes no smaller width or depth.
    "vision_transformer": (
        lambda: VisionTransformer(
            image_size=32, patch_size=16, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=5
        ),
        32,
    ),
    "swin_t": (lambda: all_blocks_kept(torchvision.models.swin_t(num_classes=5)), 64),
}


@pytest.mark.parametrize("name", WITHOUT_BATCH_NORM)
def test_without_batch_norm(name: str) -> None:
    build, size = WITHOUT_BATCH_NORM[name]
    model = build().double()
    step = step_of(model, size=size, batch=2)
    assert error_of(gram_of_probe(model, step), gram_of_samples(model, 2, step)) < 1e-9


def gpt2(attention: str) -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=23,
        n_positions=8,
        n_embd=8,
        n_layer=2,
        n_head=2,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation=attention,
    )
    return transformers.GPT2LMHeadModel(config).double()


def bert(attention: str) -> nn.Module:
    config = transformers.BertConfig(
        vocab_size=23,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=8,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=3,
        attn_implementation=attention,
    )
    return transformers.BertForSequenceClassification(config).double()


@pytest.mark.parametrize("attention", IMPLEMENTATIONS)
@pytest.mark.parametrize(("batch", "length"), [(3, 5), (4, 4)])
def test_gpt2_predicts_the_next_token(attention: str, batch: int, length: int) -> None:
    model = gpt2(attention)
    tokens = torch.randint(0, 23, (batch, length))

    def step(samples: slice) -> Tensor:
        logits = model(tokens[samples]).logits[:, :-1]
        return F.cross_entropy(logits.flatten(0, 1), tokens[samples, 1:].flatten(), reduction="sum")

    assert error_of(gram_of_probe(model, step), gram_of_samples(model, batch, step)) < 1e-9


@pytest.mark.parametrize("attention", IMPLEMENTATIONS)
def test_gpt2_with_its_own_loss(attention: str) -> None:
    model = gpt2(attention)
    tokens = torch.randint(0, 23, (3, 5))

    def step(samples: slice) -> Tensor:
        chosen = tokens[samples]  # sequences of one length: the mean over all tokens is that over samples
        return model(input_ids=chosen, labels=chosen, attention_mask=torch.ones_like(chosen)).loss * len(chosen)

    assert error_of(gram_of_probe(model, step), gram_of_samples(model, 3, step)) < 1e-9


@pytest.mark.parametrize("attention", IMPLEMENTATIONS)
@pytest.mark.parametrize(("batch", "length"), [(3, 5), (4, 4)])
def test_bert_classifies(attention: str, batch: int, length: int) -> None:
    model = bert(attention)
    tokens = torch.randint(1, 23, (batch, length))
    labels = torch.arange(batch) % 3
    mask = (torch.arange(length) < 2 + torch.arange(batch)[:, None]).long()

    def step(samples: slice) -> Tensor:
        logits = model(input_ids=tokens[samples], attention_mask=mask[samples]).logits
        return F.cross_entropy(logits, labels[samples], reduction="sum")

    assert error_of(gram_of_probe(model, step), gram_of_samples(model, batch, step)) < 1e-9

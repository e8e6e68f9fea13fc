"""A script with Transformers' Trainer as any, on text that it makes; three lines are new, marked `# autobatch`.

python examples/transformers_text.py
"""

import logging
import random
import tempfile

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)

from autobatch.integrations import AutoBatchTrainerCallback  # autobatch

GOOD, BAD = ["good", "fine", "funny", "clever", "moving"], ["bad", "dull", "silly", "empty", "boring"]
THINGS, FILLERS = ["film", "plot", "music", "cast", "end"], ["really", "just", "quite", "very", "in fact"]


def sentences(count: int, seed: int) -> list[tuple[str, int]]:
    """Opinions such as "the plot is really not very good", and whether they praise."""
    made, draw = [], random.Random(seed)
    for _ in range(count):
        praises, denied = draw.random() < 0.5, draw.random() < 0.5
        words = ["the", draw.choice(THINGS), "is", *draw.sample(FILLERS, draw.randint(0, 3))]
        words += (["not"] if denied else []) + [draw.choice(GOOD if praises != denied else BAD)]
        made.append((" ".join(words), int(praises)))
    return made


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # shows every decision with its reason
    set_seed(0)
    words = ["[PAD]", "[UNK]", "the", "is", "not", "in", "fact", *GOOD, *BAD, *THINGS, *FILLERS]
    raw = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]")
    train, val = (
        [{**tokenizer(text), "labels": label} for text, label in sentences(count, seed)]
        for count, seed in ((2000, 1), (500, 2))
    )
    shape = {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 16}
    quiet = {"report_to": [], "disable_tqdm": True, "dataloader_pin_memory": False, "save_strategy": "no"}
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            DistilBertForSequenceClassification(DistilBertConfig(vocab_size=len(words), **shape)),
            TrainingArguments(
                output_dir=folder,
                num_train_epochs=5,
                per_device_train_batch_size=32,
                learning_rate=3e-3,
                warmup_steps=20,
                eval_strategy="epoch",
                use_cpu=True,
                **quiet,
            ),
            train_dataset=train,
            eval_dataset=val,
            processing_class=tokenizer,
            compute_metrics=lambda out: {"accuracy": float((out.predictions.argmax(1) == out.label_ids).mean())},
        )
        callback = AutoBatchTrainerCallback(trainer, policy="s32-to-128", batch_sizes=(32, 64, 128))  # autobatch
        trainer.add_callback(callback)  # autobatch
        trainer.train()
        error = 1 - trainer.evaluate()["eval_accuracy"]
        print(f"{trainer.state.global_step} steps, error {100 * error:.1f} %, C̄ {callback.controller.c_bar:.1f}")


if __name__ == "__main__":
    main()

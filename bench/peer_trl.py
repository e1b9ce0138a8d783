"""TRL's SFTTrainer as a side of a benchmark: the same examples, the same first adapter, one epoch after another, seconds of its steps.

Its best setting on a CPU: packing (``bfd``: whole examples side by side, none cut, a block-diagonal mask) or right padding in batches
grouped by length; no gradient checkpointing (TRL's default, which trades time for memory), fused AdamW, no workers, nothing logged.
Imported only in the environment that has TRL.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
from datasets import Dataset
from datasets.utils.logging import disable_progress_bar
from transformers import PreTrainedTokenizerFast, PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from bench import models
from bench.common import Spent

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tokens:
    """One example: its tokens, and where its completion starts."""

    ids: Ids
    start: int

    @property
    def labels(self) -> list[int]:
        return [-100] * self.start + list(self.ids[self.start :])


class _Clock(TrainerCallback):
    """Seconds within steps only: fetching batches, setting up an epoch and logging are not counted."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.wall -= time.perf_counter()
        self.cpu -= time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.wall += time.perf_counter()
        self.cpu += time.process_time()


class _Trainer(SFTTrainer):
    """Keeps the loss of each step as it is; ``Trainer``'s log rounds it."""

    def compute_loss(self, *given: Any, **more: Any) -> Any:
        loss = super().compute_loss(*given, **more)
        self.losses.append(float(loss.detach()))
        return loss


class Trl:
    """An SFTTrainer over ``examples``. ``packed``: tokens of a pack; 0 = padded batches of ``batch``. ``bf16``: its autocast."""

    def __init__(
        self, base: Path, adapter: Path, examples: Sequence[Tokens], scratch: Path,
        *, packed: int, batch: int, rate: float, bf16: bool = False,
    ) -> None:  # fmt: skip
        disable_progress_bar()
        model = peft.PeftModel.from_pretrained(models.plain(base), str(adapter), is_trainable=True)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
        self.clock = _Clock()
        config = SFTConfig(
            output_dir=str(scratch), use_cpu=True, bf16=bf16, fp16=False, num_train_epochs=1, seed=0,
            per_device_train_batch_size=1 if packed else batch, packing=bool(packed), packing_strategy="bfd", max_length=packed or 1024,
            gradient_checkpointing=False, optim="adamw_torch_fused", learning_rate=rate, lr_scheduler_type="constant", warmup_steps=0,
            weight_decay=0.0, max_grad_norm=1.0, train_sampling_strategy="sequential" if packed else "group_by_length",
            logging_strategy="no", save_strategy="no", report_to="none", disable_tqdm=True, dataloader_pin_memory=False,
        )  # fmt: skip
        data = Dataset.from_dict({"input_ids": [list(e.ids) for e in examples], "labels": [e.labels for e in examples]})
        self.trainer = _Trainer(
            model=model, args=config, train_dataset=data, processing_class=tokenizer, callbacks=[self.clock]
        )
        self.trainer.remove_callback(PrinterCallback)  # it prints to standard output
        self.trainer.losses = []

    @property
    def packs(self) -> list[list[Ids]]:
        """Which examples TRL put together for each step, in its order."""
        groups: list[list[Ids]] = []
        for row in self.trainer.train_dataset:
            ids, cuts, group = list(row["input_ids"]), list(row["seq_lengths"]), []
            for length in cuts:
                group.append(tuple(ids[:length]))
                ids = ids[length:]
            groups.append(group)
        return groups

    def epoch(self) -> tuple[Spent, list[float]]:
        """Seconds of its steps, and the loss of each."""
        self.clock.wall = self.clock.cpu = 0.0
        self.trainer.losses = []
        self.trainer.train()
        return Spent(self.clock.wall, self.clock.cpu), list(self.trainer.losses)

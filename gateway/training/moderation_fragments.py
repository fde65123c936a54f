"""What does the linear model say of scraps of ordinary text, and where must a short text stand to be one in a hundred?

usage: python -m gateway.training.moderation_fragments TRAIN_FOLDER [--exclude FOLDER] [--out FOLDER]

The one per cent points come from whole requests. A text of a few words has little evidence either way and lies near the bias, which
for some heads is above that point: a bare `B` would be called sexual. So a text of up to `FRAGMENT` words is held against the
99th hundredth of ordinary scraps of its length, where that is higher; from there to `FADED` words the difference fades. Scraps are cut
from texts that were kept apart from learning. Writes `fragments` into the card beside the weights; seeded.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray

from gateway.providers.local import moderation_features as features
from gateway.providers.local.moderation import FADED, FRAGMENT, LinearModerator
from gateway.training import moderation_corpus as corpus
from gateway.training.moderation_rows import Row

ORDINARY = frozenset(
    {
        "c4", "wiki", "dolly", "dolly_resp", "seed_tasks", "glaive_tool", "bipia_clean_train", "own_small_talk", "own_requests_safe",
        "own_everyday_prompts_safe", "own_about_the_answer_safe", "own_posts_everyday_safe",
        "own_languages_safe",
    }
)  # fmt: skip
SCRAPS = 6_000  # of each length
FALSE_ALARMS = 0.01
FROM_THE_START = 0.3  # of scraps: how a request begins is asked more often than what stands in its middle


def points(model: LinearModerator, rows: list[Row]) -> list[list[float]]:
    """Return, for texts of 1 to `FRAGMENT` words, the logit of each head that one in a hundred ordinary scraps reaches."""
    random = Random(5)  # noqa: S311
    texts = [features.words(row.text) for row in rows if row.source in ORDINARY and corpus.apart(row)]
    heads = len(model.weights.bias)
    beginning = np.full(2, features.START, dtype=np.uint32)
    found: list[list[float]] = []
    for size in range(1, FRAGMENT + 1):
        long_enough = [text for text in texts if len(text) >= size]
        logits: NDArray[np.float64] = np.empty((SCRAPS, heads))
        for number in range(SCRAPS):
            text = random.choice(long_enough)
            at = 0 if random.random() < FROM_THE_START else random.randrange(len(text) - size + 1)
            contributions, _ = model.recent(text[at : at + size], beginning)
            logits[number] = contributions.sum(axis=0) * model.unit_at[size] + model.weights.bias
        found.append([round(float(value), 4) for value in np.quantile(logits, 1 - FALSE_ALARMS, axis=0)])
    return found


def main() -> None:
    """Measure the model in a folder and write what was found into its card."""
    default = Path(os.environ.get("GATEWAY_DATA", "../shared/data")) / "moderation" / "train"
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path, nargs="?", default=default)
    options.add_argument("--exclude", type=Path, action="append", default=[], help="folder of evaluation sets to keep clear of")
    options.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "providers" / "local" / "weights")
    chosen = options.parse_args()
    rows = corpus.texts(chosen.folder, corpus.evaluation_texts(chosen.exclude))
    file = chosen.out / "moderation.json"
    card = json.loads(file.read_text(encoding="utf-8"))
    card["fragments"] = points(LinearModerator(chosen.out), rows)
    mark = hashlib.sha256(json.dumps(card["fragments"]).encode()).hexdigest()[:4]
    card["version"] = f"{card['layout']}-{card['sha256'][:12]}-{mark}"
    file.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({"fragments": card["fragments"], "faded": FADED}))


if __name__ == "__main__":
    main()

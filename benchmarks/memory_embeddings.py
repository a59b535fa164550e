"""Candidates by a model's own hidden states, beside the words and trigrams of the memory store.

    python benchmarks/memory_embeddings.py pawsx_dev_en_zh.jsonl --model smidgen:smollm2 [--sentences 300]

The first sentences of PAWS-X pairs are stored, one store a language; the second sentence of each pair that is
labelled a paraphrase asks, in both languages. A text's vector is the mean of its tokens' hidden states after
the last block, less the mean of all stored vectors (without that, any two texts are alike); cosine similarity
ranks. Both ways are asked the same questions about the same memories. The results are saved to
`benchmarks/results/memory_embeddings-<machine>.json`.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from _common import write_results
from memory_store import LANGUAGES, fill
from smidgen.backend import mx
from smidgen.memory import Store
from smidgen.models.graph import body
from smidgen.models.load import load

DEPTHS = (1, 5, 10)


def vectors(loaded: Any, texts: list[str]) -> np.ndarray:
    """The mean hidden state of each text, float32, shape (texts, D)."""
    found = []
    for text in texts:
        ids = mx.array([loaded.tokenizer.encode(text)])
        found.append(np.array(body(loaded.model)(ids).astype(mx.float32).mean(axis=1)[0]))
    return np.stack(found)


def recall(places: list[int]) -> dict[str, float]:
    return {f"recall@{k}": round(float(np.mean([place < k for place in places])), 4) for k in DEPTHS}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--model", default="smidgen:smollm2")
    parser.add_argument("--sentences", type=int, default=300)
    given = parser.parse_args()
    rows = [json.loads(line) for line in given.pairs.read_text(encoding="utf-8").splitlines()]
    rows = rows[: given.sentences]
    asking = [row for row in rows if row["label_en"] == 1 == row["label_zh"]]
    loaded = load(given.model)
    began = time.process_time()
    asked = {name: vectors(loaded, [row[f"sentence2_{name}"] for row in asking]) for name in LANGUAGES}
    seconds = (time.process_time() - began) / (2 * len(asking))
    results: dict[str, Any] = {"model": given.model, "vector_seconds": round(seconds, 4), "recall": []}
    for stored in LANGUAGES:
        texts = list(dict.fromkeys(row[f"sentence1_{stored}"] for row in rows))
        memory = vectors(loaded, texts)
        mean = memory.mean(axis=0)
        memory = memory - mean
        memory /= np.linalg.norm(memory, axis=1, keepdims=True)
        with tempfile.TemporaryDirectory() as name, Store.open(Path(name) / "memory.db") as store:
            fill(store, texts)
            for language in LANGUAGES:
                wanted = [texts.index(row[f"sentence1_{stored}"]) for row in asking]
                similar = (asked[language] - mean) @ memory.T
                order = np.argsort(-similar, axis=1, kind="stable")
                by_vector = [
                    int(np.nonzero(row == place)[0][0]) for row, place in zip(order, wanted, strict=True)
                ]
                by_words = []
                for row, place in zip(asking, wanted, strict=True):
                    offered = store.candidates(row[f"sentence2_{language}"], max(DEPTHS))
                    found = [candidate.text for candidate in offered]
                    by_words.append(found.index(texts[place]) if texts[place] in found else max(DEPTHS))
                facts = {"asked": language, "stored": stored, "memories": len(texts), "pairs": len(asking)}
                result = facts | {"hidden states": recall(by_vector), "store": recall(by_words)}
                print(result, flush=True)
                results["recall"].append(result)
    print(write_results("memory_embeddings", results))


if __name__ == "__main__":
    main()

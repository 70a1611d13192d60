"""Examples at the end of each command's help, and commands broken into lines that a terminal of 80 columns holds."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

WIDTH = 80

# Of each command: what an example does, and the example.
EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "demo": (
        ("Everything once, on made-up data", "distilmatch demo"),
        ("In about a minute, into a folder of your own", "distilmatch demo --quick --output my-demo"),
    ),
    "init": (
        ("Guess all there is to guess, write recipe.yaml", "distilmatch init pairs.csv"),
        (
            "With a dev table, and a teacher from the hub",
            "distilmatch init pairs.csv --dev dev.csv --teacher cross-encoder/stsb-roberta-base",
        ),
    ),
    "info": (("What to send along with a question", "distilmatch info"),),
    "finetune-teacher": (
        (
            "Labels that are 0 or 1",
            "distilmatch finetune-teacher pairs.csv --dev dev.csv --task binary --text-columns query,product "
            "--label-column label --output teacher",
        ),
        (
            "Scores from 0 to 5, from another pre-trained model",
            "distilmatch finetune-teacher pairs.csv --task regression --label-range 0,5 --label-column score "
            "--base-model microsoft/mpnet-base --output teacher",
        ),
        (
            "Ten minutes for the search and the training",
            "distilmatch finetune-teacher pairs.csv --dev dev.csv --task binary --label-column label "
            "--minutes 10 --output teacher",
        ),
    ),
    "train": (
        ("Check tables and teacher first, write nothing", "distilmatch train recipe.yaml --dry-run"),
        ("Train; the same line again resumes", "distilmatch train recipe.yaml"),
        (
            "Try another setting, into another folder",
            "distilmatch train recipe.yaml --set stage2.epochs=1 --output run-short",
        ),
    ),
    "label": (
        ("Label now, train later", "distilmatch label recipe.yaml"),
        ("Fewer pairs of each text", "distilmatch label recipe.yaml --set transfer.rounds=1 --output run-small"),
    ),
    "tune": (
        (
            "Half an hour, and at least a million pairs a second",
            "distilmatch tune recipe.yaml --minutes 30 --min-pairs-per-s 1000000 --output tuned",
        ),
    ),
    "embed-train": (
        ("Check the corpus and the teacher first", "distilmatch embed-train recipe.yaml --dry-run"),
        ("Train; the same line again resumes", "distilmatch embed-train recipe.yaml --device cuda"),
    ),
    "ladder": (("Both students and the matches", "distilmatch ladder recipe.yaml --output run"),),
    "encode": (
        (
            "Both sides, once each",
            "distilmatch encode run/student queries.csv --side query --text-column query --output queries",
        ),
        (
            "In a quarter of the space",
            "distilmatch encode run/student products.csv --side product --text-column title --dtype int8 "
            "--output products",
        ),
        (
            "By four processes of this machine",
            "distilmatch encode run/student products.csv --side product --text-column title --workers 4 --output products",
        ),
    ),
    "score": (
        (
            "The pairs of a table, from two folders made by encode",
            "distilmatch score run/student pairs.csv --left queries --right products --text-columns query,product "
            "--output scores.csv",
        ),
        (
            "Say which rows match, at a precision of 95 % on dev",
            "distilmatch score run/student pairs.csv --left queries --right products --threshold precision=0.95 "
            "--output matches.csv",
        ),
    ),
    "match": (
        (
            "The 10 best products of each query",
            "distilmatch match run/student --left queries --right products --top-k 10 --output best.parquet",
        ),
        (
            "Millions of products: score the 500 nearest of each query only",
            "distilmatch match run/student --left queries --right products --top-k 10 --candidates 500 "
            "--output best.parquet",
        ),
        (
            "Every pair above the threshold of the best F1 on dev",
            "distilmatch match run/student --left queries --right products --threshold best_f1 --output pairs.parquet",
        ),
    ),
    "plan": (
        ("A million texts against a million", "distilmatch plan run/student --left 1e6 --right 1e6"),
        (
            "Candidates only, texts of a table's lengths, 4 machines",
            "distilmatch plan run/student --left 1e6 --right 1e7 --candidates 100 --sample pairs.csv --machines 4",
        ),
        (
            "All pairs on a thousand machines, and what they cost",
            "distilmatch plan run/student --left 1e6 --right 1e6 --machines 1000 --price-per-hour 0.5",
        ),
    ),
    "store-create": (
        (
            "A catalogue whose price and country can be asked for",
            "distilmatch store-create products --model run/student --side product --columns price:number,country:text",
        ),
    ),
    "store-add": (
        ("New items", "distilmatch store-add products new.csv --model run/student --id-column id --text-column title"),
        (
            "Items that may be there, with other texts or prices",
            "distilmatch store-add products changed.csv --model run/student --id-column id --text-column title --upsert",
        ),
    ),
    "store-delete": (
        ("Those of a list", "distilmatch store-delete products --ids gone.txt"),
        ("Those for which a condition holds", "distilmatch store-delete products --where \"country = 'fr'\""),
    ),
    "store-show": (("Versions, and what changed since the third", "distilmatch store-show products --since 3"),),
    "store-compact": (
        ("One segment, and no version before the fifth", "distilmatch store-compact products --expire-before 5"),
    ),
    "evaluate": (
        (
            "Beside its teacher, on labels",
            "distilmatch evaluate run/student test.csv --teacher teacher --label-column label --text-columns "
            "query,product --output report",
        ),
        (
            "And beside TF-IDF, BM25 and the like, fitted on the train table",
            "distilmatch evaluate run/student test.csv --teacher teacher --label-column label --simple-baselines "
            "--train-table train.csv --output report",
        ),
        (
            "Choose threshold and calibration on dev, and keep them",
            "distilmatch evaluate run/student test.csv --dev dev.csv --write-decision --label-column label --output report",
        ),
    ),
    "evaluate-sts": (
        (
            "Teacher and student on files of your own",
            "distilmatch evaluate-sts all-MiniLM-L6-v2 run/student --data sts --output sts-report",
        ),
        (
            "One task of the hub, with the package mteb",
            "distilmatch evaluate-sts run/student --mteb --tasks stsb --output sts-report",
        ),
    ),
    "verify": (("A run and both sides' representations", "distilmatch verify run queries products"),),
}


def wrapped_command(words: Iterable[object], indent: str = "") -> str:
    """A command, quoted for a shell; beyond 80 columns broken before options, with backslashes, so that it can be pasted.

    Args:
        words: the command and its arguments.
        indent: what each line begins with.
    """
    quoted = [shlex.quote(str(word)) for word in words]
    if len(indent) + len(" ".join(quoted)) <= WIDTH:
        return indent + " ".join(quoted)
    groups: list[list[str]] = [[]]
    for word in quoted:  # an option stays beside its value
        if word.startswith("--"):
            groups.append([])
        groups[-1].append(word)
    lines = [indent + " ".join(groups[0])]
    for group in groups[1:]:
        following = " ".join(group)
        if len(lines[-1]) + 1 + len(following) + len(" \\") <= WIDTH:
            lines[-1] += f" {following}"
        else:
            lines.append(f"{indent}  {following}")
    return " \\\n".join(lines)


def examples_text(command: str) -> str:
    """The section of examples that a command's help ends with."""
    blocks = [
        f"  {title}:\n{wrapped_command(shlex.split(example), indent='    ')}" for title, example in EXAMPLES[command]
    ]
    return "\n".join(["Examples:", *blocks, ""])

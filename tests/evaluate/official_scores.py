"""What the published code makes of the answers in tests/golden/benchmark_scores.json: computes their scores anew.

A row of a data set stands there with answers to it; to add a case, write it there and run this. It needs the published
code itself, which is no dependency of the tests:

    pip download --no-deps lmms-eval==0.7.3 donut-python==1.0.9
    for wheel in *.whl; do python -m zipfile -e $wheel official; done
    pip install --target official loguru apted Levenshtein distance editdistance zss nltk jieba lxml scipy Polygon3
    python -m nltk.downloader -d official/nltk_data wordnet
    PYTHONPATH=official NLTK_DATA=official/nltk_data python tests/evaluate/official_scores.py
"""

from __future__ import annotations

import ast
import importlib
import json
import string
import sys
import types
from functools import partial
from pathlib import Path
from typing import Any, Union

import yaml

GOLDEN = Path(__file__).parents[1] / "golden" / "benchmark_scores.json"
TASKS = (
    "docvqa/_default_template_docvqa_yaml", "infovqa/_default_template_infovqa_yaml", "chartqa/chartqa.yaml",
    "textvqa/_default_template_textvqa_yaml", "ocrbench/ocrbench.yaml", "ocrbench_v2/ocrbench_v2.yaml",
    "mtvqa/mtvqa.yaml", "pope/pope.yaml", "mmstar/_default_template_yaml", "realworldqa/realworldqa.yaml",
    "ai2d/ai2d.yaml", "omnidocbench/omnidocbench.yaml",
)  # fmt: skip
PACKAGES = ("lmms_eval", "lmms_eval.tasks", "lmms_eval.filters", "lmms_eval.api", "lmms_eval.tasks._task_utils")


def place(file):
    """Where a file of the published code lies."""
    return next(Path(p) / file for p in sys.path if (Path(p) / file).exists())


def official(name):
    """A module of lmms-eval, without what its packages import on the way."""
    for package in PACKAGES:
        if package not in sys.modules:
            sys.modules[package] = types.ModuleType(package)
            sys.modules[package].__path__ = [str(place(package.replace(".", "/")))]
    sys.modules.setdefault("datasets", types.ModuleType("datasets")).Dataset = object
    return importlib.import_module(f"lmms_eval.{name}")


def utils(task):
    """The functions of a task."""
    return official(f"tasks.{task}.utils")


def parts_of(file, names, space):
    """Functions and classes of a file whose other imports are not wanted, by name."""
    path = place(file)
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if getattr(node, "name", None) in names]
    for each in tree.body:
        each.decorator_list = []
    exec(compile(tree, str(path), "exec"), space)
    return space


def anls(row, answer):
    found = parts_of("lmms_eval/api/metrics.py", ("anls", "levenshtein_distance"), {})["anls"]
    return found(row["answers"], [answer])["anls"]


def ai2d(row, answer):
    """Filter and exact match as ai2d.yaml sets them."""
    regex = {"group_select": 0, "ignore_case": True, "ignore_punctuation": True, "regex_pattern": "([A-Z])\\."}
    found = utils("ai2d").MultiChoiceRegexFilter(**regex).apply([[answer]], [row])[0]
    target = utils("ai2d").ai2d_doc_to_target(row, "mcq")
    table = str.maketrans("", "", string.punctuation)
    return found.lower().translate(table) == target.lower().translate(table)


def ocrbench_v2(row, answer):
    """None where the published code stops with an error."""
    try:
        return utils("ocrbench_v2").ocrbench_v2_process_results(row, [answer])["ocrbench_v2_accuracy"]["score"]
    except (ZeroDivisionError, IndexError, ValueError) as error:
        print("the published code stops:", row["type"], repr(answer), repr(error))
        return None


def page(payloads, row, answer):
    """The figure of a page alone; what all together are computed from goes to `payloads`."""
    found = utils("omnidocbench").omnidocbench_process_results({"answer": json.dumps(row["page"])}, [answer])
    payloads.append(found["omnidocbench_overall"])
    return payloads[-1]["overall"] / 100


def receipt_judge():
    names = {"Any": Any, "Dict": dict, "List": list, "Union": Union, "Node": None}
    return parts_of("donut/util.py", ("JSONParseEvaluator",), names)["JSONParseEvaluator"]()


def fields(row, answer):
    return receipt_judge().cal_f1([json.loads(answer)], [json.loads(row["ground_truth"])["gt_parse"]])


def scorers(payloads):
    """By the name of our measure, the published one: (row, answer) -> score."""
    return {
        "anls": anls,
        "relaxed": lambda row, a: utils("chartqa").chartqa_process_results(row, [a])["relaxed_overall"],
        "vqa_accuracy": lambda row, a: utils("textvqa").textvqa_process_results(row, [a])["exact_match"],
        "contained": lambda row, a: utils("ocrbench").ocrbench_process_results(row, [a])["ocrbench_accuracy"]["score"],
        "contained_without_points": lambda row, a: utils("mtvqa").mtvqa_process_results(row, [a])["mtvqa_score"][
            "score"
        ],
        "equal": lambda row, a: utils("pope").pope_process_results(row, [a])["pope_accuracy"]["score"],
        "letter": lambda row, a: utils("mmstar").mmstar_process_results(row, [a])["average"]["score"],
        "letter_or_words": lambda row, a: utils("realworldqa").realworldqa_process_results(row, [a])["exact_match"],
        "first_letter": ai2d,
        "ocrbench_v2": ocrbench_v2,
        "page": partial(page, payloads),
        "fields": fields,
    }


def figures(cases, payloads, finer):
    """What the published code makes of all answers of some measures together."""
    pages, pope, mmstar, judge = utils("omnidocbench"), utils("pope"), utils("mmstar"), receipt_judge()
    found = [pope.pope_process_results(c["row"], [a])["pope_f1_score"] for c in cases["equal"] for a in c["answers"]]
    receipts = [(json.loads(a), json.loads(c["row"]["ground_truth"])) for c in cases["fields"] for a in c["answers"]]
    letters = [mmstar.mmstar_process_results(row, [finer["answer"]])["average"] for row in finer["rows"]]
    return {
        "page": {
            "score": pages._aggregate_overall(payloads) / 100,
            "text": 1 - pages._aggregate_text_edit(payloads),
            "table": pages._aggregate_table_teds(payloads),
            "formula": 1 - pages._aggregate_formula_edit(payloads),
            "languages": [payload["lang"] for payload in payloads],
        },
        "fields": judge.cal_f1([said for said, _ in receipts], [truth["gt_parse"] for _, truth in receipts]),
        "equal": {
            "score": pope.pope_aggregate_accuracy(found),
            "precision": pope.pope_aggregate_precision(found),
            "recall": pope.pope_aggregate_recall(found),
            "F1": pope.pope_aggregate_f1_score(found),
        },
        "letter": {**finer, "score": mmstar.mmstar_aggregate_results(letters)},
    }


def settings(file):
    """A task's YAML file; what its tags name is left aside."""
    loader = type("Loader", (yaml.SafeLoader,), {})
    loader.add_multi_constructor("!", lambda loader, tag, node: None)
    return yaml.load(place(f"lmms_eval/tasks/{file}").read_text(), loader)


def asked(name, row):
    """How the published code asks a row: its words, the longest answer (None: no limit), and the data set."""
    task = next(f for f in TASKS if f.split("/")[0] == name)
    found = settings(task)
    words, named = getattr(utils(name), f"{name}_doc_to_text"), found.get("lmms_eval_specific_kwargs")
    prompt = words(row) if named is None else words(row, named["default"])
    whole = settings(f"{name}/{name}.yaml") if "dataset_path" not in found else found
    longest = found.get("generation_kwargs", {}).get("max_new_tokens")
    return {"row": row, "prompt": prompt, "max_tokens": longest, "repo": whole["dataset_path"]}


def main():
    """Compute and write."""
    golden, payloads = json.loads(GOLDEN.read_text()), []
    score = scorers(payloads)
    for name, cases in golden["cases"].items():
        for case in cases:
            # The published code changes the rows that it is given.
            found = [score[name](json.loads(json.dumps(case["row"])), answer) for answer in case["answers"]]
            case["scores"] = [None if each is None else float(each) for each in found]
    finer = {key: golden["whole"]["letter"][key] for key in ("rows", "answer")}
    golden["whole"] = figures(golden["cases"], payloads, finer)
    golden["asked"] = {name: asked(name, each["row"]) for name, each in golden["asked"].items()}
    GOLDEN.write_text(json.dumps(golden, ensure_ascii=False, indent=0) + "\n")


if __name__ == "__main__":
    main()

"""A tiny checkpoint of every family writes answers under random schemas: every one of them follows its schema.

The weights are random, so what is written is garbage of the right form; much of it is cut by the limit. A few schemas a
family are tried here; SCHEMAS=500 tries as many in all.
"""

from __future__ import annotations

import datetime
import json
import os

import jsonschema
import pytest
from families import CONVERSATIONS, aki, cases, write_checkpoint
from random_schemas import Draw

import rave_mlx
from rave_mlx.documents.extraction.schema import ExtractionSchema
from rave_mlx.generation.job import Job
from rave_mlx.generation.sampling import Sampling
from rave_mlx.generation.scheduler import Scheduler

FAMILIES = [*sorted({case.config["model_type"]: name for name, case in reversed(cases().items())}.values()), "aki"]
EACH = -(-int(os.environ.get("SCHEMAS", "45")) // len(FAMILIES))
FORMATS = jsonschema.FormatChecker(["date", "email", "uuid", "ipv4"])
for form, kind in (("time", datetime.time), ("date-time", datetime.datetime)):
    FORMATS.checks(form, ValueError)(lambda value, kind=kind: not isinstance(value, str) or kind.fromisoformat(value))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_answer_follows_its_schema(name, tmp_path):
    case = aki.CASE if name == "aki" else cases()[name]
    folder = aki.write_released(tmp_path / name) if name == "aki" else write_checkpoint(case, tmp_path / name)
    lmm = rave_mlx.load(folder)
    prompt = lmm.prepare(CONVERSATIONS[case.conversations[-1]])
    pairs = [Draw(1000 * FAMILIES.index(name) + i).document() for i in range(EACH)]
    schemas = [ExtractionSchema.of(schema) for schema, _ in pairs]
    jobs = (
        Job(prompt, max_tokens=(60, 120, 30, 160)[i % 4], sampling=Sampling(temperature=i % 2, seed=i),
            constraint=schema.constraint(lmm), key=i)
        for i, schema in enumerate(schemas)
    )  # fmt: skip
    endings = []
    for i, answer in enumerate(Scheduler(lmm).run(jobs)):
        assert answer.error is None, (answer.error, pairs[i][0])
        result = schemas[i].complete(answer.text)
        value = json.loads(result.text)
        jsonschema.Draft202012Validator(pairs[i][1], format_checker=FORMATS).validate(value)
        assert schemas[i].problems(value) == []
        assert result.whole == (answer.ending == "stop")
        leaves = schemas[i].leaves(answer, lmm)
        assert [(leaf.path, leaf.value) for leaf in leaves] == [(leaf.path, leaf.value) for leaf in result.leaves]
        for leaf in leaves:
            assert (leaf.span is None) == (leaf.tokens is None)
            assert leaf.tokens is None or 0 <= leaf.tokens[0] < leaf.tokens[1] <= len(answer.ids)
            assert 0 <= leaf.certainty <= 1
        endings.append(answer.ending)
    assert len(endings) == EACH
    print(name, {ending: endings.count(ending) for ending in set(endings)})

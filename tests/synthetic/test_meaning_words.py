"""Roles, labels, phrasings and values: how many there are, and that what is held out stays out."""

from __future__ import annotations

from random import Random

import pytest

from rave_mlx.synthetic import meaning
from rave_mlx.synthetic.meaning import LAYOUTS, ROLES, MeaningConfig, entries, talk, vocabulary, yesno
from rave_mlx.synthetic.meaning.asking import FRAMES, KEYS, spelled
from rave_mlx.synthetic.meaning.phrase import expand, is_held, side
from rave_mlx.synthetic.meaning.proportions import KINDS, QUESTIONS, SHARES, STYLES
from rave_mlx.synthetic.meaning.spoken import slip, typed
from rave_mlx.synthetic.values import KINDS as VALUE_KINDS


def test_there_are_many_roles_labels_and_ways_to_ask():
    assert len(ROLES) >= 150
    assert sum(role.held for role in ROLES.values()) >= 12
    assert sum(len(role.labels) for role in ROLES.values()) > 900
    assert sum(len(role.asks) for role in ROLES.values()) > 1500
    compositions = sum(
        len(role.asks) + len(role.nouns) * len(FRAMES) + len(role.keys) * len(KEYS) for role in ROLES.values()
    )
    assert compositions > 25_000
    for role in ROLES.values():
        assert role.labels and role.nouns and role.asks and role.keys, role.name


def test_every_kind_of_value_can_be_drawn():
    rng = Random(1)
    for role in ROLES.values():
        if role.kind in ("birthday", "heading"):
            continue
        assert role.kind in vocabulary.KINDS or role.kind in VALUE_KINDS or role.kind in ("date", "time", "amount"), (
            role
        )
    for kind in sorted(vocabulary.KINDS):
        for _ in range(20):
            value = vocabulary.make(rng, kind)
            assert value.strip() == value or kind == "ssid"
            assert not set("#<>~") & set(value), (kind, value)


def test_no_question_means_two_roles_of_one_group():
    """A whole question may belong to several roles; then their pages must tell them apart by the group."""
    owners: dict[str, set[str]] = {}
    for role in ROLES.values():
        for ask in role.asks:
            owners.setdefault(ask.lower(), set()).add(role.name)
    for ask, names in owners.items():
        assert len(names) <= 3, (ask, names)


@pytest.mark.parametrize("sentences", [FRAMES, KEYS, talk.WHAT, talk.LIST, talk.WHOLE, talk.SUMMARY, yesno.ON])
def test_both_sides_of_the_split_have_phrasings(sentences):
    known, held = side(sentences, False), side(sentences, True)
    assert known and held
    assert not set(known) & set(held)
    assert len(held) < len(known)


def test_training_never_meets_what_is_held_out():
    patterns, roles, layouts = set(), set(), set()
    for seed in range(60):
        page = meaning.make(seed)
        layouts.add(page.layout)
        roles |= {q.role for q in page.questions if q.kind in ("value", "absent")}
        patterns |= {q.pattern for q in page.questions if q.pattern not in ("nonsense", "{}", "key:{}")}
    assert not any(is_held(p.removeprefix("key:")) for p in patterns)
    assert not any(ROLES[r].held for r in roles if r in ROLES)
    assert not any(LAYOUTS[name].held for name in layouts)


def test_the_held_out_side_asks_what_training_never_does():
    held_roles, seen = set(), 0
    for seed in range(40):
        page = meaning.make(seed, meaning.held_out())
        assert LAYOUTS[page.layout].held
        for q in page.questions:
            if q.kind in ("value", "entry", "absent", "about", "list", "whole") and q.pattern:
                assert is_held(q.pattern.removeprefix("key:")), q
                seen += 1
            held_roles |= {q.role} & {name for name, role in ROLES.items() if role.held}
    assert seen > 100 and held_roles
    forms = [meaning.make(s, MeaningConfig(held_roles=True, layout="boxes")) for s in range(10)]
    assert any(ROLES[q.role].held for page in forms for q in page.questions if q.kind == "value" and q.role in ROLES)


def test_proportions_are_those_that_are_written_down():
    assert set(SHARES) == set(KINDS)
    counts = dict.fromkeys(KINDS, 0)
    styles = dict.fromkeys(STYLES, 0)
    for seed in range(70):
        page = meaning.make(seed)
        assert len(page.questions) <= QUESTIONS
        for q in page.questions:
            counts[q.kind] += 1
            if q.style:
                styles[q.style] += 1
    assert all(counts.values()), counts
    total = sum(counts.values())
    assert 0.1 < counts["absent"] / total < 0.25
    assert counts["value"] > counts["entry"] > counts["greeting"] > 0
    assert 0.1 < styles["schema"] / sum(styles.values()) < 0.3


def test_patterns_expand_to_every_combination():
    assert expand("how much [do I owe|is it][| in total]") == (
        "how much do I owe", "how much do I owe in total", "how much is it", "how much is it in total",
    )  # fmt: skip
    assert all("[" not in s and "|" not in s for role in ROLES.values() for s in role.asks)
    assert all(
        "[" not in s for table in (entries.PATTERNS, entries.WHICH, entries.EXTREME) for v in table.values() for s in v
    )


def test_typing_keeps_what_is_copied_from_the_page():
    rng = Random(3)
    for _ in range(200):
        assert "INV-0042 Ab" in typed(rng, "what is INV-0042 Ab for", "INV-0042 Ab")
    slips = {slip(rng, "how much do I owe") for _ in range(50)}
    assert all(s != "how much do I owe" or len(s) == 17 for s in slips) and len(slips) > 5


def test_keys_are_spelled_as_programs_do():
    rng = Random(4)
    found = {spelled(rng, "invoice_number") for _ in range(200)}
    assert {"invoice_number", "invoiceNumber", "Invoice Number", "InvoiceNumber", "INVOICE_NUMBER"} <= found


def test_plurals_read_as_people_say_them():
    from rave_mlx.synthetic.meaning.goods import Good

    assert Good("Potting soil", "POTTING SOIL", "bag").plural == "bags of potting soil"
    assert Good("Brush", "BRUSH", "").plural == "brushes"
    assert Good("Brown bread", "x", "loaf").plural == "loaves of brown bread"

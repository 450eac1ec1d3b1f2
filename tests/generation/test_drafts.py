"""Drafts: how far an answer is guessed from the page's text and from what stood there before, and that guesses do not
change it."""

from __future__ import annotations

import json
from collections.abc import Sequence

import mlx.core as mx
import numpy as np
import pytest
from tokenizers import Tokenizer as Core
from tokenizers import decoders, models, pre_tokenizers, trainers

import rave_mlx
from rave_mlx.generation.decode import decode
from rave_mlx.generation.drafts import DraftChain, LookupDrafts, TextDrafts
from rave_mlx.generation.page_alignment import Follower, PageIndex
from rave_mlx.generation.prefill import prefill
from rave_mlx.generation.sampling import Sampling
from rave_mlx.inputs.images.pdf_text import PageText
from rave_mlx.inputs.prompt.tokenizer import Tokenizer
from rave_mlx.synthetic import make

PAGE = (
    "Delivery note\n\n"
    "Order no: K204417\nCustomer: Ingrid Halvorsen\n\n"
    "The goods below were packed on the fourteenth of May and left our ware-\nhouse on the next morning. They travel "
    "in two\nparcels, which need not arrive together.\n\n"
    "Item\tPieces\tPrice\nSteel bolt M8\t1,200\t48.00\nWasher, brass\t40\t3.20\nHinge \"left\"\t12\t31.75\n\n"
    "Kind regards\nTobias Ferreira"
)  # fmt: skip
MARKDOWN = (
    "## Delivery note\n\n"
    "**Order no:** K204417  \n**Customer:** Ingrid Halvorsen\n\n"
    "The goods below were packed on the fourteenth of May and left our warehouse on the next morning. They travel "
    "in two parcels, which need not arrive together.\n\n"
    "| Item | Pieces | Price |\n| --- | --- | --- |\n| Steel bolt M8 | 1,200 | 48.00 |\n| Washer, brass | 40 | 3.20 |\n"
    '| Hinge "left" | 12 | 31.75 |\n\nKind regards  \nTobias Ferreira\n'
)  # fmt: skip
HTML = MARKDOWN[: MARKDOWN.index("| Item")] + (
    "<table>\n<tr><th>Item</th><th>Pieces</th><th>Price</th></tr>\n"
    "<tr><td>Steel bolt M8</td><td>1,200</td><td>48.00</td></tr>\n"
    "<tr><td>Washer, brass</td><td>40</td><td>3.20</td></tr>\n</table>\n"
)
ESCAPED = json.dumps({"text": PAGE.replace("ware-\nhouse", "warehouse").replace("\t", " ")}, ensure_ascii=False)


@pytest.fixture(scope="module")
def pieces(tmp_path_factory) -> Tokenizer:
    """Byte-level BPE like that of Qwen or GPT-2, learnt from texts like the page."""
    core = Core(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    core.train_from_iterator([PAGE, MARKDOWN, HTML, "the and of for with that this from " * 4], trainer)
    return saved(core, tmp_path_factory.mktemp("bpe"))


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> Tokenizer:
    """A vocabulary in the manner of SentencePiece, as Llama 2's: a word has its space before it."""
    core = Core(models.BPE(byte_fallback=True, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    core.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=["<unk>"], show_progress=False)
    core.train_from_iterator([PAGE, MARKDOWN, HTML, ESCAPED], trainer)
    return saved(core, tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def lmm():
    return rave_mlx.load()


def saved(core: Core, folder) -> Tokenizer:
    core.save(str(folder / "tokenizer.json"))
    return Tokenizer(folder / "tokenizer.json")


def write(ids: Sequence[int], source, most: int = 16) -> tuple[int, int, int]:
    """Steps of a model that writes `ids`, tokens that were guessed, and those of them that were right."""
    done = steps = drafted = accepted = 0
    while done < len(ids):
        guess = source.draft(list(ids[:done]), most)
        assert len(guess) <= most
        right = 0
        while right < len(guess) and done + right < len(ids) and guess[right] == ids[done + right]:
            right += 1
        steps, drafted, accepted, done = steps + 1, drafted + len(guess), accepted + right, done + right + 1
    return steps, drafted, accepted


@pytest.mark.parametrize("answer", [MARKDOWN, HTML, ESCAPED, PAGE], ids=["markdown", "html", "json", "plain"])
@pytest.mark.parametrize("kind", ["bytes", "pieces", "words"])
def test_a_transcription_needs_about_half_the_steps_or_less(kind, answer, lmm, request):
    tokenizer = lmm.tokenizer if kind == "bytes" else request.getfixturevalue(kind)
    ids, _ = tokenizer.encode(answer)
    steps, drafted, accepted = write(ids, TextDrafts(tokenizer, PAGE))
    assert steps < len(ids) / 1.9, (steps, len(ids))
    assert 0 <= steps - (len(ids) - accepted) <= 1
    assert accepted > drafted / 5


def test_plain_text_is_guessed_almost_whole(pieces):
    ids, _ = pieces.encode(PAGE)
    steps, drafted, accepted = write(ids, TextDrafts(pieces, PAGE), most=32)
    assert steps < len(ids) / 7
    assert accepted > drafted / 2


def test_an_answer_that_is_not_on_the_page_is_hardly_slowed(pieces):
    ids, _ = pieces.encode(
        "Nothing of this stands there: zebras, quartz, xylophones, 8675309, vivid jumping fjords. " * 3
    )
    steps, drafted, accepted = write(ids, TextDrafts(pieces, PAGE))
    assert drafted < len(ids)
    assert 0 <= steps - (len(ids) - accepted) <= 1


def test_guesses_go_on_in_the_middle_of_a_word_and_of_a_token(pieces):
    """Tokens of an answer that the tokenizer would have cut elsewhere."""
    source = TextDrafts(pieces, PAGE)
    ids = [*pieces.encode("The goods below were pac")[0], *pieces.encode("k")[0]]
    guess = source.draft(ids, 8)
    assert pieces.decode(guess).startswith("ed on the")
    whole, _ = pieces.encode("The goods below were")
    following = pieces.encode("The goods below were packed on the fourteenth")[0][len(whole) :]
    assert TextDrafts(pieces, PAGE).draft(whole, 4) == following[:4]


def test_of_several_places_the_longest_match_counts_and_then_the_next():
    page = PageIndex.of("alpha total 1\nbeta total 2\ngamma total 3\nbeta total 4")
    follower = Follower(page)
    follower.add("gamma total")
    follower.relocate()
    assert page.text[page.at[follower.place]] == "3"
    again = Follower(page)
    for part in ("beta total", " 2 and total"):
        again.add(part)
        again.relocate()
    assert page.text[page.at[again.place]] == "3"


def test_hyphens_escapes_and_marks_do_not_lose_the_place():
    page = PageIndex.of('The ware-\nhouse "left" \\ a/b\tco-op\nﬁling')
    for written in (
        'The warehouse "left" \\ a/b | co-op\n\nfiling',
        json.dumps('The warehouse "left" \\ a/b co-op\nﬁling'),
    ):
        follower = Follower(page)
        follower.add('["' + written[1:] if written[0] == '"' else written)
        assert follower.place == len(page.letters), written
        assert follower.run == len(page.letters)


def test_what_parts_lines_is_learnt():
    page = PageIndex.of("one one one\ntwo two two\nthree three\nfour four four\n")
    follower = Follower(page)
    follower.add("one one one  \n> two two two  \n> three three")
    assert follower.upto(follower.place) == "  \n> "
    follower.add("  ")
    assert follower.upto(follower.place) == "\n> "


def test_json_quotes_are_escaped_in_guesses(pieces):
    answer = ESCAPED[: ESCAPED.index("Hinge") + 5]
    source = TextDrafts(pieces, PAGE)
    ids, _ = pieces.encode(answer)
    for end in range(1, len(ids) + 1):
        guess = source.draft(ids[:end], 12)
    assert pieces.decode(guess).startswith(' \\"left')


def test_a_part_of_a_page_is_guessed_from_its_first_letter_to_the_stop_token(pieces):
    """A line that is read by itself: the text layer knows what stands there."""
    places = np.full((len(PAGE), 4), np.nan)
    rows = np.cumsum([c == "\n" for c in PAGE])
    for i, c in enumerate(PAGE):
        if not c.isspace():
            places[i] = [0.1, rows[i] / 40, 0.2, rows[i] / 40 + 0.02]
    layer = PageText(PAGE, places, np.zeros(len(PAGE), bool))
    number = PAGE[: PAGE.index("parcels")].count("\n")
    line = PAGE.split("\n")[number]
    part = (0.0, number / 40 - 0.005, 1.0, number / 40 + 0.025)
    ids = [*pieces.encode(line)[0], 7]
    steps, drafted, accepted = write(ids, TextDrafts(pieces, layer, part=part, stop=7), most=16)
    assert accepted == drafted
    assert steps <= 1 + len(ids) // 16
    index = PageIndex.of(layer)
    elsewhere = TextDrafts(pieces, index, part=(0.9, 0.9, 1.0, 1.0), stop=7)
    assert write(pieces.encode(MARKDOWN)[0], elsewhere)[0] < 100


def guess_after(tokenizer: Tokenizer, page: str, answer: str) -> str:
    """What is guessed after an answer that came token by token."""
    source, ids = TextDrafts(tokenizer, page), tokenizer.encode(answer)[0]
    guesses = [source.draft(ids[:end], 16) for end in range(1, len(ids) + 1)]
    return tokenizer.decode(guesses[-1])


def test_values_of_json_are_guessed_from_beside_their_labels(pieces):
    """As with a schema, whose names of fields are often the words of the page."""
    begun = '{"customer": "Ingrid Halvorsen", "order_no": "'
    assert "K204417".startswith(guess_after(pieces, PAGE, begun)[:2])
    assert guess_after(pieces, PAGE, begun + "K2") == '04417"'
    assert guess_after(pieces, PAGE, '{"text": "no place", "customer": "').startswith("Ing")


def test_values_of_rows_are_guessed_from_behind_the_value_before(pieces):
    """The name of a column stands at its head, the value below."""
    first = '{"rows": [{"item": "Steel bolt M8", "pieces": "1,200", "price": "48.00"}, '
    rows = first + '{"item": "Washer, brass", "pieces": "'
    assert guess_after(pieces, PAGE, rows).startswith("40")
    assert guess_after(pieces, PAGE, rows + '40", "price": "').startswith("3.")


def test_an_answer_that_starts_again_is_followed_again(pieces):
    source = TextDrafts(pieces, PAGE)
    ids, _ = pieces.encode(MARKDOWN)
    first = write(ids, source)
    assert write(ids, source) == first


def test_what_stood_in_the_prompt_or_the_answer_is_guessed(lmm):
    prompt = lmm.prepare([{"role": "user", "content": "Repeat: the quick brown fox jumps over the dog"}])
    source = LookupDrafts(prompt)
    ids, _ = lmm.tokenizer.encode("the quick br", first=False)
    assert lmm.tokenizer.decode(source.draft(ids, 8)).startswith("own fox")
    rows = "".join(f'{{"name": "x{i}", "value": null}}, ' for i in range(12))
    ids, _ = lmm.tokenizer.encode(rows, first=False)
    steps, _, _ = write(ids, LookupDrafts(prompt), most=32)
    assert steps < len(ids) / 3
    assert LookupDrafts().draft([1, 2, 3], 4) == []


def test_images_are_not_looked_up(lmm):
    image = make(3).image
    prompt = lmm.prepare(
        [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "?"}]}]
    )
    placeholder = int(prompt.ids[0][prompt.token_map.visual][0])
    assert LookupDrafts(prompt).draft([placeholder, placeholder], 8) == []


def test_a_chain_asks_one_after_the_other(pieces):
    ids, _ = pieces.encode("The goods below were")
    other = LookupDrafts()
    chain = DraftChain(TextDrafts(pieces, PAGE), other)
    assert chain.draft(ids, 3) == TextDrafts(pieces, PAGE).draft(ids, 3) != []
    twice = [*pieces.encode("zz qq xx zz qq")[0]]
    assert DraftChain(TextDrafts(pieces, "nothing"), other).draft(twice, 3) == LookupDrafts().draft(twice, 3)


def verified(lmm, prompt, source, most_tokens: int) -> tuple[list[int], int]:
    """A greedy answer with drafts, one answer at a time, and its decoder passes: the plainest exact verifier."""
    cache = lmm.make_cache()
    logits = prefill(lmm, prompt, cache)
    ids = [int(mx.argmax(logits, axis=-1).item())]
    passes, stop = 1, lmm.config.tokens.stop
    while ids[-1] not in stop and len(ids) < most_tokens:
        guess = source.draft(ids, most_tokens - len(ids))
        inputs = [ids[-1], *guess]
        start = prompt.token_map.next_position + len(ids) - 1
        positions = np.tile(start + np.arange(len(inputs), dtype=np.int32), (1, 3, 1))
        before = cache.length
        hidden = lmm.decoder.hidden(
            lmm.decoder.embed_ids(mx.array([inputs])),
            mx.array(positions),
            None,
            cache=cache,
            gate_span=cache.visual_span if cache.gated else None,
            longest=start + len(inputs),
        )
        best = mx.argmax(lmm.decoder.logits(hidden)[0], axis=-1).tolist()
        passes += 1
        for place, token in enumerate(best):
            ids.append(token)
            if place >= len(guess) or guess[place] != token or token in stop or len(ids) == most_tokens:
                break
        cache.trim(before + place + 1)
    return ids, passes


@pytest.mark.parametrize("right", [True, False])
def test_the_built_in_model_writes_the_same_with_and_without(lmm, right):
    """With the page's own text as draft, and with that of another page."""
    page = make(14)
    question = {"type": "text", "text": "Read the whole text."}
    prompt = lmm.prepare([{"role": "user", "content": [{"type": "image", "image": page.image}, question]}])
    cache = lmm.make_cache()
    plain = list(decode(lmm, prompt, cache, prefill(lmm, prompt, cache), Sampling(), max_tokens=72))
    text = "\n".join((page if right else make(12)).lines)
    ids, passes = verified(lmm, prompt, DraftChain(TextDrafts(lmm.tokenizer, text), LookupDrafts(prompt)), 72)
    assert ids == plain
    assert len(plain) > 20
    if right:
        assert passes < len(plain) / 2

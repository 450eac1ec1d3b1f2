"""A job gives the answer that a session gives to the same messages, under every kind of policy."""

from __future__ import annotations

import pytest
from generation.writing import ids_of
from support import ask, form, picture, tiny_model

import rave_mlx
from rave_mlx.chat.jobs import make_job
from rave_mlx.chat.session import Session
from rave_mlx.config import GateConfig
from rave_mlx.errors import ImageError, PromptError, UsageError
from rave_mlx.generation.sampling import Sampling
from rave_mlx.generation.scheduler import Scheduler
from rave_mlx.models.lmm import LMM

LINES = ["Order No: A-1729", "Date: 2024-05-17", "Total: $48.20", "Vendor: Hill & Sons"]
QUESTIONS = ["What is the Order No?", "What is the Date?", "What is the Total?", "Who is the Vendor?"]


@pytest.fixture(scope="module")
def tiny():
    return tiny_model(GateConfig(rank=4, kv_groups=0.5))


@pytest.fixture(scope="module")
def built_in():
    return rave_mlx.load()


def by_session(lmm, messages, **options):
    session = Session(lmm, **options)
    ids = [piece.token for piece in session.answer(messages)]
    return ids, session.stats.certainty


def by_jobs(lmm, conversations, rows=4, **options):
    scheduler = Scheduler(lmm, rows=rows)
    shared = {"features": scheduler.features, "prefixes": scheduler.prefixes}
    jobs = (make_job(lmm, messages, ends_loops=False, **shared, **options) for messages in conversations)
    return list(scheduler.run(jobs))


def same_answers(lmm, conversations, **options):
    expected = [by_session(lmm, messages, **options) for messages in conversations]
    answers = by_jobs(lmm, conversations, **options)
    assert ids_of(answers) == [ids for ids, _ in expected]
    assert [a.certainty for a in answers] == pytest.approx([c for _, c in expected], rel=1e-4)
    return answers


def test_the_built_in_models_own_attention(built_in):
    """Small pages, a page too large to be read whole, and one with doubtful letters: panes and views are at work."""
    small, large, doubtful = form(LINES), form(LINES[:2], (1100, 700), 22), form(["Code: l1I|0O"], (180, 60), 9)
    asked = [(small, QUESTIONS[0]), (small, QUESTIONS[1]), (large, QUESTIONS[1]), (doubtful, "What is the Code?")]
    conversations = [[ask(question, page)] for page, question in asked]
    answers = same_answers(built_in, conversations, max_tokens=24)
    assert [a.text for a in answers[:2]] == ["A-1729", "2024-05-17"]


def test_earlier_turns_are_left_out_where_the_model_knows_the_last_only(built_in):
    page = form(LINES)
    messages = [ask(QUESTIONS[0], page), {"role": "assistant", "content": "A-1729"}, ask(QUESTIONS[1])]
    assert same_answers(built_in, [messages])[0].text == "2024-05-17"


@pytest.mark.parametrize("policy", ["none", "rave", "rave+vhr", "none+guidance", "rave+views:sure=2,scales=0.5/1.5"])
def test_policies(tiny, policy):
    conversations = [
        [ask("Read.", picture(96, 64, 1))],
        [ask("And this?", picture(48, 80, 2))],
        [ask("Read.", picture(96, 64, 1)), {"role": "assistant", "content": "One."}, ask("Next?")],
    ]
    same_answers(tiny, conversations, policy=policy, max_tokens=8)


def test_other_readings_of_a_page_are_shared_between_questions(tiny, monkeypatch):
    """views reads a page at two other sizes: once for six questions, and the answers stay."""
    read, real = [], LMM.read

    def counted(self, prompt, cache, stop, *rest, **options):
        read.append(int(prompt.token_map.visual[cache.length : stop].sum()))
        return real(self, prompt, cache, stop, *rest, **options)

    monkeypatch.setattr(LMM, "read", counted)
    page = picture(96, 64, 1)
    conversations = [[ask(f"Question {n}?", page)] for n in range(6)]
    same_answers(tiny, conversations, policy="rave+views:sure=2,scales=0.5/1.5", max_tokens=5)
    read.clear()
    by_jobs(tiny, conversations, policy="rave+views:sure=2,scales=0.5/1.5", max_tokens=5)
    visual = tiny.prepare(conversations[0]).visual_tokens
    assert sum(count >= visual for count in read) == 2  # the page and the larger one
    assert sum(read) < 4 * visual


def test_sampled_answers(tiny):
    conversations = [[ask(f"Question {n}?", picture(48, 48, n))] for n in range(3)]
    sampling = Sampling(temperature=1.5, top_p=0.9, min_p=0.01, top_k=40, repetition_penalty=1.3, seed=4)
    same_answers(tiny, conversations, sampling=sampling, max_tokens=8)


def test_an_answer_that_has_begun_goes_on(tiny):
    messages = [ask("Read.", picture(48, 48, 1)), {"role": "assistant", "content": "It says"}]
    session = Session(tiny, max_tokens=6)
    text = "".join(piece.text for piece in session.answer(messages))
    assert by_jobs(tiny, [messages], max_tokens=6)[0].text == text


def test_the_context_limits_the_answer(tiny):
    job = make_job(tiny, [{"role": "user", "content": "x " * 2030}], max_tokens=1000)
    assert len(job.prompt) + job.max_tokens == 4096


def test_messages_may_have_been_read_before(tiny):
    from rave_mlx.inputs.prompt.parse_messages import read_messages

    messages = [ask("Read.", picture(48, 48, 1))]
    read = read_messages(messages, tiny.config.image)
    job, again = make_job(tiny, read, key="a"), make_job(tiny, messages)
    assert job.key == "a"
    assert (job.prompt.ids == again.prompt.ids).all()


def test_errors_come_when_the_job_is_made(tiny):
    with pytest.raises(UsageError, match="at least 1"):
        make_job(tiny, [ask("Hi.")], max_tokens=0)
    with pytest.raises(UsageError, match="no policy is called"):
        make_job(tiny, [ask("Hi.")], policy="wonder")
    with pytest.raises(PromptError, match="no messages"):
        make_job(tiny, [])
    with pytest.raises(PromptError, match="context is 4096"):
        make_job(tiny, [ask("x " * 5000)])
    with pytest.raises(ImageError):
        make_job(tiny, [ask("Hi.", b"no image")])


def test_generate_takes_several_conversations(tiny):
    conversations = [[ask(f"Question {n}?", picture(48, 48, n))] for n in range(5)]
    options = {"max_tokens": 9, "temperature": 1.2, "seed": 3}
    answers = rave_mlx.generate(tiny, conversations, **options)
    assert answers == [rave_mlx.generate(tiny, messages, **options) for messages in conversations]
    assert rave_mlx.generate(tiny, conversations[:1], max_tokens=3) == [
        rave_mlx.generate(tiny, conversations[0], max_tokens=3)
    ]


def test_generate_says_which_conversation_cannot_be_read(tiny):
    with pytest.raises(ImageError, match="conversation 2: "):
        rave_mlx.generate(tiny, [[ask("Hi.")], [ask("Hi.", b"no image")], [ask("Hi.")]], max_tokens=2)
    with pytest.raises(UsageError, match="do you mean max_tokens"):
        rave_mlx.generate(tiny, [[ask("Hi.")]], max_token=2)
    with pytest.raises(PromptError, match="no messages"):
        rave_mlx.generate(tiny, [])

"""What is said to a page that asks for no value of it: greetings, senseless letters, what it is, all of it at once."""

from __future__ import annotations

from random import Random

from rave_mlx.synthetic.meaning.phrase import expand

GREETED = "Hello. Ask me for something on the page: a total, a date, a name."
"""The answer to a greeting."""
UNCLEAR = "I did not understand. Ask me for something on the page: a total, a date, a name."
"""The answer to what makes no sense, or has nothing to do with the page."""


def _all(*patterns: str) -> tuple[str, ...]:
    return tuple(s for pattern in patterns for s in expand(pattern))


GREETINGS = _all(
    "[hi|hello|hey|good morning|good evening|good afternoon|hi there|hello there|greetings|hey there|howdy]",
    "[hi|hello|hey], [how are you|who are you|can you help me|are you there|nice to meet you|what can you do]",
    "[who are you|how are you|what can you do|what can I ask|help|can you help me|what are you|thanks|thank "
    "you|thank you very much]",
)
OFF_TOPIC = _all(
    "[who won|who wins] [the world cup|the election|the match|the race] [|in 2010|last year]",
    "tell me [a joke|a story|something funny|a secret|about yourself|something]",
    "[write|sing|make] [a poem|me a song|an essay|some code|a cake]",
    "what is the [meaning of life|weather today|weather like|capital of France|square root of 9|distance to the moon]",
    "[how do I|how can I] [cook rice|fix a bike|learn French|get rich|lose weight|tie a tie]",
    "[do you|can you] [love me|like music|dream|fly|swim|play chess|speak Dutch]",
    "[is there life on Mars|why is the sky blue|what should I eat|who is the president|sing a song|turn on the light]",
    "[translate|say] [dog|hello|goodbye] [into|in] [Greek|Latin|Spanish]", "[play|stop|open] [music|the door|a game]",
    "what is [two plus two|7 times 8|love|truth|art]", "[book|order] [a table|a taxi|pizza|a flight] [for me|]",
)  # fmt: skip
WHAT = _all(
    "what is [this|it|that|this document|this page|on the picture|in the picture|shown here]",
    "what [kind|sort|type] of [document|page|paper|thing] is [this|it]",
    "what [am I|are we] looking at",
    "what do [you|we] [see|have] [here|]",
    "describe [this|it|the page|the document|the image]",
    "what's this",
    "[which|what] document is [this|it]",
    "what does this show",
    "tell me what this is",
)
SUMMARY = _all(
    "[summarize|summarise|sum up] [it|this|the page|the document|this for me|]", "[give me|write] a [short|] summary",
    "summary", "what is [it about in short|the gist]", "in short, what does it say", "tl;dr", "[main points|key facts]",
    "what are the [main points|key facts|most important facts]",
)  # fmt: skip
LIST = _all(
    "list [the|all|all the] [items|articles|things|positions] [with prices|with their prices|and prices|and what "
    "they cost]",
    "[what was bought|what did I buy|which things are listed] and for how much",
    "[show|give me|read out] [all|the] [items|articles] [with prices|and prices]",
    "all items with prices",
    "items and prices",
    "what [items|things] are [there|on it] and what do they cost",
    "list everything [that was bought|with prices]",
)
WHOLE = _all(
    "[read|transcribe|type out|copy|read out] [everything|all of it|the whole page|all the text|the text|it all|all "
    "text]",
    "what does it say",
    "what is written [here|on it|on the page|there]",
    "[transcribe|ocr|read|transcription|full text]",
    "[give me|show me] the [whole|full|complete] text",
    "[can you|please] read [it|this|everything] [to me|for me|]",
)


def nonsense(rng: Random) -> str:
    """Letters that ask for nothing."""
    form = rng.randrange(5)
    if form == 0:
        return "".join(rng.choices("asdfghjklqwertzuiop", k=rng.randint(3, 9)))
    if form == 1:
        return " ".join(
            "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 6))) for _ in range(rng.randint(2, 3))
        )
    if form == 2:
        return rng.choice(
            (
                "?",
                "??",
                "...",
                "!!!",
                "??!",
                ".",
                "-",
                "?!?!",
                ":)",
                "ok",
                "hm",
                "hmm",
                "yes",
                "no",
                "and",
                "why",
                "so?",
                "test",
            )
        )
    if form == 3:
        return rng.choice("aeioukxz") * rng.randint(2, 7)
    words = ["the", "of", "green", "run", "because", "seven", "under", "very", "cloud", "if", "sleeps", "blue", "ever"]
    return " ".join(rng.sample(words, rng.randint(3, 5)))

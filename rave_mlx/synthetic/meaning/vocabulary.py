"""Names that documents carry: businesses, people, streets, towns, events."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from rave_mlx.synthetic import words
from rave_mlx.synthetic.meaning.kinds import KINDS as _PLAIN
from rave_mlx.synthetic.meaning.kinds import plain
from rave_mlx.synthetic.values import digits, letters, pseudoword


def _words(text: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(text.split())


_FIRST = _words(
    """
    Blue Old Green Corner Harbour North Red Silver Golden Little Grand Sunny Royal City Village River Lake Hill
    Maple Cedar Willow Copper Stone Bright Daily Fresh Happy Central Park Mill Station Bridge Ocean Amber Ivory
    Crown Market Union Pioneer Summit Valley Garden Urban Metro Prime Nova Alpine Coast Forest Lucky Three Seven
    """
)
_SECOND = _words(
    """
    Oak Bear Anchor Spoon Lantern Kettle Barn Fox Owl Whale Rose Star Moon Table Cup Wheel Basket Door Tower Gate
    Field House Corner Square Point Leaf Pepper Olive Apple Bean Barrel Feather Compass Bell Clover Heron Pine
    """
)
TRADES = {
    "cafe": "Cafe|Coffee|Coffee House|Tea Room|Bakery|Roasters|Espresso Bar",
    "restaurant": "Bistro|Restaurant|Grill|Kitchen|Diner|Trattoria|Tavern|Pizza|Noodle Bar|Steakhouse",
    "grocery": "Market|Foods|Supermarket|Grocery|Fresh Mart|Minimart|Stores|Superstore|Deli|Corner Shop",
    "hardware": "Hardware|DIY|Tools|Building Supplies|Trading|Timber|Paints|Home Centre",
    "garden": "Garden Centre|Nursery|Plants|Seeds & Bulbs|Garden Shop",
    "pharmacy": "Pharmacy|Chemist|Drugstore|Apothecary|Health Store",
    "stationery": "Books|Stationery|Paper Shop|Office Supply|Bookshop|Print Shop",
    "clothing": "Fashion|Outfitters|Shoes|Clothing|Sportswear|Boutique",
    "electronics": "Electronics|Computers|Audio|Phones|Camera Shop",
    "services": "Services|Plumbing|Design|Consulting|Cleaning|Studio|Repairs|Electrical|Gardens|Software|& Partners",
    "bank": "Bank|Savings Bank|Credit Union|Building Society|Bank plc|Trust",
    "utility": "Energy|Power|Water|Telecom|Gas & Light|Mobile|Broadband|Networks",
    "insurance": "Insurance|Mutual|Assurance|Insurance Group",
    "health": "Clinic|Dental Practice|Medical Centre|Hospital|Surgery|Eye Clinic",
    "transport": "Rail|Airlines|Air|Coaches|Ferries|Lines|Railways|Express|Airways",
    "airline": "Airlines|Air|Airways|Jet|Fly",
    "library": "Library|City Library|Museum|University|College|Sports Club|Fitness|Swimming Club",
    "company": "Ltd|Inc.|GmbH|& Sons|Group|Industries|Labs|Holdings|LLC|Sdn Bhd|AG|S.A.|Corp.|Trading Co.",
    "housing": "Homes|Property Services|Housing|Estates|Lettings",
}  # fmt: skip
"""Kinds of business, and how their names end."""


def business(rng: Random, trade: str = "") -> str:
    """The name of a business.

    Args:
        rng: the generator to draw from.
        trade: of `TRADES`; "" for any.
    """
    tail = rng.choice(TRADES[trade or rng.choice(list(TRADES))].split("|"))
    form = rng.random()
    if form < 0.3:
        return f"{rng.choice(_FIRST)} {rng.choice(_SECOND)} {tail}"
    if form < 0.4:
        return f"The {rng.choice(_FIRST)} {rng.choice(_SECOND)}"
    if form < 0.55:
        return f"{rng.choice(words.LAST)}'s {tail}"
    if form < 0.7:
        return f"{rng.choice(words.LAST)} {tail}"
    if form < 0.8:
        return f"{rng.choice(words.LAST)} & {rng.choice(words.LAST)}"
    if form < 0.9:
        return f"{pseudoword(rng, 2).capitalize()}{rng.choice(('', 'ex', 'ia', 'ora', 'us'))} {tail}"
    return f"{rng.choice(words.CITIES)} {tail}"


def person(rng: Random) -> str:
    """A person, in the forms that documents have."""
    first = rng.choice(words.FIRST) if rng.random() < 0.8 else pseudoword(rng, 2).capitalize()
    last = rng.choice(words.LAST) if rng.random() < 0.7 else pseudoword(rng, rng.choice((2, 3))).capitalize()
    form = rng.random()
    if form < 0.62:
        return f"{first} {last}"
    if form < 0.72:
        return f"{first} {letters(rng, 1)}. {last}"
    if form < 0.82:
        return f"{rng.choice(('Mr', 'Mrs', 'Ms', 'Mr.', 'Mrs.', 'Ms.', 'Dr.'))} {first} {last}"
    if form < 0.9:
        return f"{first[0]}. {last}"
    return f"{last}, {first}" if form < 0.95 else f"{first} {last}".upper()


def street(rng: Random) -> str:
    """A street with a number."""
    base = rng.choice((*_FIRST, *_SECOND, *words.LAST[:40])) if rng.random() < 0.7 else pseudoword(rng, 2).capitalize()
    kind = rng.choice(("Street", "St", "Road", "Rd", "Lane", "Avenue", "Ave", "Way", "Drive", "Square", "Row", "Blvd."))
    number = rng.randint(1, rng.choice((60, 300, 9999)))
    if rng.random() < 0.25:
        return f"{base} {kind} {number}"
    return f"{number}{rng.choice(('', '', '', 'A', 'b'))} {base} {kind}"


def town(rng: Random) -> str:
    """A town with its postal code, in one of several orders."""
    name = rng.choice(words.CITIES) if rng.random() < 0.5 else pseudoword(rng, rng.choice((2, 3))).capitalize()
    form = rng.random()
    if form < 0.35:
        return f"{name} {letters(rng, 2)} {digits(rng, 5)}"
    if form < 0.6:
        return f"{digits(rng, rng.choice((4, 5)))} {name}"
    return f"{name} {letters(rng, 2)}{rng.randint(1, 20)} {rng.randint(1, 9)}{letters(rng, 2)}" if form < 0.8 else name


_EVENTS = "Fair|Festival|Concert|Market|Run|Ball|Workshop|Exhibition|Sale|Picnic|Parade|Lecture|Gala|Reading|Games|Tour"
_OCCASIONS = ("Spring", "Summer", "Autumn", "Winter", "Annual", "Open", "Charity", "Jazz")
_HALLS = "Hall|Theatre|Arena|Club|Church|Green|Town Hall|School|Library|Barn|Centre|Park|Room"


def event(rng: Random) -> str:
    """A fair, a concert and the like."""
    return f"{rng.choice((*_FIRST, *words.MONTHS, *_OCCASIONS))} {rng.choice(_EVENTS.split('|'))}"


def artist(rng: Random) -> str:
    """A band."""
    if rng.random() < 0.7:
        return f"The {rng.choice(_FIRST)} {rng.choice(_SECOND)}s"
    return f"{pseudoword(rng, 2).title()} {rng.choice(_SECOND)}"


def venue(rng: Random) -> str:
    """A place where something happens."""
    return f"{rng.choice((*_FIRST, *words.LAST))} {rng.choice(_HALLS.split('|'))}"


def place_line(rng: Random) -> str:
    """A street, mostly with its town."""
    return f"{street(rng)}, {town(rng)}" if rng.random() < 0.6 else street(rng)


_NAMES: dict[str, Callable[[Random], str]] = {
    "business": business,
    "person": person,
    "venue": venue,
    "event": event,
    "artist": artist,
    "place_line": place_line,
    "doctor": lambda rng: f"Dr. {rng.choice(words.FIRST)} {rng.choice(words.LAST)}",
    "bank": lambda rng: business(rng, "bank"),
    "product": lambda rng: f"{pseudoword(rng, 2).capitalize()} {plain(rng, 'model')}",
    "network": lambda rng: pseudoword(rng, 2).capitalize() + plain(rng, "ssid"),
}
KINDS = frozenset(_NAMES) | _PLAIN


def make(rng: Random, kind: str) -> str:
    """A value of one of `KINDS`.

    Args:
        rng: the generator to draw from.
        kind: of the value.
    """
    return _NAMES[kind](rng) if kind in _NAMES else plain(rng, kind)

"""Letters, mails and notices whose facts stand in sentences."""

from __future__ import annotations

import re

from rave_mlx.synthetic.meaning.layouts.parts import address, issuer, reach, some, titled
from rave_mlx.synthetic.meaning.paper import Paper, Part
from rave_mlx.synthetic.meaning.vocabulary import person, street, town
from rave_mlx.synthetic.sheet import Type

# Values in braces, with their roles. A sentence is drawn once.
SENTENCES = {
    "appointment": (
        "housing health",
        "Your appointment is on {event_date} at {starts_at}. | We expect you on {event_date} at {starts_at}. | "
        "We have booked you in for {event_date}, {starts_at}.",
        "Please come to {room_no}. | You will see {doctor}. | It will take about {duration}. | The visit lasts "
        "{duration}. | "
        "Bring a list of your medicines. | If you cannot come, call {phone}. | Missed visits are charged with "
        "{penalty}. | "
        "Our practice is in {address}. | Please quote {reference}. | Ask for {contact} at the desk.",
    ),
    "rent": (
        "housing",
        "From {begins} your rent will be {rent}. | The rent rises to {rent} on {begins}. | We write about your lease.",
        "The deposit remains {deposit}. | Please transfer it to account {account}. | Your reference is {reference}. | "
        "Questions are answered by {contact}. | Please reply by {answer_by}. | The lease runs until {ends}. | "
        "You can reach us on {phone}. | The tenant is {tenant}.",
    ),
    "order": (
        "electronics clothing stationery",
        "Thank you for your order {order_no} of {bought}. | We have received order {order_no}. | Your order "
        "{order_no} is on its way.",
        "It will arrive on {delivered}. | The parcel weighs {weight}. | It is carried by {carrier}. | We charged "
        "{payable} to "
        "your card. | You paid with {card_type}. | The tracking number is {tracking}. | Shipping was {shipping}. | "
        "It is sent to {home}. | You saved {discount}. | The serial number is {serial}. | The guarantee lasts "
        "{warranty}.",
    ),
    "minutes": (
        "library company",
        "The meeting was held on {event_date} in the {venue}. | We met on {event_date} at {venue}.",
        "It was led by {chair}. | It began at {starts_at} and took {duration}. | Present were {guests} members. | "
        "The fee was set to {fee}. | The project has the number {control_no}. | A fine of {penalty} was agreed. | "
        "Minutes were taken by {signer}. | The new rules are in force from {begins}. | Repairs cost {price}.",
    ),
    "invitation": (
        "library restaurant cafe",
        "You are invited to the {event} on {event_date}. | Join us for the {event} on {event_date}. | Come to our "
        "{event}.",
        "It takes place at {venue}. | Doors open at {starts_at}. | {artist} will play. | Tickets cost {price}. | "
        "Please answer by {answer_by}. | Questions go to {mail}. | It is hosted by {chair}. | Parking is at gate "
        "{gate}.",
    ),
    "refund": (
        "transport utility insurance",
        "We have checked your claim {reference}. | Thank you for your letter of {issued}. | Your case {reference} is "
        "closed.",
        "You will get back {refund}. | The money goes to {iban}. | Your excess is {excess}. | The policy {policy_no} "
        "stays as it is. | It was handled by {contact}. | You can call us on {phone}. | The amount arrives by "
        "{delivered}.",
    ),
}  # fmt: skip
_FILL = (
    "We are happy to help you at any time.", "Please keep this letter with your papers.",
    "Thank you for your patience.",
    "Nothing else changes for you.", "Details are on our web page.", "We hope to see you soon.",
    "This letter was printed and is valid without a signature.", "Please read the attached sheet with care.",
)  # fmt: skip
_SLOT = re.compile(r"\{(\w+)\}")


def _sentence(p: Paper, text: str, taken: set[str]) -> list[Part]:
    """The parts of a sentence; empty where it would say something for the second time."""
    roles = _SLOT.findall(text)
    if any(role in taken for role in roles):
        return []
    if not p.held_roles and any(role in ("penalty", "answer_by", "tenant", "warranty") for role in roles):
        return []
    taken.update(roles)
    parts: list[Part] = []
    for i, piece in enumerate(_SLOT.split(text)):
        if i % 2:
            parts.append(Part(p.of(piece), role=piece, face=p.bold if p.chance(0.08) else None))
        elif piece.strip():
            parts.append(Part(piece.strip()))
    return parts


def body(p: Paper, topic: str, low: int = 2, high: int = 6) -> None:
    """Paragraphs with facts.

    Args:
        p: the page.
        topic: of `SENTENCES`.
        low: least number of sentences with facts behind the first.
        high: most.
    """
    _, openings, rest = SENTENCES[topic]
    taken = {fact.role for fact in p.facts}
    chosen = [p.pick([s.strip() for s in openings.split(" | ")])]
    others = [s.strip() for s in rest.split(" | ")]
    chosen += p.rng.sample(others, min(len(others), p.rng.randint(low, high)))
    for text in p.rng.sample(_FILL, p.rng.randint(0, 2)):
        chosen.insert(p.rng.randint(1, len(chosen)), text)
    paragraph: list[Part] = []
    for text in chosen:
        paragraph += _sentence(p, text, taken)
        if len(paragraph) > 5 and p.chance(0.4):
            p.wrapped(paragraph)
            p.gap(0.5)
            paragraph = []
    if paragraph:
        p.wrapped(paragraph)
        p.gap(0.5)


def letter(p: Paper) -> None:
    """A letter: sender, recipient, day, perhaps a subject, sentences, a name below."""
    topic = p.pick(tuple(SENTENCES))
    p.kind = ("letter", "page", "document")
    side = p.pick(("l", "l", "r"))
    issuer(p, p.pick(SENTENCES[topic][0].split()), side, p.bold if p.chance(0.5) else p.large)
    if p.chance(0.6):
        address(p, side)
    reach(p, some(p, ("phone", "mail"), 0, 1), side)
    p.gap(0.5)
    name = p.own(person)
    if p.chance(0.6):
        (place,) = p.line(Part(name, "l"))
        p.fact("recipient", (place,))
        lines = [p.line(Part(text, "l"))[0] for text in (p.own(street), p.own(town))]
        p.fact("home", (lines[0], ", ", lines[1]))
        p.gap(0.5)
    p.line(Part(p.draw("date"), p.pick(("l", "r")), role="issued"))
    p.gap(0.4)
    if p.chance(0.6):
        subject = p.of("subject")
        lead = p.pick(("Subject:", "Re:", "", "", "Regarding:"))
        if lead:
            p.line(Part(lead, "l", label=True), Part(subject, role="subject", face=p.bold))
        else:
            p.line(Part(subject, "l", p.bold, "subject"))
        p.subject = p.facts[-1].value
    p.wrapped([Part(f"Dear {name.split(',')[0]},")])
    p.gap(0.3)
    body(p, topic)
    p.line(Part(p.pick(("Kind regards", "Yours sincerely", "Best wishes", "With best regards", "Sincerely,")), "l"))
    slant = Type(p.body.family, p.body.size * 1.1, italic=True)
    if not any(fact.role == "signer" for fact in p.facts):
        p.line(Part(p.own(person), "l", slant if p.chance(0.4) else p.body, "signer"))
    if p.chance(0.5):
        p.line(Part(p.pick(("Manager", "Customer service", "Reception", "Head of department", "Secretary")), "l"))


def notice(p: Paper) -> None:
    """A notice or mail: a heading and sentences."""
    topic = p.pick(tuple(SENTENCES))
    p.kind = p.pick(("message", "notice", "note")), "page", "text"
    titled(p, p.pick(("Notice", "Good news", "Reminder", "Confirmation", "For your information", "Please note")))
    p.gap(0.3)
    body(p, topic, 3, 6)
    if p.chance(0.4):
        p.line(Part(p.own(person), "l", role="signer")) if not any(f.role == "signer" for f in p.facts) else None

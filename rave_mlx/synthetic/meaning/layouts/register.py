"""All kinds of documents, how many letters wide each is, and which are held out of training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rave_mlx.synthetic.meaning.layouts import boxes, cards, grids, letters, money_pages, screens, tills, trade
from rave_mlx.synthetic.meaning.paper import Paper


@dataclass(frozen=True)
class Layout:
    """One kind of document.

    `letters`: least and most letters of the body's size beside each other; `share`: how often it is drawn; `faces`:
    "fixed" (of one width, mostly), "office" or "any"; `held`: whether it is kept from training.
    """

    draw: Callable[[Paper], object]
    letters: tuple[int, int]
    share: float
    faces: str = "any"
    held: bool = False


LAYOUTS: dict[str, Layout] = {
    "till": Layout(tills.till, (26, 46), 17, "fixed"),
    "slip": Layout(tills.slip, (22, 36), 3, "fixed"),
    "invoice": Layout(trade.invoice, (52, 96), 14, "office"),
    "delivery": Layout(trade.delivery, (44, 76), 3, "office"),
    "menu": Layout(trade.menu, (24, 52), 3),
    "statement": Layout(money_pages.statement, (46, 84), 6, "office"),
    "bill": Layout(money_pages.bill, (34, 64), 5, "office"),
    "policy": Layout(money_pages.policy, (34, 66), 4, "office"),
    "payslip": Layout(money_pages.payslip, (36, 64), 3, "office", held=True),
    "letter": Layout(letters.letter, (40, 84), 7, "office"),
    "notice": Layout(letters.notice, (34, 70), 4),
    "boxes": Layout(boxes.boxes, (44, 92), 9, "office"),
    "lined": Layout(boxes.lined, (40, 84), 5),
    "card": Layout(cards.card, (24, 44), 4),
    "badge": Layout(cards.badge, (18, 36), 2),
    "ticket": Layout(cards.ticket, (30, 58), 4),
    "boarding": Layout(cards.boarding, (30, 54), 2, held=True),
    "medicine": Layout(cards.medicine, (28, 48), 2),
    "settings": Layout(screens.settings, (26, 54), 5, "office"),
    "grid": Layout(grids.grid, (34, 78), 7),
    "schedule": Layout(grids.schedule, (34, 64), 3),
    "hours": Layout(grids.hours, (22, 40), 2, held=True),
    "poster": Layout(grids.poster, (18, 38), 3),
    "chart": Layout(grids.chart, (28, 56), 4, "office"),
}
"""Every layout by its name."""

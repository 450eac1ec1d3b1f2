"""What shops sell and firms charge for: names as printed, and as people say them."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from rave_mlx.synthetic.meaning.vocabulary import TRADES
from rave_mlx.synthetic.values import pseudoword

_LISTS = {
    "cafe": """Flat white, Cappuccino, Latte, Espresso, Green tea, Hot chocolate, Carrot cake, Brownie, Croissant,
Bagel, Scone, Cheesecake, Toastie, Orange juice, Muffin, Iced tea, Apple pie, Lemonade, Mocha, Banana bread, Cookie,
Panini""",
    "restaurant": """Onion soup, Green salad, Pasta, Margherita pizza, Fish and chips, Steak, Burger, Lamb stew,
Risotto, Fried rice, Mussels, Grilled salmon, Chicken curry, House red, Mineral water, Beer, Cola, Ice cream,
Tiramisu, Side salad, Garlic bread, Tomato soup, Spring rolls, Lemon tart, Espresso, Ramen, Tacos, White wine,
Cheese board, Fries""",
    "grocery": """Milk/bottle, Brown bread/loaf, Eggs/box, Bananas, Butter/pack, Cheese/piece, Apples, Tomatoes,
Rice/bag, Olive oil/bottle, Yogurt/cup, Dish soap/bottle, Chocolate/bar, Potatoes/bag, Onions, Chicken, Pasta/pack,
Sugar/bag, Orange juice/carton, Coffee/pack, Tea/box, Flour/bag, Honey/jar, Toilet paper/pack, Shampoo/bottle,
Carrots, Cereal/box, Biscuits/pack, Salmon, Lettuce, Grapes, Salt/pack, Jam/jar, Cream/cup, Frozen peas/bag,
Water/bottle, Batteries/pack""",
    "hardware": """Hammer, Screws/box, Nails/box, Paint/can, Brush, Saw, Drill, Pliers, Wood glue/tube,
Sandpaper/pack, Hinge, Door handle, Light bulb, Extension cable, Tape measure, Ladder, Wall plugs/pack, Cement/bag,
Padlock, Bucket, Screwdriver, Spirit level, Masking tape/roll, Wire/roll, Gloves/pair, Tiles/box, Silicone/tube,
Hook, Pipe, Key""",
    "garden": """Potting soil/bag, Lavender, Rose, Watering can, Garden hose, Plant pot, Grass seed/bag,
Tulip bulbs/bag, Fertilizer/bottle, Rake, Spade, Basil, Hedge shears, Bark mulch/bag, Tomato plant, Bird food/bag,
Gravel/bag, Fern, Compost/bag, Gloves/pair, Hanging basket, Apple tree, Trellis, Sunflower seeds/pack""",
    "pharmacy": """Aspirin/pack, Cough syrup/bottle, Plasters/box, Vitamin C/tube, Toothpaste/tube,
Sun cream/bottle, Nose spray, Hand cream/tube, Thermometer, Face masks/box, Eye drops/bottle, Soap/bar,
Cotton pads/pack, Razor, Toothbrush, Ibuprofen/pack, Throat lozenges/pack, Bandage, Shampoo/bottle, Deodorant""",
    "stationery": """Notebook, Pen, Pencil, Stapler, Envelopes/pack, Ruler, Eraser, Marker, Folder,
Printer paper/pack, Glue stick, Calendar, Sticky notes/pack, Scissors, Paper clips/box, Ink cartridge, Novel, Atlas,
Postcard, Stamps/sheet, Cookbook, Dictionary, Sketchbook, Toner, Map""",
    "clothing": """T-shirt, Jeans, Socks/pair, Jacket, Scarf, Sweater, Belt, Dress, Shirt, Hat, Shoes/pair,
Gloves/pair, Skirt, Coat, Sneakers/pair, Tie, Pyjamas, Boots/pair, Cap, Raincoat""",
    "electronics": """USB cable, Headphones, Mouse, Keyboard, Monitor, Charger, Phone case, Memory card, Webcam,
Speaker, Power bank, Router, Laptop stand, Battery, Tablet, Printer, HDMI cable, Desk lamp, Microphone, Hard drive""",
    "services": """Consulting, Website design, Logo design, Window cleaning, Repair of the tap, Drain cleaning,
Painting, Installation, Annual inspection, Travel, Translation, Photographs, Hosting, Support, Training day,
Lawn mowing, Electrical work, Boiler service, Editing, Project management, Spare parts, Call-out charge,
Garden maintenance, Security check, Monthly retainer, Data entry, Floor polishing, Testing, Moving boxes,
Software licence""",
}
_SIZES = {
    "grocery": ("500G", "1KG", "2L", "250g", "1 l", "6PK", "12PK", "800G", "x6", "org.", "ORGANIC", "330ml",
    "750 ml", "LRG"),
    "hardware": ("5x40", "2.5 l", "60 W", "M6", "10m", "white", "25mm", "brass", "18V", "100 pcs"),
    "garden": ("20L", "5 l", "metal", "15 m", "2.5 kg", "9cm", "white", "red", "small"),
    "pharmacy": ("20 pcs", "100ml", "50 ml", "400mg", "SPF 50", "75ML"),
    "stationery": ("A4", "A5", "blue", "black", "HB", "500 sheets", "10pk", "ruled"),
    "clothing": ("M", "L", "XL", "blue", "black", "size 42", "S", "wool", "cotton"),
    "electronics": ("1m", "2m", "64GB", "USB-C", "black", "27\"", "wireless", "65W"),
    "services": ("March", "April", "phase 1", "phase 2", "per hour", "Q3"),
}  # fmt: skip
SHOPS = tuple(t for t in _LISTS if t != "services")
"""Trades that have tills."""
assert set(_LISTS) <= set(TRADES)


@dataclass(frozen=True)
class Good:
    """Something that is sold.

    `name` as people say it; `printed` as a till or firm prints it; `unit` in which it is counted, "" for pieces.
    """

    name: str
    printed: str
    unit: str

    @property
    def plural(self) -> str:
        """As it is counted: `bags of potting soil`, `brushes`."""
        if self.unit:
            return f"{plural(self.unit)} of {self.name.lower()}"
        return plural(self.name.lower())


def plural(noun: str) -> str:
    """The plural of an English noun, near enough."""
    if noun.endswith(("s", "fries", "mussels")) and not noun.endswith(("ss", "us")):
        return noun
    if noun in ("loaf", "shelf"):
        return noun[:-1] + "ves"
    if noun.endswith(("ch", "sh", "ss", "x", "us")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def _catalogue() -> dict[str, list[tuple[str, str]]]:
    """Trade to (name, unit)."""
    out = {}
    for trade, text in _LISTS.items():
        entries = [entry.strip() for entry in text.replace("\n", " ").split(",")]
        out[trade] = [(e.partition("/")[0], e.partition("/")[2]) for e in entries]
    return out


_CATALOGUE = _catalogue()


def draw_goods(rng: Random, trade: str, count: int) -> list[Good]:
    """Different things of one trade, printed in one manner.

    Args:
        rng: the generator to draw from.
        trade: of `SHOPS`, or "services".
        count: how many; fewer where the trade has no more.
    """
    catalogue = _CATALOGUE[trade]
    manner = rng.choice(("plain", "plain", "upper", "upper", "sized", "sized upper", "brand"))
    out = []
    for name, unit in rng.sample(catalogue, min(count, len(catalogue))):
        said = name
        if rng.random() < 0.12:
            said = f"{pseudoword(rng, 2).capitalize()} {name.lower()}"
        printed = said
        if unit and rng.random() < 0.3 and unit not in ("piece", "cup"):
            printed = f"{unit.capitalize()} of {printed.lower()}"
        if "sized" in manner and rng.random() < 0.7:
            printed += " " + rng.choice(_SIZES.get(trade, ("large", "small", "XL", "reg.")))
        if manner == "brand" and rng.random() < 0.6:
            printed = f"{pseudoword(rng, 2).capitalize()} {printed}"
        out.append(Good(said, printed.upper() if "upper" in manner else printed, unit))
    return out

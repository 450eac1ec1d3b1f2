"""Dialogs and pages of settings: switches, boxes to tick, chosen values."""

from __future__ import annotations

from rave_mlx.synthetic.meaning.facts import Switch
from rave_mlx.synthetic.meaning.layouts.parts import some, titled
from rave_mlx.synthetic.meaning.paper import Paper, Part
from rave_mlx.synthetic.sheet import Color, Shape

SWITCHES = (
    "Wi-Fi", "Bluetooth", "Mobile data", "Airplane mode", "Location", "Dark mode", "Notifications", "Auto-update",
    "Hotspot",
    "Do not disturb", "Battery saver", "Sound", "Vibration", "Auto-rotate", "Backup", "Screen lock", "Two-factor login",
    "Data roaming", "Cookies", "Spell check", "Autosave", "Subtitles", "Firewall", "Night mode", "Face unlock", "Sync",
    "Show previews", "Large text", "Keyboard sounds", "Read receipts", "Newsletter", "VPN", "Developer mode",
    "Guest access",
)  # fmt: skip
TITLES = (
    "Settings",
    "Network",
    "Privacy",
    "Display",
    "General",
    "Preferences",
    "Connections",
    "Account",
    "Options",
    "Device",
)
_VALUES = (
    "network", "ip_address", "resolution", "version", "theme", "language", "data_used", "battery", "status",
    "time_zone",
    "password", "serial", "holder", "mail",
)  # fmt: skip


def settings(p: Paper) -> None:
    """Rows of settings: drawn switches, written states or ticked boxes, and chosen values."""
    p.kind = ("settings page", "screen", "dialog")
    titled(p, p.pick(TITLES), "l", p.large if p.chance(0.6) else p.bold)
    p.gap(0.4)
    names = p.rng.sample(SWITCHES, p.rng.randint(2, 6))
    values = some(p, _VALUES, 1, 4)
    rows = [*[("switch", n) for n in names], *[("value", v) for v in values]]
    p.rng.shuffle(rows)
    form = p.pick(("pill", "pill", "word", "tick", "tick left"))
    words = p.pick(("On|Off", "on|off", "ON|OFF", "Enabled|Disabled", "Yes|No")).split("|")
    rules, near = p.chance(0.5), p.chance(0.25)
    column = p.sheet.x0 + max(p.width(n) for n in names) + 2.5 * p.body.size
    right = min(p.sheet.x1, column + 6 * p.body.size) if near else p.sheet.x1
    colored = p.sheet.style.accent
    for kind, name in rows:
        p.sheet.y += p.body.size * 0.25
        if kind == "switch":
            _switch(p, name, p.chance(0.5), form, words, right, colored)
        else:
            label, value = p.label(name), p.of(name)
            x = right - p.width(value)
            if label and x > p.sheet.x0 + p.width(label) + 6:
                p.line(Part(label, "l", label=True), Part(value, x, role=name, color=p.sheet.style.muted))
        p.sheet.y += p.body.size * 0.25
        if rules:
            p.sheet.rule(p.sheet.y)
    if p.chance(0.3):
        p.gap(0.3)
        p.line(Part(p.pick(("Cancel   OK", "Apply", "Save changes", "Reset to defaults", "Done")), "r"))


def _switch(p: Paper, name: str, on: bool, form: str, words: list[str], right: float, color: Color) -> None:
    """One switch with its name."""
    size = p.body.size
    middle = p.sheet.y + p.sheet.pitch() / 2
    if form == "word":
        state = words[0 if on else 1]
        found = p.line(Part(name, "l"), Part(state, right - p.width(state)))
    elif form == "tick left":
        _tick(p, p.sheet.x0 + 1, middle - size * 0.4, size * 0.8, on)
        found = p.line(Part(name, p.sheet.x0 + 1.5 * size))
    elif form == "tick":
        _tick(p, right - size, middle - size * 0.4, size * 0.8, on)
        found = p.line(Part(name, "l"))
    else:
        _pill(p, right - 1.9 * size, middle - size * 0.5, size, on, color)
        found = p.line(Part(name, "l"))
    left = p.sheet.x0 if form == "tick left" else right - 2 * size
    box = (left, middle - size * 0.5, left + 1.5 * size if form == "tick left" else right, middle + size * 0.5)
    p.switches.append(Switch(name, on, (found[0],), box))


def _tick(p: Paper, x: float, y: float, size: float, on: bool) -> None:
    """A box, ticked or empty."""
    p.sheet.shapes.append(Shape((x, y, x + size, y + size), None, p.sheet.style.ink))
    if on:
        marks = (
            (x + size * 0.2, y + size * 0.5),
            (x + size * 0.42, y + size * 0.78),
            (x + size * 0.85, y + size * 0.15),
        )
        p.sheet.shapes.append(Shape(None, outline=p.sheet.style.ink, points=marks, width=max(1, round(size / 8))))


def _pill(p: Paper, x: float, y: float, size: float, on: bool, color: Color) -> None:
    """A switch: a rounded bar with a knob, at the right where it is on."""
    back = color if on else (185, 185, 190)
    height, width = size, 1.8 * size
    points = []
    for step in range(int(height) + 1):
        inset = abs(step / height - 0.5) * 2
        inset = (1 - (1 - inset * inset) ** 0.5) * height / 2
        points.append((x + inset, x + width - inset, y + step))
    for left, end, row in points:
        p.sheet.shapes.append(Shape((left, row, end, row), back))
    knob = x + (width - height / 2 if on else height / 2)
    radius = height * 0.4
    for step in range(int(2 * radius) + 1):
        half = (max(0.0, radius**2 - (step - radius) ** 2)) ** 0.5
        row = y + height / 2 - radius + step
        p.sheet.shapes.append(Shape((knob - half, row, knob + half, row), (255, 255, 255)))

"""Words that look like English prose, without an end: no list of them can be learnt by heart.

Derived from roots (`re-` + `pack` + `-aging`), compounds, acronyms and file names besides plain words, so that a reader
has to read each letter.
"""

from __future__ import annotations

import string
from random import Random

from rave_mlx.synthetic import words
from rave_mlx.synthetic.values import pseudoword


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ROOTS = _split(
    "accept act adapt adjust admit advis affect align allocat announc apply approv arrang assign assist attach audit "
    "bind block board book brows build bundl bas call cancel captur catalog chang charg check claim classif clean "
    "clos code collect comment commit compil complet compos comput condition configur confirm connect consist contact "
    "contract control convert cop correct creat credit custom cut deci defin delay deliver depend deploy deriv "
    "describ design detect develop direct disclos discov discuss distribut document download draft edit embed employ "
    "enabl encod engag enhanc enter equip estimat evaluat exam exchang exclud execut exist expect explain export "
    "express extend fail fetch field figur fil filter fix follow form format forward found function gather generat "
    "govern group guid hand handl host identif implement import improv includ index inform inherit initi "
    "inspect install instruct integrat interact interpret introduc invest issu judg keep label launch lay learn licens "
    "limit link list load local lock log maint manag manufactur map mark market match measur merg migrat mirror "
    "modif monitor mount nam navigat negotiat note notif number object observ offer open operat order organis "
    "outlin own pack paint paragraph pars particip pass patch perform permit plan point polic port possess post "
    "practis predict prefer prepar present preserv prevent print process produc program project promot propos protect "
    "provid publish purchas qualif queu quot rais rank reach read reason receiv recommend record reduc refer reflect "
    "regist regulat reject relat releas rely remov renam render repair replac reply report represent request requir "
    "research reserv resolv respond restor restrict result retain retriev review revis rout run schedul scor "
    "search section secur select send separat serv sett shar ship show sign sort sourc specif stag "
    "standard start stor stream structur submit subscrib suit summar suppl support suspend switch synchron test "
    "titl track trad train transfer transform translat transport tun updat util valid valu verif vers "
    "view vot warn weigh word work wrap writ yield"
)
PREFIXES = ("re", "un", "pre", "non-", "sub", "inter", "over", "auto", "co", "dis", "mis", "multi", "out", "under")
SUFFIXES = _split(
    "ing ing ed ed er ers or ors ion ions ation ations ment ments able ability al ally ly s es ance ence ive ively "
    "ness ity ure ures ary ical ist ism ful less ship age ages ent ant"
)
SHORT = ("vs", "via", "if", "as", "at", "per", "no", "do", "how", "when", "why", "can", "I", "A", "&", "/", "—", "e.g.")


def derived(rng: Random) -> str:
    """A root with an ending, now and then a prefix."""
    word = rng.choice(ROOTS) + rng.choice(SUFFIXES)
    return rng.choice(PREFIXES) + word if rng.random() < 0.15 else word


def acronym(rng: Random) -> str:
    """Capitals, perhaps in the plural, in brackets, or with a digit: `PDFs`, `(FAQ)`, `K8S`."""
    text = "".join(rng.choices(string.ascii_uppercase, k=rng.randint(2, 5)))
    roll = rng.random()
    if roll < 0.2:
        text += "s"
    elif roll < 0.3:
        text = f"{text[0]}{rng.randint(2, 20)}{text[-1]}"
    return f"({text})" if rng.random() < 0.15 else text


def technical(rng: Random) -> str:
    """A file, option, command or address: `auth_log.conf`, `--with-port`, `libport2`, `lists.taro.org/share`."""

    def part() -> str:
        """A root or an invented word."""
        return rng.choice(ROOTS) if rng.random() < 0.6 else pseudoword(rng, 2).lower()

    roll = rng.random()
    if roll < 0.25:
        return f"{part()}{rng.choice('_-.')}{part()}.{rng.choice(('conf', 'txt', 'py', 'h', 'log', 'xml', 'so'))}"
    if roll < 0.4:
        return f"--{part()}" + (f"-{part()}" if rng.random() < 0.5 else "")
    if roll < 0.7:
        ending = rng.choice(("", "-tool", "-data", "2", ".d", "rc"))
        return f"{rng.choice(('lib', 'my-', 'py', 'x', 'g', ''))}{part()}{ending}"
    if roll < 0.85:
        return f"{part()}.{part()}.{rng.choice(('org', 'net', 'com'))}" + (f"/{part()}" if rng.random() < 0.5 else "")
    return f"{part()}/{part()}"


def word(rng: Random) -> str:
    """A word of running text, in lower case but for acronyms."""
    roll = rng.random()
    if roll < 0.42:
        return rng.choice(words.PLAIN_WORDS)
    if roll < 0.76:
        return derived(rng)
    if roll < 0.82:
        return f"{derived(rng)}-{rng.choice((derived, pseudoword))(rng).lower()}"
    if roll < 0.88:
        return pseudoword(rng).lower()
    if roll < 0.92:
        return rng.choice(SHORT)
    return acronym(rng) if roll < 0.95 else technical(rng) if roll < 0.98 else f"{derived(rng)}'s"


def heading(rng: Random, count: int) -> str:
    """Some words, capitalised as sentences or titles are."""
    chosen = [word(rng) for _ in range(count)]
    if rng.random() < 0.65:
        chosen[0] = chosen[0][:1].upper() + chosen[0][1:]
        return " ".join(chosen)
    return " ".join(w[:1].upper() + w[1:] for w in chosen)

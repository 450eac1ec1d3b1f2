"""Fonts for synthetic documents: families by file name, found wherever the system keeps them.

Nothing is bundled. On Debian the full list comes from the packages in `DEBIAN_PACKAGES`; on other systems whatever is
found is used, and Pillow's built-in Aileron when nothing is.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import ImageFont

from rave_mlx.errors import ModelError

DEBIAN_PACKAGES = (
    "fonts-adf-accanthis fonts-adf-baskervald fonts-adf-gillius fonts-adf-libris fonts-adf-romande fonts-adf-tribun "
    "fonts-adf-universalis fonts-adf-verana fonts-anonymous-pro fonts-averia-sans-gwf fonts-averia-serif-gwf "
    "fonts-b612 fonts-cabin fonts-cantarell fonts-clear-sans fonts-cmu fonts-comfortaa fonts-courier-prime "
    "fonts-crosextra-caladea fonts-crosextra-carlito fonts-dejavu-core fonts-dejavu-extra fonts-dustin "
    "fonts-ebgaramond fonts-fantasque-sans fonts-firacode fonts-freefont-ttf fonts-go fonts-goudybookletter "
    "fonts-hack fonts-hermit fonts-inconsolata fonts-inter fonts-jetbrains-mono fonts-junicode fonts-jura fonts-karla "
    "fonts-lato fonts-league-mono fonts-liberation fonts-linuxlibertine fonts-mononoki fonts-mplus fonts-noto-core "
    "fonts-noto-mono fonts-ocr-b fonts-open-sans fonts-paratype fonts-play fonts-prociono fonts-quicksand "
    "fonts-roboto-slab fonts-roboto-unhinted fonts-routed-gothic fonts-sil-andika fonts-sil-charis "
    "fonts-sil-gentium-basic fonts-texgyre fonts-tuffy fonts-urw-base35 fonts-vollkorn"
)
"""As `apt install` takes them."""

DIRECTORIES = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.local/share/fonts",
    "~/.fonts",
    "/Library/Fonts",
    "/System/Library/Fonts",
    "C:/Windows/Fonts",
)


@dataclass(frozen=True)
class Family:
    """File names of one family; `bold` and `italic` fall back to `regular` where absent.

    Training never draws with a family that is `held_out`.
    """

    name: str
    regular: str
    bold: str | None = None
    italic: str | None = None
    held_out: bool = False


def _family(line: str) -> Family:
    """A family from its line in the list: `Name|regular|bold|italic`, with a star in front where it is held out."""
    name, *files = [part.strip() for part in line.removeprefix("*").split("|")]
    held = line.startswith("*")
    regular, bold, italic = [*files, "", ""][:3]
    return Family(name, regular, bold or None, italic or None, held)


FAMILIES = tuple(
    _family(line)
    for line in """\
DejaVu Sans|DejaVuSans.ttf|DejaVuSans-Bold.ttf|DejaVuSans-Oblique.ttf
DejaVu Sans Condensed|DejaVuSansCondensed.ttf|DejaVuSansCondensed-Bold.ttf|DejaVuSansCondensed-Oblique.ttf
DejaVu Serif|DejaVuSerif.ttf|DejaVuSerif-Bold.ttf|DejaVuSerif-Italic.ttf
DejaVu Sans Mono|DejaVuSansMono.ttf|DejaVuSansMono-Bold.ttf
Liberation Sans|LiberationSans-Regular.ttf|LiberationSans-Bold.ttf|LiberationSans-Italic.ttf
Liberation Sans Narrow|LiberationSansNarrow-Regular.ttf|LiberationSansNarrow-Bold.ttf|LiberationSansNarrow-Italic.ttf
Liberation Serif|LiberationSerif-Regular.ttf|LiberationSerif-Bold.ttf|LiberationSerif-Italic.ttf
Liberation Mono|LiberationMono-Regular.ttf|LiberationMono-Bold.ttf
FreeSans|FreeSans.ttf|FreeSansBold.ttf|FreeSansOblique.ttf
FreeSerif|FreeSerif.ttf|FreeSerifBold.ttf|FreeSerifItalic.ttf
FreeMono|FreeMono.ttf|FreeMonoBold.ttf
Roboto|Roboto-Regular.ttf|Roboto-Bold.ttf|Roboto-Italic.ttf
Roboto Condensed|RobotoCondensed-Regular.ttf|RobotoCondensed-Bold.ttf|RobotoCondensed-Italic.ttf
Roboto Slab|RobotoSlab-Regular.otf|RobotoSlab-Bold.otf
Open Sans|OpenSans-Regular.ttf|OpenSans-Bold.ttf|OpenSans-Italic.ttf
Carlito|Carlito-Regular.ttf|Carlito-Bold.ttf|Carlito-Italic.ttf
Hack|Hack-Regular.ttf|Hack-Bold.ttf
Noto Sans|NotoSans-Regular.ttf|NotoSans-Bold.ttf|NotoSans-Italic.ttf
Noto Serif|NotoSerif-Regular.ttf|NotoSerif-Bold.ttf|NotoSerif-Italic.ttf
Noto Sans Mono|NotoSansMono-Regular.ttf|NotoSansMono-Bold.ttf
Fira Code|FiraCode-Regular.ttf|FiraCode-Bold.ttf
Inconsolata|Inconsolata.otf
Linux Libertine|LinLibertine_R.otf|LinLibertine_RB.otf|LinLibertine_RI.otf
Linux Biolinum|LinBiolinum_R.otf|LinBiolinum_RB.otf|LinBiolinum_RI.otf
Cantarell|Cantarell-Regular.otf|Cantarell-Bold.otf
EB Garamond|EBGaramond12-Regular.otf|EBGaramond12-Bold.otf|EBGaramond12-Italic.otf
Cabin|Cabin-Regular.otf|Cabin-Bold.otf|Cabin-Italic.otf
Play|Play-Regular.ttf|Play-Bold.ttf
Quicksand|Quicksand-Medium.ttf|Quicksand-Bold.ttf
JetBrains Mono|JetBrainsMono-Regular.ttf|JetBrainsMono-Bold.ttf
Courier Prime|Courier Prime.otf|Courier Prime Bold.otf|Courier Prime Italic.otf
Nimbus Sans|NimbusSans-Regular.otf|NimbusSans-Bold.otf|NimbusSans-Italic.otf
Nimbus Sans Narrow|NimbusSansNarrow-Regular.otf|NimbusSansNarrow-Bold.otf
Nimbus Roman|NimbusRoman-Regular.otf|NimbusRoman-Bold.otf|NimbusRoman-Italic.otf
Nimbus Mono|NimbusMonoPS-Regular.otf|NimbusMonoPS-Bold.otf
C059|C059-Roman.otf|C059-Bold.otf|C059-Italic.otf
P052|P052-Roman.otf|P052-Bold.otf|P052-Italic.otf
URW Gothic|URWGothic-Book.otf|URWGothic-Demi.otf
Inter|Inter-Regular.otf|Inter-Bold.otf|Inter-Italic.otf
Karla|Karla-Regular.otf|Karla-Bold.otf|Karla-Italic.otf
Go|Go-Regular.ttf|Go-Bold.ttf|Go-Italic.ttf
Go Mono|Go-Mono.ttf|Go-Mono-Bold.ttf
Computer Modern|cmunrm.ttf|cmunbx.ttf|cmunti.ttf
Computer Modern Sans|cmunss.ttf|cmunsx.ttf|cmunsi.ttf
Computer Modern Typewriter|cmuntt.ttf|cmuntb.ttf|cmunit.ttf
Mononoki|mononoki-Regular.ttf|mononoki-Bold.ttf
Fantasque Sans Mono|FantasqueSansMono-Regular.otf|FantasqueSansMono-Bold.otf
Anonymous Pro|Anonymous Pro.ttf|Anonymous Pro B.ttf|Anonymous Pro I.ttf
Charis SIL|CharisSIL-Regular.ttf|CharisSIL-Bold.ttf|CharisSIL-Italic.ttf
Andika|Andika-Regular.ttf|Andika-Bold.ttf|Andika-Italic.ttf
Averia Sans|AveriaSansGWF-Regular.ttf|AveriaSansGWF-Bold.ttf|AveriaSansGWF-Italic.ttf
Averia Serif|AveriaSerifGWF-Regular.ttf|AveriaSerifGWF-Bold.ttf|AveriaSerifGWF-Italic.ttf
Jura|Jura-Medium.otf|Jura-Bold.otf
Hermit|Hermit-medium.otf|Hermit-bold.otf
League Mono|LeagueMono-Regular.otf|LeagueMono-Bold.otf
League Mono Narrow|LeagueMono-NarrowRegular.otf|LeagueMono-NarrowBold.otf
M+ 1|Mplus1-Regular.otf|Mplus1-Bold.otf
M+ 1 Code|Mplus1Code-Regular.otf|Mplus1Code-Bold.otf
Prociono|Prociono.otf
Goudy Bookletter|GoudyBookletter1911.otf
Junicode|JunicodeTwoBeta-Regular.otf|JunicodeTwoBeta-Bold.otf|JunicodeTwoBeta-Italic.otf
Comfortaa|Comfortaa-Regular.ttf|Comfortaa-Bold.ttf
TeX Gyre Bonum|texgyrebonum-regular.otf|texgyrebonum-bold.otf|texgyrebonum-italic.otf
TeX Gyre Heros Condensed|texgyreheroscn-regular.otf|texgyreheroscn-bold.otf|texgyreheroscn-italic.otf
Dustismo Roman|Dustismo_Roman.ttf|Dustismo_Roman_Bold.ttf|Dustismo_Roman_Italic.ttf
Vollkorn|Vollkorn-Regular.ttf|Vollkorn-Bold.ttf|Vollkorn-Italic.ttf
Clear Sans|ClearSans-Regular.ttf|ClearSans-Bold.ttf|ClearSans-Italic.ttf
OCR-B|OCRB.otf
PT Sans|PTS55F.ttf|PTS75F.ttf|PTS56F.ttf
PT Serif|PTF55F.ttf|PTF75F.ttf|PTF56F.ttf
PT Mono|PTM55F.ttf|PTM75F.ttf
Accanthis|AccanthisADFStd-Regular.otf|AccanthisADFStd-Bold.otf|AccanthisADFStd-Italic.otf
Universalis|UniversalisADFStd-Regular.otf|UniversalisADFStd-Bold.otf|UniversalisADFStd-Italic.otf
Gillius|GilliusADF-Regular.otf|GilliusADF-Bold.otf|GilliusADF-Italic.otf
Romande|RomandeADFStd-Regular.otf|RomandeADFStd-DemiBold.otf|RomandeADFStd-Italic.otf
Baskervald|BaskervaldADFStd.otf|BaskervaldADFStd-Bold.otf|BaskervaldADFStd-Italic.otf
Tribun|TribunADFStd-Regular.otf|TribunADFStd-Bold.otf|TribunADFStd-Italic.otf
Verana|Verana-Regular.otf|Verana-Bold.otf|Verana-Italic.otf
Libris|LibrisADFStd-Regular.otf|LibrisADFStd-Bold.otf|LibrisADFStd-Italic.otf
Routed Gothic|routed-gothic.ttf||routed-gothic-italic.ttf
Tuffy|tuffy_regular.ttf|tuffy_bold.ttf|tuffy_italic.ttf
Arial|Arial.ttf|Arial Bold.ttf|Arial Italic.ttf
Verdana|Verdana.ttf|Verdana Bold.ttf|Verdana Italic.ttf
Georgia|Georgia.ttf|Georgia Bold.ttf|Georgia Italic.ttf
Times New Roman|Times New Roman.ttf|Times New Roman Bold.ttf|Times New Roman Italic.ttf
Courier New|Courier New.ttf|Courier New Bold.ttf
Tahoma|Tahoma.ttf|Tahoma Bold.ttf
*Lato|Lato-Regular.ttf|Lato-Bold.ttf|Lato-Italic.ttf
*Caladea|Caladea-Regular.ttf|Caladea-Bold.ttf|Caladea-Italic.ttf
*Gentium Basic|GenBasR.ttf|GenBasB.ttf|GenBasI.ttf
*B612 Mono|B612Mono-Regular.otf|B612Mono-Bold.otf
*Trebuchet MS|Trebuchet MS.ttf|Trebuchet MS Bold.ttf|Trebuchet MS Italic.ttf""".splitlines()
)

BUILT_IN = Family("Aileron", "")
"""Pillow's own font; it has one weight."""


@functools.cache
def _index() -> dict[str, str]:
    """Font file name to path, over the font directories."""
    found: dict[str, str] = {}
    for directory in DIRECTORIES:
        for folder, _, names in os.walk(Path(directory).expanduser()):
            for name in names:
                if name.endswith((".ttf", ".otf")):
                    found.setdefault(name, str(Path(folder) / name))
    return found


@functools.cache
def families(held_out: bool = False) -> tuple[Family, ...]:
    """The training families found here, or the held-out ones; Aileron for both when the system has neither."""
    found = [f for f in FAMILIES if f.regular in _index()]
    return tuple(f for f in found if f.held_out == held_out) or (BUILT_IN,)


def installed(wanted: Sequence[Family]) -> tuple[Family, ...]:
    """Those of the families whose regular face is found here."""
    return tuple(f for f in wanted if f.regular in _index())


def by_name(names: Sequence[str]) -> tuple[Family, ...]:
    """Families asked for by name.

    Raises:
        ModelError: for a family that is not known or not installed.
    """
    known = {f.name: f for f in (*FAMILIES, BUILT_IN)}
    for name in names:
        if name not in known or (known[name].regular and known[name].regular not in _index()):
            raise ModelError(f"font family {name!r} is not installed; on Debian: apt install {DEBIAN_PACKAGES}")
    return tuple(known[name] for name in names)


@functools.lru_cache(maxsize=2048)
def face(family: Family, size: float, bold: bool = False, italic: bool = False) -> ImageFont.FreeTypeFont:
    """One face at a size in pixels. Basic layout: no ligatures, so each character keeps its own place.

    Args:
        family: an installed family.
        size: in pixels; fractions are kept.
        bold: the bold face; before `italic`, and the regular one where the family has none.
        italic: the italic face, or the regular one where the family has none.

    Raises:
        ModelError: for Pillow's own font in a Pillow without FreeType.
    """
    if not family.regular:
        built_in = ImageFont.load_default(size)
        if not isinstance(built_in, ImageFont.FreeTypeFont):
            raise ModelError("this Pillow has no FreeType; install Pillow from PyPI to draw documents")
        return built_in
    name = (bold and family.bold) or (italic and family.italic) or family.regular
    path = _index().get(name) or _index()[family.regular]
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)

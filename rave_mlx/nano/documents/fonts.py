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
    "fonts-b612 fonts-cabin fonts-cantarell fonts-courier-prime fonts-crosextra-caladea fonts-crosextra-carlito "
    "fonts-dejavu-core fonts-dejavu-extra fonts-ebgaramond fonts-firacode fonts-freefont-ttf fonts-hack "
    "fonts-inconsolata fonts-jetbrains-mono fonts-lato fonts-liberation fonts-linuxlibertine fonts-noto-core "
    "fonts-noto-mono fonts-open-sans fonts-play fonts-quicksand fonts-roboto-slab fonts-roboto-unhinted "
    "fonts-sil-gentium-basic fonts-urw-base35"
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
    """File names of one family; `bold` and `italic` fall back to `regular` where absent."""

    name: str
    regular: str
    bold: str | None = None
    italic: str | None = None
    held_out: bool = False


def _family(line: str) -> Family:
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
    """One face at a size in pixels. Basic layout: no ligatures, so each character keeps its own place."""
    if not family.regular:
        built_in = ImageFont.load_default(size)
        if not isinstance(built_in, ImageFont.FreeTypeFont):
            raise ModelError("this Pillow has no FreeType; install Pillow from PyPI to draw documents")
        return built_in
    name = (bold and family.bold) or (italic and family.italic) or family.regular
    path = _index().get(name) or _index()[family.regular]
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)

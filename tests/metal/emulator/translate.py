"""Metal text to C++ for metal_emu.h: threadgroup arrays move to an arena, attributes become function calls."""

import re
from dataclasses import dataclass

_ARRAY = re.compile(r"(?m)^(\s*)threadgroup\s+(\w+)\s+(\w+)\s*\[([^\]]*)\]\s*;")
_INSTANCE = re.compile(r"template \[\[host_name\(\"(\w+)\"\)\]\] \[\[kernel\]\] decltype\((.*?)\) .*?;\s*$", re.DOTALL)
_SIGNATURE = re.compile(r"\[\[kernel\]\] void (\w+)\(\n(.*?)\)\s*\{\n", re.DOTALL)
_PARAMETER = re.compile(r"(.*?)(\w+) \[\[(\w+)(?:\((\d+)\))?\]\]$", re.DOTALL)


@dataclass(frozen=True)
class Program:
    """C++ source and the names of the buffers it takes, in order."""

    source: str
    buffers: tuple[str, ...]


def translate(text: str) -> Program:
    """The C++ program of one kernel."""
    text = re.sub(r"(?m)^#include <metal_\w+>\n", "", text)
    text = _ARRAY.sub(r"\1EMU_TG(\2, \3, \4);", text)
    instance = _INSTANCE.search(text)
    if instance:
        text = text[: instance.start()]
    signature = _SIGNATURE.search(text)
    callee = instance[2] if instance else signature[1]
    arguments, buffers = [], []
    for parameter in signature[2].split(",\n"):
        ctype, name, attribute, index = _PARAMETER.match(parameter.strip()).groups()
        if attribute != "buffer":
            arguments.append(f"emu::a_{attribute}()")
            continue
        assert int(index) == len(buffers)
        buffers.append(name)
        ctype = ctype.strip()
        arguments.append(f"*({ctype[:-1]}*)b[{index}]" if ctype.endswith("&") else f"({ctype})b[{index}]")
    text = re.sub(r" \[\[[^\]]*\]\]", "", text.replace("[[kernel]] ", ""))
    return Program(_PROGRAM.format(text=text, call=f"{callee}({', '.join(arguments)})"), tuple(buffers))


_PROGRAM = """#include "metal_emu.h"
{text}
extern "C" void emu_launch(void** b, const unsigned* g, const unsigned* t, int order, int workers, int ulp,
                           long* stats) {{
  emu::watch_faults();
  metal::fast_ulp = ulp;
  auto s = emu::dispatch({{g[0], g[1], g[2]}}, {{t[0], t[1], t[2]}}, order, workers, [&] {{ {call}; }});
  stats[0] = s.switches;
  stats[1] = (long)s.tg_mem;
}}
"""

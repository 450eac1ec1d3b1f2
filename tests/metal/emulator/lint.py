"""Type check of Metal text on Linux through libclang's OpenCL C++ mode (pip install libclang).

It finds address-space errors, writes to const inputs, undeclared names, double arithmetic and threadgroup arrays
outside the outermost scope.
"""

import re
from pathlib import Path

from clang import cindex

HERE = Path(__file__).parent
ARGUMENTS = ["-x", "clcpp", "-cl-std=clc++2021", "-target", "spir64", "-cl-no-stdinc", "-I", str(HERE)]
ARGUMENTS += ["-Wall", "-Wno-unused", "-Wno-unknown-attributes"]
LABEL = {2: "warning", 3: "error", 4: "fatal"}
_INSTANCE = re.compile(r"template \[\[host_name\(.*?\)\]\] \[\[kernel\]\] decltype\(\w+<(.*?)>\)", re.DOTALL)
_TEMPLATE = re.compile(r"template <([^>]*)>\n\[\[kernel\]\]")


def prepare(text: str) -> str:
    """The template instance as typedefs and constants: OpenCL has neither kernel templates nor pointers to bool."""
    text = re.sub(r"(?m)^#include <metal_\w+>$", "", text)
    instance = _INSTANCE.search(text)
    if instance:
        values = [v.strip() for v in instance[1].split(",")]
        template = _TEMPLATE.search(text)
        constants = ""
        for parameter, value in zip(template[1].split(","), values, strict=True):
            kind, name = parameter.split()
            constants += f"typedef {value} {name};\n" if kind == "typename" else f"constant int {name} = {value};\n"
        text = (
            text[: template.start()]
            + constants
            + "[[kernel]]"
            + text[template.end() : text.rindex("template [[host_name")]
        )
    text = re.sub(r"(const \w+) bool\*", r"\1 uchar*", text)
    return re.sub(r" \[\[[^\]]*\]\]", "", text.replace("[[kernel]]", "__kernel"))


def lint(text: str) -> list[str]:
    """Diagnostics of severity warning and above; line numbers are those of the prepared text."""
    source = '#include "metal_lint.h"\n#line 1 "kernel"\n' + prepare(text)
    unit = cindex.Index.create().parse("kernel.clcpp", args=ARGUMENTS, unsaved_files=[("kernel.clcpp", source)])
    return [f"line {d.location.line}: {LABEL[d.severity]}: {d.spelling}" for d in unit.diagnostics if d.severity >= 2]

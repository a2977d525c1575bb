"""What a program may use of the package: every public name with its signature, one a line.

    python -m tests.api > tests/reference/api.txt

writes down what there is now. A line has the names, kinds and defaults of parameters and no types, so that it
is the same whatever Python or library reads it. A name that is handed on is told in full in one room only.
"""

import ast
from collections import defaultdict
from functools import cache
from pathlib import Path

import griffe

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "rewardsmith"


def exported(init):
    """Public names of one room: `import A as A`, and what the file itself defines."""
    for node in ast.parse(init.read_text()).body:
        match node:
            case ast.ImportFrom(names=names):
                yield from (alias.asname for alias in names if alias.asname)
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name


def rooms():
    """Each public room and the public names that it hands on."""
    for init in sorted(PACKAGE.rglob("__init__.py")):
        parts = init.parent.relative_to(ROOT).parts
        if not any(part.startswith("_") for part in parts):
            yield ".".join(parts), [name for name in exported(init) if not name.startswith("_")]


NAMES = [f"{room}.{name}" for room, names in rooms() for name in names]


@cache
def load():
    """The package as the site reads it: from its source."""
    extensions = griffe.load_extensions(str(ROOT / "docs" / "_site" / "modules.py"))
    return griffe.load("rewardsmith", search_paths=[str(ROOT)], extensions=extensions)


def definition(package, path):
    """Where a name that rooms hand on is defined."""
    found = package[path.removeprefix("rewardsmith.")]
    if found.is_module:
        # A name that a room hands on and that is its file's name too.
        found = found[path.rpartition(".")[2]]
    return found.final_target if isinstance(found, griffe.Alias) else found


def public(package):
    """Each public object once, with the names it has, that of the innermost room first."""
    names = defaultdict(list)
    for path in NAMES:
        names[definition(package, path).path].append(path)
    for path, known in names.items():
        yield (
            package[path.removeprefix("rewardsmith.")],
            sorted(known, key=lambda name: (-name.count("."), name)),
        )


def members(found):
    """Public members of a class, those of its bases too, each as the class itself has it."""
    for name, member in sorted(found.all_members.items()):
        if not name.startswith("_") or name == "__call__":
            yield name, member.final_target if isinstance(member, griffe.Alias) else member


def made_by(found):
    """What makes a class; None where that is nothing of ours."""
    made = found.all_members.get("__init__")
    made = made.final_target if isinstance(made, griffe.Alias) else made
    return made if made is not None and made.is_function else None


def parameters(function):
    """Those that a caller gives."""
    return [parameter for parameter in function.parameters if parameter.name not in ("self", "cls")]


def signature(function):
    """(first, *, second=1): names, kinds and defaults."""
    told, kinds = [], griffe.ParameterKind
    marks = {kinds.var_positional: "*", kinds.var_keyword: "**"}
    before = None
    for parameter in parameters(function):
        kind = parameter.kind
        if before is kinds.positional_only and kind is not before:
            told.append("/")
        if kind is kinds.keyword_only and before not in (kind, kinds.var_positional):
            told.append("*")
        optional = parameter.default is not None and kind not in marks
        told.append(marks.get(kind, "") + parameter.name + (f"={parameter.default}" if optional else ""))
        before = kind
    if before is kinds.positional_only:
        told.append("/")
    return f"({', '.join(told)})"


def lines(package):
    """The whole of it, sorted."""
    told = []
    for found, (name, *others) in public(package):
        told += [f"{other} is {name}" for other in others]
        if found.is_function:
            told.append(name + signature(found))
        elif found.is_class:
            made = made_by(found)
            told.append(f"class {name}" + ("" if made is None else signature(made)))
            told += [
                f"{name}.{member}" + (signature(value) if value.is_function else "")
                for member, value in members(found)
            ]
        else:
            told.append(name)
    return sorted(told, key=lambda line: line.removeprefix("class "))


if __name__ == "__main__":
    print("\n".join(lines(load())))

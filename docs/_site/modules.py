"""Griffe extension: what reading the source alone does not tell of classes and arguments.

An `equinox.Module` is a dataclass without the decorator, and has no `__init__` to read, nor has a named
tuple. Their arguments are their annotated fields, those of the bases first.

Docstrings say `first, second: of that shape` of arguments that are alike. To griffe these are two. Of methods
that say no more than "See" the one they fill in, that one is shown alone.
"""

import re
from collections.abc import Iterator

import griffe

FIELDS = ("equinox.field", "dataclasses.field")
BASES = ("equinox.Module", "typing.NamedTuple")
OVERRIDE = re.compile(r"See `\w+\.\w+`")
SECTION = re.compile(r"^(?:Args|Attributes):\n(?: .*\n?|\n)+", re.MULTILINE)
ALIKE = re.compile(r"^    (\w+(?:, \w+)+):((?:.*)(?:\n {5,}.*)*)", re.MULTILINE)


class ModuleArguments(griffe.Extension):
    """Give each class of that kind the `__init__` that is made for it when it is imported."""

    def on_package(self, *, pkg: griffe.Module, **_: object) -> None:
        """Called once, when all of the package has been read."""
        for item in list(_everything(pkg)):
            if item.docstring is not None:
                text = item.docstring.value
                item.docstring.value = "" if OVERRIDE.match(text) else SECTION.sub(_told_apart, text)
            if isinstance(item, griffe.Class) and "__init__" not in item.members and _is_module(item):
                item.set_member("__init__", _init(item))


def _everything(node: griffe.Module | griffe.Class) -> Iterator[griffe.Object]:
    for member in node.members.values():
        if isinstance(member, griffe.Alias):
            continue
        yield member
        if isinstance(member, (griffe.Module, griffe.Class)):
            yield from _everything(member)


def _told_apart(section: re.Match[str]) -> str:
    def each(entry: re.Match[str]) -> str:
        return "\n".join(f"    {name}:{entry[2]}" for name in entry[1].split(", "))

    return ALIKE.sub(each, section[0])


def _is_module(cls: griffe.Class) -> bool:
    bases = [base for parent in [cls, *cls.mro()] for base in parent.bases]
    return any(isinstance(base, griffe.Expr) and base.canonical_path in BASES for base in bases)


def _init(cls: griffe.Class) -> griffe.Function:
    parameters: dict[str, griffe.Parameter] = {}
    for parent in [*reversed(cls.mro()), cls]:
        for name, member in parent.members.items():
            if isinstance(member, griffe.Attribute) and _is_field(member):
                parameters[name] = _parameter(member)
            elif name in parameters and isinstance(member, griffe.Attribute):
                # A subclass that says itself what its base leaves open.
                del parameters[name]
    order = [griffe.ParameterKind.positional_or_keyword, griffe.ParameterKind.keyword_only]
    ordered = sorted(parameters.values(), key=lambda parameter: order.index(parameter.kind or order[0]))
    this = griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword)
    return griffe.Function(
        "__init__", parameters=griffe.Parameters(this, *ordered), parent=cls, returns="None"
    )


def _is_field(attribute: griffe.Attribute) -> bool:
    if attribute.annotation is None or "property" in attribute.labels:
        return False
    return "ClassVar" not in str(attribute.annotation) and _options(attribute).get("init") != "False"


def _options(attribute: griffe.Attribute) -> dict[str, str | griffe.Expr]:
    """What `field(...)` is called with; nothing where there is no such call."""
    value = attribute.value
    if not isinstance(value, griffe.ExprCall) or value.canonical_path not in FIELDS:
        return {}
    keywords = [argument for argument in value.arguments if isinstance(argument, griffe.ExprKeyword)]
    return {argument.name: argument.value for argument in keywords}


def _parameter(attribute: griffe.Attribute) -> griffe.Parameter:
    options = _options(attribute)
    default = attribute.value
    if isinstance(default, griffe.ExprCall) and default.canonical_path in FIELDS:
        default = options.get("default")
        if "default_factory" in options:
            default = f"{options['default_factory']}()"
    keyword = str(options.get("kw_only")) == "True"
    kind = griffe.ParameterKind.keyword_only if keyword else griffe.ParameterKind.positional_or_keyword
    return griffe.Parameter(attribute.name, annotation=attribute.annotation, kind=kind, default=default)

"""The reference table of parameters, from the models that read them."""

from typing import Any, get_args

from pydantic.fields import FieldInfo

from app.api.parameters import SegmentParameters


def table() -> str:
    """Return every parameter of `POST /segment` with its values, default and meaning."""
    fields = dict(SegmentParameters.model_fields)
    fields = {"format": fields.pop("format"), **fields}
    rows = [
        f"| `{name}` | {_values(field)} | {_default(field)} | {_meaning(name, field)} |"
        for name, field in fields.items()
    ]
    return "\n".join(
        ["| parameter | values | default | meaning |", "| --- | --- | --- | --- |", *rows]
    )


def _values(field: FieldInfo) -> str:
    """Return the choices of a field, or its range."""
    choices = _choices(field.annotation)
    if choices:
        return " ".join(f"`{choice}`" for choice in choices)
    limits = [
        f"{sign} {getattr(limit, name):g}"
        for name, sign in {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}.items()
        for limit in field.metadata
        if hasattr(limit, name)
    ]
    return ", ".join(limits) or "text"


def _choices(annotation: Any) -> list[str]:
    """Return the strings of a Literal, which None may stand beside."""
    inner = get_args(annotation)
    if inner and all(isinstance(choice, str) for choice in inner):
        return list(inner)
    return [choice for kind in inner for choice in _choices(kind)]


def _default(field: FieldInfo) -> str:
    return "see meaning" if field.default is None else f"`{field.default}`"


def _meaning(name: str, field: FieldInfo) -> str:
    if name == "format":  # formats have a table of their own
        return "The result. Default: the format that `Accept` prefers, else `png`."
    return " ".join(str(field.description).split())

"""Mutants of a module: its source with one small mistake each, of the kinds that people make.

It stands alone because what counts as a mistake decides what a score is worth. Pure: source in, compiled mutants out. Left
alone is what cannot change what the program does: annotations, docstrings, imports, what only type checkers read, and the
wording of errors (sentences in `raise`; a reason is one word). Decorators too: they are few, and read at a glance.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from types import CodeType
from typing import Any, Final

OPERATORS: Final[dict[type[ast.AST], Any]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitAnd,
}
EXACT: Final = ast.Eq | ast.NotEq | ast.Is | ast.IsNot | ast.In | ast.NotIn       # exchanging one of these negates it
FUNCTIONS: Final = {"min": "max", "max": "min", "any": "all", "all": "any"}
STATEMENT: Final = re.compile(r"\b(?:SELECT|UPDATE|INSERT|DELETE)\b")   # a text of SQL; each place of it is mutated by itself
SQL: Final = tuple((re.compile(old), new) for old, new in (
    (r"\bAND\b", "OR"), (r"\bOR\b", "AND"), (r"<>", "="), (r"(?<![<>])=", "<>"), (r" < ", " <= "), (r" \+ ", " - "),
    (r" - ", " + "), (r"\bIS NULL", "IS NOT NULL"), (r"\bIS NOT NULL", "IS NULL"), (r"\bNOT EXISTS", "EXISTS"),
    (r"\bFOR UPDATE", ""), (r"\bgreatest\(", "least("), (r"\bON CONFLICT DO NOTHING", ""),
))


@dataclass(frozen=True, slots=True)
class Mutant:
    """`line` is the source line number `number`, without its indentation; `became` stands in the place of a part of it."""

    number: int
    line: str
    became: str
    code: CodeType


def mutants(source: str, filename: str) -> Iterator[Mutant]:
    """Every mutant of a module, compiled under `filename`. Those of one line that read the same are numbered: ` #2`."""
    tree = ast.parse(source)
    lines, times = source.splitlines(), dict[str, int]()
    for node, field, put in list(_places(tree)):
        for mistake in _mistakes(node, field):
            put(ast.fix_missing_locations(ast.copy_location(mistake, node)))
            code = compile(tree, filename, "exec", dont_inherit=True)
            put(node)
            line, became = lines[node.lineno - 1].strip(), " ".join(ast.unparse(mistake).split())
            times[line + became] = count = times.get(line + became, 0) + 1
            yield Mutant(node.lineno, line, became if count == 1 else f"{became} #{count}", code)


def _places(parent: ast.AST, *, wording: bool = False) -> Iterator[tuple[Any, str, Callable[[ast.AST], None]]]:
    """What may be mutated below `parent`: a statement or expression, the field it stands in, and what exchanges it."""
    wording = wording or isinstance(parent, ast.Raise)
    for field, value in ast.iter_fields(parent):
        if field in ("annotation", "returns", "decorator_list", "bases") or isinstance(parent, ast.alias):
            continue
        for at, item in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(item, ast.AST) and not _is_idle(item) and not (wording and _is_sentence(item)):
                if isinstance(item, ast.expr | ast.stmt | ast.excepthandler):
                    exchange = partial(value.__setitem__, at) if isinstance(value, list) else partial(setattr, parent, field)
                    yield item, field, exchange
                yield from _places(item, wording=wording)


def _is_idle(node: ast.AST) -> bool:
    match node:
        case ast.Import() | ast.ImportFrom() | ast.Expr(value=ast.Constant()):
            return True
        case ast.Subscript(value=ast.Name(id="Literal")) | ast.Call(func=ast.Name(id="TypeVar")):
            return True
        case ast.Assign(targets=[ast.Name(id="__slots__" | "__all__")]):
            return True
        case ast.Assign(value=ast.Subscript(value=ast.Name(id="Literal" | "tuple"))):     # another name of a type
            return True
    return False


def _is_sentence(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value)


def _mistakes(node: ast.AST, field: str) -> Iterator[Any]:
    """What could have been written in the place of `node`."""
    match node:
        case ast.Compare(left, ops, others):
            for at, op in enumerate(ops):
                yield ast.Compare(left, [*ops[:at], OPERATORS[type(op)](), *ops[at + 1 :]], others)
        case ast.BinOp(left, op, right) if type(op) in OPERATORS:   # "/" joins paths here
            yield ast.BinOp(left, OPERATORS[type(op)](), right)
        case ast.BoolOp(op, values):
            yield ast.BoolOp(OPERATORS[type(op)](), values)
        case ast.AugAssign(target, op, value):
            yield ast.AugAssign(target, OPERATORS[type(op)](), value)
        case ast.UnaryOp(_, operand):
            yield operand
        case ast.Constant(value):
            yield from map(ast.Constant, _other_values(value))
        case ast.Break():
            yield ast.Continue()
        case ast.Continue():
            yield ast.Break()
        case ast.Return(ast.expr() as value) if not _is_none(value):
            yield ast.Return(ast.Constant(None))
        case ast.Expr(ast.Call() | ast.Await()) | ast.Raise() | ast.Assign([ast.Attribute() | ast.Subscript()]):
            yield ast.Pass()
        case ast.Assign([ast.Name() as name], value) if not isinstance(value, ast.Constant):
            yield ast.Assign([name], ast.Constant(None))
        case ast.AnnAssign(target, annotation, ast.expr() as value, simple) if not isinstance(value, ast.Constant):
            yield ast.AnnAssign(target, annotation, ast.Constant(None), simple)
        case ast.Call(func, args, keywords):
            yield from (ast.Call(func, args, [other for other in keywords if other is not one]) for one in keywords)
            if isinstance(func, ast.Name) and func.id in FUNCTIONS:
                yield ast.Call(ast.Name(FUNCTIONS[func.id], ast.Load()), args, keywords)
            if isinstance(func, ast.Attribute) and func.attr == "suppress":
                yield from (ast.Call(func, [other for other in args if other is not one], keywords) for one in args)
        case ast.ExceptHandler(kind, name, body) if not isinstance(body[0], ast.Raise):
            yield ast.ExceptHandler(kind, name, [ast.Raise()])
            if isinstance(kind, ast.Tuple):
                for one in kind.elts:
                    yield ast.ExceptHandler(ast.Tuple([other for other in kind.elts if other is not one], ast.Load()), name, body)
    negated_above = isinstance(node, ast.UnaryOp) or (isinstance(node, ast.Compare) and isinstance(node.ops[0], EXACT))
    if field in ("test", "ifs") and isinstance(node, ast.expr) and not negated_above:
        yield ast.UnaryOp(ast.Not(), node)


def _other_values(value: object) -> Iterator[Any]:
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield value + 1
    elif isinstance(value, bytes):
        yield b"XX" + value
    elif isinstance(value, str) and STATEMENT.search(value):
        for old, new in SQL:
            yield from (value[: at.start()] + new + value[at.end() :] for at in old.finditer(value))
    elif isinstance(value, str):
        yield "XX" + value


def _is_none(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is None

"""Compile the stream file's derived features, and compute them from column arrays.

Input: an expression's text and the declared columns, then column arrays. Output: one float64 array.
This module never calls `eval`, never reads an attribute, and calls only the functions listed here.
"""

import ast
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from operator import itemgetter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from driftline.errors import DataError

Floats = NDArray[np.float64]
# A compiled part of an expression: a function that maps the columns, by name, to an array or a
# number.
Term = Callable[[Mapping[str, Any]], Any]

MAX_CHARACTERS: Final = 2000  # far more than any user needs; limits the parser's work


def _as_float(operation: Callable[..., Any]) -> Callable[..., Any]:
    """Make an operation return 1.0 for true and 0.0 for false, so that results can be added."""
    return lambda *operands: np.asarray(operation(*operands), dtype=np.float64)


def _round(values: Any, digits: float = 0.0) -> Any:
    return np.round(values, int(digits))


_OPERATORS: Final[dict[type, Callable[..., Any]]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.true_divide,
    ast.FloorDiv: np.floor_divide,
    ast.Mod: np.mod,
    ast.Pow: np.power,
    ast.USub: np.negative,
    ast.UAdd: np.positive,
    ast.Invert: _as_float(np.logical_not),
    ast.BitAnd: _as_float(np.logical_and),
    ast.BitOr: _as_float(np.logical_or),
    ast.Eq: _as_float(operator.eq),
    ast.NotEq: _as_float(operator.ne),
    ast.Lt: _as_float(np.less),
    ast.LtE: _as_float(np.less_equal),
    ast.Gt: _as_float(np.greater),
    ast.GtE: _as_float(np.greater_equal),
}
# Function name → implementation and allowed argument counts. The count must be checked, because
# NumPy treats an extra argument as the output array.
_FUNCTIONS: Final[dict[str, tuple[Callable[..., Any], tuple[int, ...]]]] = {
    "abs": (np.abs, (1,)),
    "ceil": (np.ceil, (1,)),
    "cos": (np.cos, (1,)),
    "exp": (np.exp, (1,)),
    "floor": (np.floor, (1,)),
    "log": (np.log, (1,)),
    "log1p": (np.log1p, (1,)),
    "maximum": (np.maximum, (2,)),
    "minimum": (np.minimum, (2,)),
    "round": (_round, (1, 2)),
    "sin": (np.sin, (1,)),
    "sqrt": (np.sqrt, (1,)),
    "where": (np.where, (3,)),
}
FUNCTIONS: Final = tuple(_FUNCTIONS)


class Expression:
    """An expression over named columns, compiled once.

    It may use arithmetic, comparisons, `&`, `|`, `~`, and the functions in `FUNCTIONS`. Write a
    column name in backticks if it is not a Python identifier. A category can be compared with a
    string using `==` or `!=`. If a number that the expression uses is missing in a record, the
    result is NaN.

    >>> double = Expression("2 * `petal width`", {"petal width": "number"})
    >>> double.evaluate({"petal width": np.array([0.5, 2.0])}, {})
    array([1., 4.])

    Raises DataError, whose message contains the expression and the problem.
    """

    def __init__(self, text: str, columns: Mapping[str, str]) -> None:
        self.text = text
        self._names, source = _quoted(text)
        if len(text) > MAX_CHARACTERS:
            raise self._error(f"is longer than {MAX_CHARACTERS} characters")
        try:
            body = ast.parse(source.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise self._error(f"is not an expression: {getattr(error, 'msg', error)}") from error
        self._kinds = columns
        self._used: dict[str, None] = {}
        try:
            self._value = self._compiled(body)
            if not self._used:
                raise self._error("uses no column")
            self._try_out()
        except RecursionError as error:
            raise self._error("is nested too deeply") from error

    def evaluate(
        self, numbers: Mapping[str, Floats], categories: Mapping[str, NDArray[np.object_]]
    ) -> Floats:
        """Return the expression's value for each record.

        `numbers` are float64 arrays (n,) with NaN for missing values, and `categories` are object
        arrays (n,). The result is float64 (n,), with NaN where a number that the expression uses is
        missing. It may contain infinities.
        """
        columns: dict[str, Any] = {**categories, **numbers}
        with np.errstate(all="ignore"):
            value = self._value(columns)
        length = len(columns[next(iter(self._used))])
        result = np.array(np.broadcast_to(np.asarray(value, dtype=np.float64), (length,)))
        for name in self._used:
            if self._kinds[name] == "number":
                result[np.isnan(numbers[name])] = np.nan
        return result

    def _error(self, problem: str, hint: str = "") -> DataError:
        shown = self.text if len(self.text) <= 80 else self.text[:77] + "..."
        return DataError(f"the expression {shown!r} {problem}", hint=hint)

    def _compiled(self, node: ast.expr) -> Term:
        """Return the function that computes a part of the expression.

        Raises DataError if the part uses an unknown column, operator or function.
        """
        match node:
            case ast.Constant(value=bool()) | ast.Constant(value=None):
                raise self._error(f"has {node.value!r} where a number was expected")
            case ast.Constant(value=int() | float() as number):
                # The check also rejects infinity, and integers that are too large for a float.
                if abs(number) > 1e300:
                    raise self._error("has a number above 1e300")
                # Convert to float, because integers could overflow or grow without limit.
                return _constant(float(number))
            case ast.Constant(value=str()):
                raise self._error("has text outside of a comparison with == or !=")
            case ast.Name():
                name = self._column(node)
                if self._kinds[name] != "number":
                    raise self._error(
                        f"uses the category {name!r} outside of a comparison with text"
                    )
                return itemgetter(name)
            case ast.Compare():
                return self._comparison(node)
            case ast.Call(func=ast.Name(id=function), keywords=[]):
                return self._call(function, node.args)
            case ast.BinOp():
                return self._operation(node.op, node.left, node.right)
            case ast.UnaryOp():
                return self._operation(node.op, node.operand)
            case ast.BoolOp():
                raise self._error("uses and/or", hint="write (a > 1) & (b > 2), or | for or")
        raise self._error(
            f"uses {type(node).__name__}, which is not allowed",
            hint="allowed: columns, numbers, + - * / // % **, & | ~, comparisons, "
            + ", ".join(FUNCTIONS),
        )

    def _operation(self, operator: ast.operator | ast.unaryop, *operands: ast.expr) -> Term:
        if type(operator) not in _OPERATORS:
            raise self._error(
                f"uses the operator {type(operator).__name__}",
                hint="write & | ~ for and, or, not" if isinstance(operator, ast.Not) else "",
            )
        return _applied(_OPERATORS[type(operator)], map(self._compiled, operands))

    def _call(self, name: str, arguments: list[ast.expr]) -> Term:
        if name not in _FUNCTIONS:
            raise self._error(f"calls {name!r}", hint=f"functions: {', '.join(FUNCTIONS)}")
        function, allowed = _FUNCTIONS[name]
        if len(arguments) not in allowed:
            counts = " or ".join(map(str, allowed))
            raise self._error(f"calls {name} with {len(arguments)} arguments, not {counts}")
        return _applied(function, map(self._compiled, arguments))

    def _comparison(self, node: ast.Compare) -> Term:
        if len(node.ops) > 1:
            raise self._error("chains comparisons", hint="write (a < b) & (b < c)")
        operation = _OPERATORS.get(type(node.ops[0]))
        if operation is None:
            raise self._error(f"uses the comparison {type(node.ops[0]).__name__}")
        sides = (node.left, node.comparators[0])
        texts: list[Term] = []
        categories: list[Term] = []
        for side in sides:
            match side:
                case ast.Constant(value=str() as text):
                    texts.append(_constant(text))
                case ast.Name() if self._kinds[name := self._column(side)] != "number":
                    categories.append(itemgetter(name))
        if not texts and not categories:
            return _applied(operation, map(self._compiled, sides))
        is_equality = isinstance(node.ops[0], ast.Eq | ast.NotEq)
        if (len(texts), len(categories)) != (1, 1) or not is_equality:
            raise self._error("compares text, which is allowed only with a category and == or !=")
        return _applied(operation, categories + texts)

    def _column(self, node: ast.Name) -> str:
        """Return a column's name, and record that the expression uses the column."""
        name = self._names.get(node.id, node.id)
        if name not in self._kinds:
            near = get_close_matches(name, self._kinds, n=1)
            known = ", ".join(self._kinds)
            raise self._error(
                f"uses {name!r}, which is not a declared feature",
                hint=f"did you mean {near[0]!r}?" if near else f"features: {known}",
            )
        self._used[name] = None
        return name

    def _try_out(self) -> None:
        """Evaluate the expression once, so that errors occur now, not on the first record."""
        numbers = {name: np.ones(2) for name in self._used if self._kinds[name] == "number"}
        texts = {
            name: np.array(["", None], dtype=object) for name in self._used if name not in numbers
        }
        try:
            self.evaluate(numbers, texts)
        except (TypeError, ValueError, OverflowError) as error:
            raise self._error(f"cannot be computed: {error}") from error


def _constant(value: float | str) -> Term:
    return lambda columns: value


def _applied(operation: Callable[..., Any], operands: Iterable[Term]) -> Term:
    terms = tuple(operands)
    return lambda columns: operation(*[term(columns) for term in terms])


def _quoted(text: str) -> tuple[dict[str, str], str]:
    """Replace each column name in backticks with an identifier.

    Return a mapping from identifiers to column names, and the new text.
    """
    names: dict[str, str] = {}

    def alias(found: re.Match[str]) -> str:
        name = f"column{len(names)}__"
        names[name] = found[1]
        return f" {name} "

    return names, re.sub(r"`([^`]+)`", alias, text)

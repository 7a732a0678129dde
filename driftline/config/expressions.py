"""Compute derived features: arithmetic over columns, checked at load and evaluated by simpleeval.

Input: the text and the declared columns, then arrays. Output: one float64 array. It never calls
`eval`, reads an attribute, or calls a function that is not listed here.
"""

import ast
import operator
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from simpleeval import SimpleEval

from driftline.errors import DataError

Floats = NDArray[np.float64]

MAX_CHARACTERS: Final = 2000  # far longer than users write; limits the work of the parser


def _as_float(operation: Callable[..., Any]) -> Callable[..., Any]:
    """Make an operation return 1.0 or 0.0 for true or false, so that results can be added."""
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
# Function → implementation and allowed numbers of arguments. They are checked here, because numpy
# uses an additional argument as the output array.
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
_CALLABLES: Final = {name: function for name, (function, _) in _FUNCTIONS.items()}


class Expression:
    """An expression over named columns, compiled once.

    It may use arithmetic, comparisons, `&`, `|`, `~`, and the functions in `FUNCTIONS`. Write a
    column name in backticks if it is not a Python identifier. A category can be compared with a
    string by `==` or `!=`. The result is missing (NaN) for records with a missing number in one of
    the columns.

    >>> double = Expression("2 * `petal width`", {"petal width": "number"})
    >>> double.evaluate({"petal width": np.array([0.5, 2.0])}, {})
    array([1., 4.])

    Raises DataError with the expression and what is wrong with it.
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
        self.columns: tuple[str, ...] = self._check(body, columns)
        self._numbers = tuple(name for name in self.columns if columns[name] == "number")
        self._node = ast.Expr(body)
        self._evaluator = SimpleEval(operators=_OPERATORS, functions=_CALLABLES, names={})
        self._try_out(columns)

    def evaluate(
        self, numbers: Mapping[str, Floats], categories: Mapping[str, NDArray[np.object_]]
    ) -> Floats:
        """Return the value for each record.

        `numbers` are float64 arrays (n,) with NaN for missing values, `categories` object arrays
        (n,). The result is float64 (n,), NaN if a number that the expression uses is missing. It
        may contain infinities.
        """
        known: dict[str, Any] = {**categories, **numbers}
        self._evaluator.names = {
            alias: known[name] for alias, name in self._names.items() if name in known
        }
        with np.errstate(all="ignore"):
            value = self._evaluator.eval(self.text, previously_parsed=self._node)
        length = len(known[self.columns[0]])
        result = np.array(np.broadcast_to(np.asarray(value, dtype=np.float64), (length,)))
        for name in self._numbers:
            result[np.isnan(numbers[name])] = np.nan
        return result

    def _error(self, problem: str, hint: str = "") -> DataError:
        shown = self.text if len(self.text) <= 80 else self.text[:77] + "..."
        return DataError(f"the expression {shown!r} {problem}", hint=hint)

    def _check(self, body: ast.expr, columns: Mapping[str, str]) -> tuple[str, ...]:
        """Return the columns that are used, and convert constants to floats.

        Raises DataError unless all columns, operators and functions are known.
        """
        used: dict[str, None] = {}
        compared: set[ast.AST] = set()  # operands of == and !=, where text is allowed
        callees: set[ast.AST] = set()  # names of functions, which are not columns
        for node in ast.walk(body):
            match node:
                case ast.Constant(value=bool()) | ast.Constant(value=None):
                    raise self._error(f"has {node.value!r} where a number was expected")
                case ast.Constant(value=int() | float() as number):
                    # Use floats, because whole numbers would overflow or grow without limit.
                    if abs(number) > 1e300:  # also infinity and integers too large for a float
                        raise self._error("has a number above 1e300")
                    node.value = float(number)
                case ast.Constant(value=str()):
                    if node not in compared:
                        raise self._error("has text outside of a comparison with == or !=")
                case ast.Name() if node in callees:
                    pass
                case ast.Name():
                    name = self._names.setdefault(node.id, node.id)
                    if name in columns:
                        used[name] = None
                        if columns[name] != "number" and node not in compared:
                            raise self._error(
                                f"uses the category {name!r} outside of a comparison with text"
                            )
                    else:
                        raise self._unknown(name, columns)
                case ast.Compare():
                    self._check_comparison(node, columns, compared)
                case ast.Call(func=ast.Name(id=function)) if not node.keywords:
                    if function not in _FUNCTIONS:
                        raise self._error(
                            f"calls {function!r}", hint=f"functions: {', '.join(FUNCTIONS)}"
                        )
                    if len(node.args) not in (allowed := _FUNCTIONS[function][1]):
                        counts = " or ".join(map(str, allowed))
                        raise self._error(
                            f"calls {function} with {len(node.args)} arguments, not {counts}"
                        )
                    callees.add(node.func)
                case ast.BinOp() | ast.UnaryOp():
                    if type(node.op) not in _OPERATORS:
                        raise self._error(
                            f"uses the operator {type(node.op).__name__}",
                            hint="write & | ~ for and, or, not" if _is_not(node) else "",
                        )
                case ast.BoolOp():
                    raise self._error("uses and/or", hint="write (a > 1) & (b > 2), or | for or")
                case ast.operator() | ast.unaryop() | ast.cmpop() | ast.expr_context():
                    pass
                case _:
                    raise self._error(
                        f"uses {type(node).__name__}, which is not allowed",
                        hint="allowed: columns, numbers, + - * / // % **, & | ~, comparisons, "
                        + ", ".join(FUNCTIONS),
                    )
        if not used:
            raise self._error("uses no column")
        return tuple(used)

    def _check_comparison(
        self, node: ast.Compare, columns: Mapping[str, str], compared: set[ast.AST]
    ) -> None:
        if len(node.ops) > 1:
            raise self._error("chains comparisons", hint="write (a < b) & (b < c)")
        if type(node.ops[0]) not in _OPERATORS:
            raise self._error(f"uses the comparison {type(node.ops[0]).__name__}")
        sides = (node.left, node.comparators[0])
        for side in sides:
            if isinstance(side, ast.Name):
                name = self._names.get(side.id, side.id)
                if name not in columns:  # report unknown columns before wrong kinds
                    raise self._unknown(name, columns)
        texts = sum(
            isinstance(side, ast.Constant) and isinstance(side.value, str) for side in sides
        )
        categories = sum(
            isinstance(side, ast.Name)
            and columns.get(self._names.get(side.id, side.id), "number") != "number"
            for side in sides
        )
        if (texts, categories) == (0, 0):
            return
        if (texts, categories) != (1, 1) or not isinstance(node.ops[0], ast.Eq | ast.NotEq):
            raise self._error("compares text with something other than a category by == or !=")
        compared.update(sides)

    def _unknown(self, name: str, columns: Mapping[str, str]) -> DataError:
        near = get_close_matches(name, columns, n=1)
        return self._error(
            f"uses {name!r}, which is not a declared feature",
            hint=f"did you mean {near[0]!r}?" if near else f"features: {', '.join(columns)}",
        )

    def _try_out(self, columns: Mapping[str, str]) -> None:
        """Evaluate the expression once, so that errors are found at load and not at a record."""
        ones = {name: np.ones(2) for name in self.columns if columns[name] == "number"}
        texts = {
            name: np.array(["", None], dtype=object)
            for name in self.columns
            if columns[name] != "number"
        }
        try:
            self.evaluate(ones, texts)
        except RecursionError as error:
            raise self._error("is nested too deeply") from error
        except (TypeError, ValueError, OverflowError) as error:
            raise self._error(f"cannot be computed: {error}") from error


def _is_not(node: ast.AST) -> bool:
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)


def _quoted(text: str) -> tuple[dict[str, str], str]:
    """Replace each `` `any name` `` with an identifier.

    Return the mapping from identifier to name, and the new text.
    """
    names: dict[str, str] = {}

    def alias(found: re.Match[str]) -> str:
        name = f"column{len(names)}__"
        names[name] = found[1]
        return f" {name} "

    return names, re.sub(r"`([^`]+)`", alias, text)

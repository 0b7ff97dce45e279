"""From the text of a query to its tree; every refusal names the place, and what would have been right there."""

from __future__ import annotations

from typing import NoReturn

from muster.core.errors import ARGUMENT_INVALID, ARGUMENT_NULL, HubError
from muster.core.query_limits import QUERY_CHARACTERS, QUERY_COLUMNS, QUERY_DEPTH, QUERY_GROUPS
from muster.twins.query.fields import UnknownFieldError, resolve
from muster.twins.query.functions import AGGREGATES, FUNCTIONS, function_named
from muster.twins.query.lexer import Kind, Token, shown, tokens_of, wrong
from muster.twins.query.syntax import (
    COMPARISONS,
    UNDEFINED,
    Array,
    Binary,
    Call,
    Expression,
    In,
    Item,
    Literal,
    Logical,
    Negative,
    Not,
    Path,
    Query,
    Scalar,
    Source,
    Steps,
    Undefined,
)

_CONSTANTS: dict[str, Scalar | Undefined] = {"UNDEFINED": UNDEFINED, "NULL": None, "TRUE": True, "FALSE": False}
_KEYWORDS = frozenset(("SELECT", "TOP", "FROM", "WHERE", "GROUP", "BY", "AS", "AND", "OR", "NOT", "IN", "NIN"))
_FOREIGN = frozenset(("JOIN", "ORDER", "DISTINCT", "HAVING", "BETWEEN", "LIKE", "LIMIT", "OFFSET", "UNION"))
"""Words of SQL that this language does not have: named, so that nobody looks for a typing error."""

_OR, _AND, _NOT, _COMPARE, _ADD, _MULTIPLY, _UNARY = range(1, 8)
"""How tightly operators bind. NOT stands above comparisons, as in SQL: ``NOT a = b`` means ``NOT (a = b)``."""
_BINDING = {
    "OR": _OR, "AND": _AND, "IN": _COMPARE, "NIN": _COMPARE, "+": _ADD, "-": _ADD, "*": _MULTIPLY, "/": _MULTIPLY,
    "%": _MULTIPLY, "<>": _COMPARE, **dict.fromkeys(COMPARISONS, _COMPARE),
}  # fmt: skip
_OPERAND = "a path, a constant, a function, NOT, '-' or '('"


def parse_query(text: str) -> Query:
    """The query that ``text`` is.

    Raises ``HubError``: 400005 when it is empty, 400004 when it is over 8,192 characters, is no query, is nested too
    deeply, or makes no sense (unknown field or function, aggregates where there can be none). Takes time and memory
    in proportion to the text.
    """
    if not text.strip():
        raise HubError(ARGUMENT_NULL, "query is missing, send SELECT ... FROM devices.")
    if len(text) > QUERY_CHARACTERS.open:
        raise HubError(
            ARGUMENT_INVALID,
            f"query has {len(text)} characters, {QUERY_CHARACTERS.open} are allowed. Ask in several queries.",
        )
    return _Parser(text).query()


def parse_path(text: str) -> Path:
    """The path of a twin that ``text`` is. Raises ``HubError`` 400004."""
    return _Parser(text).only_path()


def parse_condition(text: str) -> Expression:
    """What ``text`` says of a device, as behind WHERE. Raises ``HubError`` 400004."""
    if len(text) > QUERY_CHARACTERS.open:
        raise HubError(ARGUMENT_INVALID, f"A condition has up to {QUERY_CHARACTERS.open} characters.")
    return _Parser(text).only_condition()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = tokens_of(text)
        self._next = 0
        self._source = Source.DEVICES
        self._alias: str | None = None

    # --- clauses

    def query(self) -> Query:
        self._keyword("SELECT")
        listed = self._next
        self._find_source()
        end, self._next = self._next, listed
        top = self._top()
        items = self._items()
        if self._here.keyword != "FROM":
            self._unexpected("',' or FROM")
        self._next = end
        condition = None
        if self._here.keyword == "WHERE":
            self._next += 1
            condition = self._expression(0)
        groups: tuple[Path, ...] = ()
        if self._here.keyword == "GROUP":
            groups = self._groups()
        if self._here.kind is not Kind.END:
            rest = "the end of the query" if groups else "GROUP BY or the end of the query"
            before = "','" if groups else "WHERE" if condition is None else "an operator"
            self._unexpected(f"{before}{' or' if groups else ','} {rest}")
        query = Query(self._source, items, condition, groups, top)
        self._check(query, self._tokens[listed])
        return query

    def only_path(self) -> Path:
        path = self._path()
        if self._here.kind is not Kind.END:
            self._unexpected("'.' or the end of the path")
        return path

    def only_condition(self) -> Expression:
        condition = self._expression(0)
        if self._here.kind is not Kind.END:
            self._unexpected("an operator or the end of the condition")
        return condition

    def _find_source(self) -> None:
        """Read the FROM clause ahead: the paths before it are read by what it names."""
        before = self._tokens[self._next - 1]
        for position in range(self._next, len(self._tokens)):
            token = self._tokens[position]
            if token.keyword == "FROM" and before.text != "." and before.keyword != "AS":
                self._next = position + 1
                self._read_source()
                return
            before = token
        self._next = len(self._tokens) - 1
        self._unexpected("FROM devices or FROM devices.modules")

    def _read_source(self) -> None:
        first = self._here
        if first.kind is not Kind.NAME or first.keyword in _KEYWORDS:
            self._unexpected("devices, devices.modules or devices.jobs")
        names: list[str] = []
        while self._here.kind is Kind.NAME and (not names or self._tokens[self._next - 1].text == "."):
            names.append(self._take().text.lower())
            if self._here.text == ".":
                self._next += 1
        try:
            self._source = Source(".".join(names))
        except ValueError:
            why = f"expected devices, devices.modules or devices.jobs, found '{shown('.'.join(names))}'"
            raise wrong(self._text, first.at, why) from None
        if self._here.keyword == "AS":
            self._next += 1
            self._alias = self._name("a name for the source")
        elif self._here.kind is Kind.NAME and self._here.keyword not in _KEYWORDS | _FOREIGN:
            self._alias = self._take().text

    def _top(self) -> int | None:
        if self._here.keyword != "TOP" or self._tokens[self._next + 1].kind is not Kind.NUMBER:
            return None
        self._next += 1
        token = self._take()
        if not isinstance(token.value, int):
            self._wrong(token, f"expected a whole number, found {token}", syntax=True)
        return token.value

    def _items(self) -> tuple[Item, ...]:
        if self._here.text == "*":
            self._next += 1
            return ()
        items: list[Item] = []
        unnamed = 0
        while True:
            token = self._here
            path, aggregate = self._item()
            if self._here.keyword == "AS":
                self._next += 1
                name = self._name("a name for the column")
            elif path is not None and aggregate is None and isinstance(last := (path.field, *path.steps)[-1], str):
                name = last
            else:
                unnamed += 1
                name = f"${unnamed}"
            if any(item.name == name for item in items):
                self._wrong(token, f"two columns are called '{shown(name)}', give one of them another name with AS")
            items.append(Item(name, path, aggregate))
            if len(items) > QUERY_COLUMNS.open:
                self._wrong(token, f"a query has {QUERY_COLUMNS.open} columns at most")
            if self._here.text != ",":
                return tuple(items)
            self._next += 1

    def _item(self) -> tuple[Path | None, str | None]:
        token = self._here
        if token.kind is not Kind.NAME or token.keyword in _KEYWORDS | _FOREIGN:
            self._unexpected("'*', a path or an aggregate")
        if self._tokens[self._next + 1].text != "(":
            return self._path(), None
        name = token.keyword
        if name not in AGGREGATES:
            self._wrong(
                token, f"{shown(token.text)} is no aggregate, a column is a path or one of {', '.join(AGGREGATES)}"
            )
        self._next += 2
        path = None if name == "COUNT" else self._path()
        self._mark(")", "')', as COUNT takes no argument" if name == "COUNT" else "')'")
        return path, name

    def _groups(self) -> tuple[Path, ...]:
        self._next += 1
        self._keyword("BY")
        groups: dict[tuple[str, Steps], Path] = {}
        while True:
            first = self._here
            path = self._path()
            groups.setdefault((path.field, path.steps), path)
            if len(groups) > QUERY_GROUPS.open:
                self._wrong(first, f"GROUP BY takes {QUERY_GROUPS.open} paths at most")
            if self._here.text != ",":
                return tuple(groups.values())
            self._next += 1

    def _check(self, query: Query, listed: Token) -> None:
        """The rules that join clauses."""
        if query.source is Source.JOBS and (query.items or query.groups):
            self._wrong(listed, "devices.jobs takes SELECT * only")
        if query.groups and not query.items:
            self._wrong(listed, "with GROUP BY name the columns, '*' cannot be grouped")
        if not query.aggregates:
            return
        grouped = {(group.field, group.steps) for group in query.groups}
        for item in query.items:
            if item.aggregate is None and item.path is not None and (item.path.field, item.path.steps) not in grouped:
                self._wrong(item.path, f"the column '{shown(item.name)}' is neither an aggregate nor named in GROUP BY")

    # --- expressions

    def _expression(self, binding: int, nested: int = 0) -> Expression:
        """What follows, as far as operators bind more tightly than ``binding``."""
        if nested > QUERY_DEPTH.open:
            self._too_deep(self._here)
        left = self._operand(nested + 1)
        while True:
            token = self._here
            operator = token.text if token.kind is Kind.MARK else token.keyword
            strength = _BINDING.get(operator, 0)
            if strength <= binding:
                return left
            self._next += 1
            if operator in {"AND", "OR"}:
                left = self._logical(token, operator, strength, left, nested)
            elif operator in {"IN", "NIN"}:
                array = self._array(nested + 1)
                left = In(token.at, self._comparable(left), array, operator == "NIN", self._deep(token, left, array))
            else:
                right = self._expression(strength, nested + 1)
                operator = "!=" if operator == "<>" else operator
                self._comparable(left)
                self._comparable(right)
                left = Binary(token.at, operator, left, right, self._deep(token, left, right))

    def _logical(self, token: Token, operator: str, strength: int, left: Expression, nested: int) -> Logical:
        operands = [left, self._expression(strength, nested + 1)]
        while self._here.keyword == operator:
            self._next += 1
            operands.append(self._expression(strength, nested + 1))
        return Logical(token.at, operator, tuple(operands), self._deep(token, *operands))

    def _operand(self, nested: int) -> Expression:
        token = self._here
        if token.keyword == "NOT":
            self._next += 1
            operand = self._expression(_NOT, nested)
            return Not(token.at, operand, self._deep(token, operand))
        if token.text == "-" and token.kind is Kind.MARK:
            self._next += 1
            operand = self._expression(_UNARY, nested)
            return Negative(token.at, operand, self._deep(token, operand))
        if token.text == "(" and token.kind is Kind.MARK:
            self._next += 1
            inner = self._expression(0, nested)
            self._mark(")", "an operator or ')'")
            return inner
        if token.text == "[" and token.kind is Kind.MARK:
            return self._array(nested)
        if token.kind in {Kind.NUMBER, Kind.STRING} or token.keyword in _CONSTANTS:
            return self._literal()
        if token.kind is not Kind.NAME or token.keyword in _KEYWORDS:
            self._unexpected(_OPERAND)
        return self._call(nested) if self._tokens[self._next + 1].text == "(" else self._path()

    def _call(self, nested: int) -> Call:
        token = self._take()
        function = function_named(token.text)
        if function is None:
            if token.keyword in AGGREGATES:
                self._wrong(token, f"{token.keyword} is an aggregate, it stands only between SELECT and FROM")
            self._wrong(token, f"there is no function {shown(token.text)}; there are {', '.join(FUNCTIONS)}")
        self._next += 1
        arguments: list[Expression] = []
        while self._here.text != ")" or arguments:
            arguments.append(self._expression(0, nested))
            if self._here.text != ",":
                break
            self._next += 1
        self._mark(")", "an operator, ',' or ')'")
        _, least, most = function
        if len(arguments) < least or (most is not None and len(arguments) > most):
            count = str(least) if most == least else f"{least} or more" if most is None else f"{least} to {most}"
            self._wrong(token, f"{function.name} takes {count} argument{'s'[: count != '1']}, not {len(arguments)}")
        return Call(token.at, function.name, tuple(arguments), self._deep(token, *arguments))

    def _array(self, nested: int) -> Array:
        opening = self._here
        self._mark("[", "an array: '[' and constants")
        if nested > QUERY_DEPTH.open:
            self._too_deep(opening)
        items: list[Literal | Array] = []
        while True:
            items.append(self._array(nested + 1) if self._here.text == "[" else self._literal())
            if self._here.text != ",":
                break
            self._next += 1
        self._mark("]", "',' or ']'")
        return Array(opening.at, tuple(items), self._deep(opening, *items))

    def _literal(self) -> Literal:
        token, after = self._here, self._tokens[min(self._next + 1, len(self._tokens) - 1)]
        minus = token.kind is Kind.MARK and token.text == "-" and after.kind is Kind.NUMBER
        if not minus and token.kind not in {Kind.NUMBER, Kind.STRING} and token.keyword not in _CONSTANTS:
            self._unexpected("a constant")
        self._next += 2 if minus else 1
        if minus and isinstance(after.value, int | float):
            return Literal(token.at, -after.value)
        return Literal(token.at, _CONSTANTS.get(token.keyword, token.value))

    def _path(self) -> Path:
        first = self._here
        if first.kind is not Kind.NAME or first.keyword in _KEYWORDS:
            self._unexpected("a path")
        steps: list[str | int] = [self._take().text]
        while self._here.text in {".", "["} and self._here.kind is Kind.MARK:
            if self._take().text == ".":
                steps.append(self._name("a name"))
                continue
            token = self._take()
            if token.kind is not Kind.NUMBER or not isinstance(token.value, int):
                self._next -= 1
                self._unexpected("a position, which is a whole number")
            steps.append(token.value)
            self._mark("]", "']'")
        try:
            field, below = resolve(tuple(steps), self._source, self._alias)
        except UnknownFieldError as error:
            self._wrong(first, str(error))
        return Path(first.at, field, below)

    # --- tokens

    @property
    def _here(self) -> Token:
        return self._tokens[self._next]

    def _take(self) -> Token:
        """The token here; the end is never gone past."""
        token = self._here
        if token.kind is not Kind.END:
            self._next += 1
        return token

    def _keyword(self, keyword: str) -> None:
        if self._here.keyword != keyword:
            self._unexpected(keyword)
        self._next += 1

    def _mark(self, mark: str, expected: str) -> None:
        if self._here.text != mark or self._here.kind is not Kind.MARK:
            self._unexpected(expected)
        self._next += 1

    def _name(self, expected: str) -> str:
        if self._here.kind not in {Kind.NAME, Kind.ESCAPED}:
            self._unexpected(expected)
        return str(self._take().value)

    # --- refusals

    def _comparable(self, operand: Expression) -> Expression:
        if isinstance(operand, Array):
            why = "an array cannot be compared, use IN or ARRAY_CONTAINS"
            raise wrong(self._text, operand.at, why, syntax=False)
        return operand

    def _deep(self, token: Token, *below: Expression) -> int:
        depth = 1 + max((node.depth for node in below), default=0)
        if depth > QUERY_DEPTH.open:
            self._too_deep(token)
        return depth

    def _too_deep(self, token: Token) -> NoReturn:
        self._wrong(token, f"expressions are nested deeper than {QUERY_DEPTH.open} levels, write it flatter")

    def _wrong(self, place: Token | Path, why: str, *, syntax: bool = False) -> NoReturn:
        raise wrong(self._text, place.at, why, syntax=syntax)

    def _unexpected(self, expected: str) -> NoReturn:
        token = self._here
        hint = ""
        if token.keyword in _FOREIGN:
            hint = f"; this language has no {token.keyword}"
        elif token.keyword == "NOT" and self._tokens[min(self._next + 1, len(self._tokens) - 1)].keyword == "IN":
            hint = "; write NIN for NOT IN"
        elif token.text == "=" and self._tokens[self._next - 1].text == "=":
            hint = "; values are compared with a single ="
        raise wrong(self._text, token.at, f"expected {expected}, found {token}{hint}")

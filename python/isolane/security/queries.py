"""Whether a query can reach one user's rows only. Queries are read and refused, and never changed."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from isolane.security.crossings import checked, refused

OWNER_FIELDS = ("user_id", "owner_id")
"""Columns and keys that say whose a row is, unless others are given."""
OPERATOR = re.compile(r"(?!.*(?:--|/\*))[-+*/<>=~!@#%^&|?:]+")
"""Operators of an application's own are signs, as those of JSON and arrays are; a word could be ``OR``."""
TEXTS = ("_prefixes", "_suffixes", "_hints", "_statement_hints")
"""Where a part of a statement keeps text."""
MAX_ELEMENTS = 10_000
"""Parts of a statement that are looked at; a larger one is refused."""


class ForeignQueryError(PermissionError):
    """A query may reach rows of another user, or cannot be read well enough to know.

    Attributes:
        code: which rule it breaks, in one word.
    """

    status_code = 403

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class QueryBoundary:
    """Reads queries.

    A mapping (a filter of a document store, or the values of a row) must have an owner's key whose value is the user's
    id, and nothing in it may name another owner. Of a SQLAlchemy statement every ``SELECT``, ``UPDATE`` and ``DELETE``
    in it must compare the owner column of each of its tables with the user's id, as one of the conditions that all
    must hold; every row of an ``INSERT`` must carry it. Text cannot be read: a statement with text in it is refused.
    What a relationship loads later, or in a query of its own, is another query, and not looked at.

    Args:
        owner_fields: columns and keys that say whose a row is. Default: ``user_id`` and ``owner_id``.
        shared_tables: tables that are nobody's, and may be read. They may not be written.
    """

    def __init__(
        self, owner_fields: Iterable[str] = OWNER_FIELDS, shared_tables: Collection[str] = frozenset()
    ) -> None:
        self.owner_fields = tuple(owner_fields)
        self.shared_tables = frozenset(shared_tables)
        if not self.owner_fields:
            raise ValueError("owner_fields is empty: name the columns that say whose a row is")

    def check(self, query: Any, user_id: str) -> None:
        """Return if the query can reach rows of ``user_id`` only.

        Raises:
            ForeignQueryError: it may reach others, or cannot be read.
        """
        checked("data_access")
        try:
            self._check(query, user_id)
        except ForeignQueryError:
            refused("data_access")
            raise

    def _check(self, query: Any, user_id: str) -> None:
        if isinstance(query, Mapping):
            self._check_mapping(query, user_id)
        elif isinstance(query, str | bytes):
            raise ForeignQueryError(
                "text", "a query in text cannot be checked: build it with SQLAlchemy's expressions, or pass its filter"
            )
        elif type(query).__module__.partition(".")[0] == "sqlalchemy":
            try:
                self._check_statement(query, user_id)
            except (AttributeError, TypeError, KeyError) as error:
                # A statement of another version than this was written for: not knowing is no permission.
                raise ForeignQueryError(
                    "unreadable",
                    f"the statement cannot be read ({type(error).__name__}); see which versions are tested",
                ) from error
        else:
            self._check_object(query, user_id)

    # -- mappings and objects --------------------------------------------------------------------------------------

    def _check_mapping(self, query: Mapping[Any, Any], user_id: str) -> None:
        if not any(query.get(name) == user_id for name in self.owner_fields):
            raise ForeignQueryError("owner_missing", f"the filter needs one of {self._names()} with the user's own id")
        pending: list[Any] = [query]
        looked_at = 0
        while pending:
            value = pending.pop()
            looked_at += 1
            if looked_at > MAX_ELEMENTS:
                raise ForeignQueryError("too_large", f"the filter has more than {MAX_ELEMENTS} parts")
            if isinstance(value, Mapping):
                # An operator such as {"$ne": …} is another value than the id, and is refused with it.
                if any(name in value and value[name] != user_id for name in self.owner_fields):
                    raise ForeignQueryError("owner_foreign", f"one of {self._names()} is not the user's own id")
                pending.extend(value.values())
            elif isinstance(value, list | tuple | set | frozenset):
                pending.extend(value)

    def _check_object(self, query: Any, user_id: str) -> None:
        owners = [owner for name in self.owner_fields if isinstance(owner := getattr(query, name, None), str)]
        if not owners:
            raise ForeignQueryError(
                "unreadable",
                f"a query is a mapping, a SQLAlchemy statement, or an object with one of {self._names()}; "
                f"this is {type(query).__name__}",
            )
        if any(owner != user_id for owner in owners):
            raise ForeignQueryError("owner_foreign", f"one of {self._names()} is not the user's own id")

    # -- SQLAlchemy ------------------------------------------------------------------------------------------------

    def _check_statement(self, statement: Any, user_id: str) -> None:
        from sqlalchemy.sql import dml, elements, selectable, visitors  # noqa: PLC0415 - only who uses it has it

        known = (selectable.Select, selectable.CompoundSelect, dml.Insert, dml.Update, dml.Delete)
        if not isinstance(statement, known):
            raise ForeignQueryError(
                "unreadable", f"pass the SELECT, INSERT, UPDATE or DELETE itself; this is {type(statement).__name__}"
            )
        for count, element in enumerate(visitors.iterate(statement), 1):
            if count > MAX_ELEMENTS:
                raise ForeignQueryError("too_large", f"the statement has more than {MAX_ELEMENTS} parts")
            if (
                isinstance(element, elements.TextClause | selectable.TextualSelect)
                or (isinstance(element, elements.ColumnClause) and element.is_literal and element.name != "*")
                or _has_text(element)
            ):
                raise ForeignQueryError("text", "the statement has text in it, which cannot be checked")
            if isinstance(element, selectable.Select):
                self._check_select(element, user_id)
            elif isinstance(element, dml.Insert):
                self._check_insert(element, user_id)
            elif isinstance(element, dml.Update | dml.Delete):
                self._check_change(element, user_id)

    def _check_select(self, select: Any, user_id: str) -> None:
        conditions = list(_conditions(select.whereclause))
        for source in select.get_final_froms():
            for table in _tables(source):
                self._check_table(table, conditions, user_id, written=False)

    def _check_change(self, statement: Any, user_id: str) -> None:
        conditions = list(_conditions(statement.whereclause))
        self._check_table(statement.table, conditions, user_id, written=True)
        values = _values(statement)
        parts = [statement.whereclause, *values.values(), *(getattr(statement, "_returning", None) or ())]
        for source in {source for part in parts for source in getattr(part, "_from_objects", ())}:
            if not _same(source, statement.table):
                self._check_table(source, conditions, user_id, written=False)
        # What a change sets must not give the row to another user.
        for name, value in values.items():
            if name in self.owner_fields and _literal(value) != user_id:
                raise ForeignQueryError("owner_foreign", f"the statement sets {name} to another value than the user's")

    def _check_insert(self, insert: Any, user_id: str) -> None:
        self._owner_columns(insert.table, written=True)
        if insert.select is not None:
            raise ForeignQueryError("unreadable", "INSERT from SELECT is not checked: insert rows with their values")
        then = getattr(insert, "_post_values_clause", None)
        if then is not None and type(then).__name__ != "OnConflictDoNothing":
            raise ForeignQueryError(
                "unreadable", "an INSERT that changes a row which is there may change another user's"
            )
        rows = [_values(insert)] if not insert._multi_values else _rows(insert)  # noqa: SLF001 - it has no public name
        for row in rows:
            owners = [_literal(row[name]) for name in self.owner_fields if name in row]
            if not owners or any(owner != user_id for owner in owners):
                raise ForeignQueryError(
                    "owner_missing", f"each row needs one of {self._names()} with the user's own id"
                )

    def _check_table(self, table: Any, conditions: list[tuple[Any, Any]], user_id: str, *, written: bool) -> None:
        columns = self._owner_columns(table, written=written)
        if columns is None:
            return
        if not any(_same(column, own) and value == user_id for own in columns for column, value in conditions):
            raise ForeignQueryError(
                "owner_missing",
                f"add .where({table.name}.c.{columns[0].name} == user_id): each table of a statement needs it, as one "
                "of the conditions that all must hold",
            )

    def _owner_columns(self, table: Any, *, written: bool) -> list[Any] | None:
        """The columns that say whose a row is; none for a table that is nobody's, or for a query inside."""
        from sqlalchemy.sql import selectable  # noqa: PLC0415 - only who uses it has it

        base = table.element if isinstance(table, selectable.Alias) else table
        if not isinstance(base, selectable.TableClause):
            # Subqueries and CTEs are statements of their own, and checked as such.
            if isinstance(base, selectable.Subquery | selectable.CTE | selectable.Lateral | selectable.ScalarSelect):
                return None
            raise ForeignQueryError("unreadable", f"{type(base).__name__} is not a table that can be checked")
        columns = [table.c[name] for name in self.owner_fields if name in table.c]
        if columns:
            return columns
        if base.name in self.shared_tables and not written:
            return None
        raise ForeignQueryError(
            "owner_unknown",
            f"the table {base.name} has none of {self._names()}; name it in shared_tables if its rows are nobody's"
            + (", and write it elsewhere" if written else ""),
        )

    def _names(self) -> str:
        return ", ".join(self.owner_fields)


def _tables(source: Any) -> Iterator[Any]:
    from sqlalchemy.sql import selectable  # noqa: PLC0415 - only who uses it has it

    pending = [source]
    while pending:
        part = pending.pop()
        if isinstance(part, selectable.Join):
            pending += [part.left, part.right]
        elif isinstance(part, selectable.FromGrouping):
            pending.append(part.element)
        else:
            yield part


def _conditions(clause: Any) -> Iterator[tuple[Any, Any]]:
    """Yield column and value of each equality that must hold for the whole clause to hold."""
    from sqlalchemy.sql import elements, operators  # noqa: PLC0415 - only who uses it has it

    pending = [clause] if clause is not None else []
    while pending:
        part = pending.pop()
        if isinstance(part, elements.Grouping):
            pending.append(part.element)
        elif isinstance(part, elements.BooleanClauseList) and part.operator is operators.and_:
            pending += list(part.clauses)
        elif isinstance(part, elements.BinaryExpression) and part.operator is operators.eq:
            for column, value in ((part.left, part.right), (part.right, part.left)):
                if isinstance(value, elements.BindParameter) and not value.callable and not value.required:
                    yield column, value.value


def _has_text(element: Any) -> bool:
    """Whether text goes into the statement as it is: hints, prefixes and suffixes, and operators that are words."""
    from sqlalchemy.sql import operators  # noqa: PLC0415 - only who uses it has it

    used = (getattr(element, "operator", None), getattr(element, "modifier", None))
    is_word = any(isinstance(one, operators.custom_op) and not OPERATOR.fullmatch(one.opstring) for one in used)
    field = getattr(element, "field", None)
    if isinstance(field, str) and not field.isidentifier():
        # What is extracted of a time is written as it is.
        return True
    return is_word or any(getattr(element, name, None) for name in TEXTS)


def _same(one: Any, other: Any) -> bool:
    """Whether they are one element: what a mapped class hands out are copies with notes, which hash as the original."""
    return hash(one) == hash(other)


def _values(statement: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for given in (getattr(statement, "_values", None) or {}, dict(getattr(statement, "_ordered_values", None) or ())):
        values |= {getattr(column, "key", column): value for column, value in given.items()}
    return values


def _rows(insert: Any) -> list[dict[str, Any]]:
    return [
        {getattr(column, "key", column): value for column, value in row.items()}
        for rows in insert._multi_values  # noqa: SLF001 - no public name
        for row in rows
    ]


def _literal(value: Any) -> Any:
    return getattr(value, "value", None) if hasattr(value, "required") else value

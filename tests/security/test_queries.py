"""Queries that may leave one user's rows are refused, and what is permitted reaches nothing else on a real SQLite."""

from __future__ import annotations

from types import SimpleNamespace
from typing import ClassVar

import pytest

sa = pytest.importorskip("sqlalchemy")
from isolane.security.queries import ForeignQueryError, QueryBoundary  # noqa: E402
from sqlalchemy import orm  # noqa: E402
from sqlalchemy.dialects import sqlite  # noqa: E402

ANN = "ann-of-queries"
BOB = "bob-of-queries"


class Base(orm.DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "notes"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    user_id: orm.Mapped[str]
    text: orm.Mapped[str]


class Tag(Base):
    __tablename__ = "tags"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    owner_id: orm.Mapped[str]
    note_id: orm.Mapped[int]


class Model(Base):
    """Nobody's."""

    __tablename__ = "models"
    __mapper_args__: ClassVar = {}
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str]


N, T, M = Note.__table__, Tag.__table__, Model.__table__
OTHER = orm.aliased(Note)
OWN_NOTES = sa.select(N.c.id, N.c.text).where(N.c.user_id == ANN)

PERMITTED = {
    "core": sa.select(N).where(N.c.user_id == ANN),
    "mapped": sa.select(Note).where(Note.user_id == ANN, Note.text.like("%a%")),
    "turned round": sa.select(Note).where(sa.literal(ANN) == Note.user_id),
    "parts that are or": sa.select(Note).where(Note.user_id == ANN).where(sa.or_(Note.text == "a", Note.text == "b")),
    "joined": sa.select(Note, Tag).join(Tag, Tag.note_id == Note.id).where(Note.user_id == ANN, Tag.owner_id == ANN),
    "alias": sa.select(OTHER).where(OTHER.user_id == ANN),
    "inside": sa.select(OWN_NOTES.subquery().c.text),
    "cte": sa.select(OWN_NOTES.cte("own").c.text),
    "union": OWN_NOTES.union_all(OWN_NOTES),
    "shared": sa.select(Model, Note).join(Note, Note.id >= Model.id).where(Note.user_id == ANN),
    "count": sa.select(sa.func.count()).select_from(Note).where(Note.user_id == ANN),
    "an operator of signs": sa.select(Note).where(Note.user_id == ANN, Note.text.op("||")("n") == "of annn"),
    "no table": sa.select(sa.literal(1)),
    "in a set of own": sa.select(Tag).where(
        Tag.owner_id == ANN, Tag.note_id.in_(sa.select(N.c.id).where(N.c.user_id == ANN))
    ),
    "update": sa.update(Note).where(Note.user_id == ANN).values(text="new"),
    "delete": sa.delete(Note).where(Note.user_id == ANN),
    "insert": sa.insert(Note).values(id=90, user_id=ANN, text="n"),
    "insert rows": sa.insert(Note).values(
        [{"id": 91, "user_id": ANN, "text": "n"}, {"id": 92, "user_id": ANN, "text": "n"}]
    ),
    "or nothing": sqlite.insert(Note).values(id=1, user_id=ANN, text="n").on_conflict_do_nothing(),
}

REFUSED = {
    "everything": (sa.select(Note), "owner_missing"),
    "another user": (sa.select(Note).where(Note.user_id == BOB), "owner_missing"),
    "not equal": (sa.select(Note).where(Note.user_id != BOB), "owner_missing"),
    "or": (sa.select(Note).where(sa.or_(Note.user_id == ANN, Note.text == "x")), "owner_missing"),
    "not": (sa.select(Note).where(sa.not_(Note.user_id == ANN)), "owner_missing"),
    "not of both": (sa.select(Note).where(sa.not_(sa.and_(Note.user_id == ANN, Note.text == "x"))), "owner_missing"),
    "in": (sa.select(Note).where(Note.user_id.in_([ANN, BOB])), "owner_missing"),
    "like": (sa.select(Note).where(Note.user_id.like(ANN)), "owner_missing"),
    "half a join": (sa.select(Note, Tag).join(Tag, Tag.note_id == Note.id).where(Note.user_id == ANN), "owner_missing"),
    "only in the join": (sa.select(Note).join(Tag, sa.and_(Tag.owner_id == ANN, Note.user_id == ANN)), "owner_missing"),
    "another alias": (sa.select(OTHER).where(Note.user_id == ANN), "owner_missing"),
    "a cross product": (sa.select(Note, OTHER).where(Note.user_id == ANN), "owner_missing"),
    "inside": (sa.select(sa.select(N.c.text).subquery().c.text), "owner_missing"),
    "cte": (sa.select(sa.select(N.c.text).cte("all").c.text), "owner_missing"),
    "union": (OWN_NOTES.union_all(sa.select(N.c.id, N.c.text)), "owner_missing"),
    "a value from another": (
        sa.select(sa.select(sa.func.max(T.c.id)).scalar_subquery(), N.c.id).where(N.c.user_id == ANN),
        "owner_missing",
    ),
    "exists": (sa.select(Note).where(Note.user_id == ANN, sa.exists(sa.select(Tag.id))), "owner_missing"),
    "later": (sa.select(Note).where(Note.user_id == sa.bindparam("user")), "owner_missing"),
    "a call": (sa.select(Note).where(Note.user_id == sa.bindparam("u", callable_=lambda: ANN)), "owner_missing"),
    "operator in text": (sa.select(Note).where(Note.user_id == ANN, Note.id.op("=0 OR 1=", precedence=99)(1)), "text"),
    "operator out of its brackets": (sa.select(Note).where(Note.user_id == ANN, Note.id.op("=0) OR (1=")(1)), "text"),
    "a loose operator": (sa.select(Note).where(Note.user_id == ANN, Note.id.op("or", precedence=99)(1)), "text"),
    "prefix": (sa.select(Note).prefix_with("text FROM notes UNION SELECT").where(Note.user_id == ANN), "text"),
    "insert in the place of": (sa.insert(Note).prefix_with("OR REPLACE").values(id=2, user_id=ANN, text="x"), "text"),
    "suffix": (sa.select(Note).where(Note.user_id == ANN).suffix_with("OR 1=1"), "text"),
    "extract": (sa.select(Note).where(Note.user_id == ANN, sa.extract("year FROM x) OR (1", N.c.id) == 1), "text"),
    "text beside it": (sa.select(Note).where(Note.user_id == ANN, sa.text("1=1 OR 1=1")), "text"),
    "a column in text": (sa.select(sa.literal_column("(SELECT text FROM notes)")), "text"),
    "all text": (sa.text("SELECT * FROM notes"), "unreadable"),
    "text from": (sa.select(sa.text("*")).select_from(sa.text("notes")), "unreadable"),
    "unknown table": (sa.select(sa.table("other", sa.column("id"))), "owner_unknown"),
    "shared, written": (sa.update(Model).values(name="x"), "owner_unknown"),
    "update of all": (sa.update(Note).values(text="x"), "owner_missing"),
    "given away": (sa.update(Note).where(Note.user_id == ANN).values(user_id=BOB), "owner_foreign"),
    "update from": (
        sa.update(Note).where(Note.user_id == ANN, Note.id == Tag.note_id).values(text="x"),
        "owner_missing",
    ),
    "value from": (
        sa.update(Note).where(Note.user_id == ANN).values(text=sa.select(sa.func.max(T.c.id)).scalar_subquery()),
        "owner_missing",
    ),
    "delete of all": (sa.delete(Note), "owner_missing"),
    "insert for another": (sa.insert(Note).values(id=9, user_id=BOB, text="x"), "owner_missing"),
    "insert without owner": (sa.insert(Note).values(id=9, text="x"), "owner_missing"),
    "one row of another": (
        sa.insert(Note).values([{"id": 8, "user_id": ANN, "text": "x"}, {"id": 9, "user_id": BOB, "text": "x"}]),
        "owner_missing",
    ),
    "insert from": (sa.insert(Note).from_select(["id", "text"], OWN_NOTES), "unreadable"),
    "upsert": (
        sqlite.insert(Note).values(id=1, user_id=ANN, text="x").on_conflict_do_update(set_={"text": "x"}),
        "unreadable",
    ),
    "what comes last": (sa.select(Note).where(Note.user_id == ANN).suffix_with("OR 1=1"), "text"),
    "what comes first": (sa.select(Note).where(Note.user_id == ANN).prefix_with("text,"), "text"),
    "last in a cte": (
        sa.select(sa.select(N).where(N.c.user_id == ANN).cte("c").suffix_with("UNION SELECT * FROM notes").c.text),
        "text",
    ),
    "hint": (sa.select(Note).where(Note.user_id == ANN).with_hint(Note, "OR 1=1"), "text"),
    "hint behind all": (sa.select(Note).where(Note.user_id == ANN).with_statement_hint("OR 1=1"), "text"),
    "hint of a change": (sa.delete(Note).where(Note.user_id == ANN).with_hint("OR 1=1"), "text"),
    "operator": (
        sa.select(Note).where(Note.user_id == ANN, Note.text.op("OR", precedence=99, is_comparison=True)("a")),
        "text",
    ),
    "operator and comment": (sa.select(Note).where(Note.user_id == ANN, Note.text.bool_op("=--")("a")), "text"),
    "returned from another": (
        sa.update(Note).where(Note.user_id == ANN).values(text="x").returning(Tag.id),
        "owner_missing",
    ),
    "ddl": (sa.schema.DropTable(N), "unreadable"),
    "raw": ("SELECT * FROM notes WHERE user_id = 'ann'", "text"),
    "a function that reads": (sa.select(sa.func.json_each("[]").table_valued("value")), "unreadable"),
}

BOUNDARY = QueryBoundary(shared_tables={"models"})


@pytest.fixture
def session():
    engine = sa.create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with orm.Session(engine) as session:
        session.add_all(Note(id=at, user_id=(ANN, BOB)[at % 2], text=f"of {(ANN, BOB)[at % 2]}") for at in range(10))
        session.add_all(Tag(id=at, owner_id=(ANN, BOB)[at % 2], note_id=at) for at in range(10))
        session.add(Model(id=1, name="gpt"))
        session.commit()
        yield session
    engine.dispose()


@pytest.mark.parametrize("name", PERMITTED)
def test_what_is_permitted_reaches_own_rows_only(session, name) -> None:
    statement = PERMITTED[name]
    before = str(statement)
    BOUNDARY.check(statement, ANN)
    assert str(statement) == before
    foreign = sa.select(N).where(N.c.user_id == BOB)
    kept = session.execute(foreign).all()
    session.expire_all()
    result = session.execute(statement)
    if not isinstance(result, sa.CursorResult) or result.returns_rows:
        assert BOB not in repr([[getattr(value, "__dict__", value) for value in row] for row in result])
    assert session.execute(foreign).all() == kept


@pytest.mark.parametrize("name", REFUSED)
def test_what_may_reach_others_is_refused(name) -> None:
    statement, code = REFUSED[name]
    with pytest.raises(ForeignQueryError) as refused:
        BOUNDARY.check(statement, ANN)
    assert refused.value.code == code
    assert ANN not in str(refused.value)
    assert BOB not in str(refused.value)


@pytest.mark.parametrize(
    "query",
    [
        {"user_id": ANN},
        {"owner_id": ANN, "text": {"$gt": 1}},
        {"user_id": ANN, "$or": [{"text": 1}, {"user_id": ANN}]},
        SimpleNamespace(user_id=ANN),
    ],
)
def test_a_filter_that_names_its_user_is_permitted(query) -> None:
    BOUNDARY.check(query, ANN)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({}, "owner_missing"),
        ({"text": 1}, "owner_missing"),
        ({"user_id": BOB}, "owner_missing"),
        ({"user_id": {"$ne": BOB}}, "owner_missing"),
        ({"user_id": [ANN, BOB]}, "owner_missing"),
        ({"$or": [{"user_id": ANN}, {}]}, "owner_missing"),
        ({"user_id": ANN, "owner_id": BOB}, "owner_foreign"),
        ({"user_id": ANN, "$or": [{"user_id": BOB}]}, "owner_foreign"),
        ({"user_id": ANN, "x": [0] * 20_000}, "too_large"),
        (SimpleNamespace(user_id=BOB), "owner_foreign"),
        (SimpleNamespace(user_id=ANN, owner_id=BOB), "owner_foreign"),
        (SimpleNamespace(), "unreadable"),
        (7, "unreadable"),
        (b"SELECT 1", "text"),
    ],
)
def test_a_filter_that_does_not_is_refused(query, code) -> None:
    with pytest.raises(ForeignQueryError) as refused:
        BOUNDARY.check(query, ANN)
    assert refused.value.code == code


def test_a_filter_that_contains_itself_ends() -> None:
    query = {"user_id": ANN}
    query["self"] = query
    with pytest.raises(ForeignQueryError, match="parts"):
        BOUNDARY.check(query, ANN)


def test_a_boundary_without_owner_fields_is_refused() -> None:
    with pytest.raises(ValueError, match="owner_fields"):
        QueryBoundary(owner_fields=())

"""The declarative base: one naming convention, and Python annotations that mean exact PostgreSQL types."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any

from sqlalchemy import ARRAY, BigInteger, Date, DateTime, Double, Integer, MetaData, Numeric, SmallInteger, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase

from models.ticks import Ticks

NAMING_CONVENTION = {
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
}

Big = Annotated[int, "bigint"]
Small = Annotated[int, "smallint"]
Amount = Annotated[Decimal, "ticks: bigint"]
# Sums of ticks over a whole run, which need not fit a bigint: an integer number of ticks, not of units.
TickSum = Annotated[Decimal, "ticks: numeric(38,0)"]
Volume = Annotated[Decimal, "numeric"]
BigArray = Annotated[list[int], "bigint[]"]
IntArray = Annotated[list[int], "integer[]"]
TextArray = Annotated[list[str], "text[]"]
Json = Annotated[Any, "jsonb"]


class Base(DeclarativeBase):
    """All tables of Nightshift."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own declaration of this attribute is not a ClassVar
        str: Text(),
        int: Integer(),
        Big: BigInteger(),
        Small: SmallInteger(),
        float: Double(),
        date: Date(),
        datetime: DateTime(timezone=True),
        Amount: Ticks(),
        TickSum: Numeric(38, 0),
        Volume: Numeric(),
        BigArray: ARRAY(BigInteger()),
        IntArray: ARRAY(Integer()),
        TextArray: ARRAY(Text()),
        Json: JSONB(none_as_null=True),
    }


def one_of(column: str, values: tuple[str, ...]) -> str:
    """The SQL condition that `column` is one of `values`; of CHECK constraints and partial indexes."""
    return f"{column} IN ({', '.join(repr(value) for value in values)})"

"""What all tables share: metadata, naming convention, column types. No table is defined here."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from sqlalchemy import DateTime, MetaData, Text, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase, mapped_column

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Row(DeclarativeBase):
    """A row of any table. Rows never leave the session block that read them."""

    metadata = MetaData(naming_convention=NAMING)


Id = Annotated[UUID, mapped_column(postgresql.UUID(as_uuid=True), primary_key=True)]
Time = Annotated[datetime, mapped_column(DateTime(timezone=True))]
CreatedTime = Annotated[datetime, mapped_column(DateTime(timezone=True), server_default=text("now()"))]
String = Annotated[str, mapped_column(Text)]
